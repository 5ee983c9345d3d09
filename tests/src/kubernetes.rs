//! A real control plane (etcd, API server, controllers) and what tests of the operator do with it.

pub mod at_rest;
pub mod container;
pub mod control_plane;
pub mod helm;
pub mod hollow_kubelet;
pub mod namespaced;
pub mod operator;
pub mod owned;
pub mod pipelines;
pub mod space;
pub mod waits;
pub mod whole_cluster;
pub mod world;
