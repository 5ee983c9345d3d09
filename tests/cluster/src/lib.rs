//! A real cluster on one machine: two nodes, each in a network namespace of its own, with etcd, API server,
//! controllers, scheduler, kubelets, kube-proxies, containerd, CoreDNS and metrics-server.
//!
//! Nothing of it exists on the host's network: pods and Services have their addresses inside the namespaces, and
//! whoever wants to talk to them enters the first one ([`net::enter`]). What runs is written down in the state
//! folder before anything else, so that [`down`] cleans up after a crash as well.

#[path = "../../src/tools.rs"]
#[allow(unreachable_pub, reason = "shared with the system tests")]
mod built;

pub mod addons;
pub mod cgroup;
pub mod control_plane;
pub mod disks;
pub mod image;
pub mod images;
pub mod keeper;
pub mod keys;
pub mod layer;
pub mod libraries;
pub mod lock;
pub mod net;
pub mod node;
pub mod owner;
pub mod policy;
pub mod record;
pub mod seed;
pub mod state;
pub mod store;
pub mod tools;
pub mod with;

mod down;
mod up;

pub use down::down;
pub use state::State;
pub use up::{up, wait_until_ready};
