//! Leadership by a Kubernetes Lease, with the semantics of client-go.
//!
//! Several processes want to do something that only one may do. Each tries to write its name into one Lease; the
//! API server's compare-and-swap (the resourceVersion, sent with every write) lets one succeed. The holder writes
//! again every `retry_period`. Who sees the same record for as long as the record says it lasts may take it.
//!
//! **What is promised.** The holder counts from the moment before it *sent* the last write that succeeded, and
//! gives up `renew_deadline` after it, whatever the API server does. The others count from the moment at which
//! they *saw* that write, for the longer `lease_duration`. Both use their own monotonic clock and nothing that
//! another machine's clock said. So two of them work at once only if
//! - a process is paused (SIGSTOP, a frozen machine) and was about to do something: it notices before anything
//!   else that the lease knows of is done, but what a task had already begun may still go out;
//! - clocks run at rates that differ by a fifth;
//! - somebody empties its holder by hand, or deletes the Lease just when a process starts that never saw it: who
//!   knew it leaves a new one alone for as long as the old one's holder may not have noticed.
//!
//! What must hold even then needs a fence of its own: for the syncer the manifest's epoch, for the operator
//! server-side apply of the same objects.
//!
//! [`step`] decides, without a clock and without a connection; [`Elector`] acts.

mod client;
mod config;
mod elector;
mod failure;
mod observed;
mod record;
#[cfg(test)]
mod sim;
mod step;

pub use client::{ConnectError, connect};
pub use config::{Config, ConfigError, Identity};
pub use elector::Elector;
pub use failure::Failure;
pub use observed::Observed;
pub use step::{Decision, Loss, step};

pub use kube::Client;
