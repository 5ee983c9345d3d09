//! What the tests on a real cluster are made of: the installed chart, a namespace for each test with a MinIO and a
//! ClickHouse of its own, traffic from pods with its verdict, and hands that reach the nodes' processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "test code: a failed step is a failed test"
)]

pub mod artefacts;
pub mod case;
pub mod cluster;
pub mod disruption;
pub mod doors;
pub mod faults;
pub mod forward;
pub mod metrics;
pub mod nodes;
pub mod pods;
pub mod space;
pub mod traffic;
pub mod undo;
pub mod watched;
