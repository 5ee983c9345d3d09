//! Ingest over real sockets: inside the test over a bucket that fails as it is told, and as the program it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

mod answers;
#[path = "../../../tests/src/child.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the system tests")]
mod child;
mod common;
mod connections;
mod faults;
mod malformed;
mod process;
mod tls;
