//! Loads staged objects into ClickHouse, each row exactly once.
//!
//! [`core`] and [`flight`] decide: they are pure state machines, tried in every interleaving. [`runner`]
//! and [`work`] act.

pub mod admin;
pub mod batch;
pub mod core;
pub mod dead;
pub mod encode;
mod failpoint;
pub mod flight;
mod holder;
pub mod limits;
pub mod loaded;
pub mod manifest;
pub mod metrics;
pub mod plan;
pub mod rebuild;
pub mod runner;
#[cfg(test)]
mod sim;
pub mod standby;
pub mod status;
pub mod transcode;
pub mod walk;
pub mod work;

pub use rebuild::{RebuildError, Rebuilt, rebuild};
pub use runner::{SyncerError, initialise, quiet_after, run};
