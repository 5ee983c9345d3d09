//! Loads staged objects into ClickHouse, each row exactly once.
//!
//! [`core`] and [`flight`] decide: they are pure state machines. [`runner`] acts.

pub mod batch;
pub mod core;
pub mod flight;
pub mod limits;
pub mod manifest;
pub mod plan;
#[cfg(test)]
mod sim;
pub mod walk;
