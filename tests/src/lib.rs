//! What the system and crash tests are made of: servers and processes that never outlive a test, proxies
//! that misbehave on command, traffic that remembers what was acknowledged, and the verdict that compares it
//! with the table.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "test code: a failed step is a failed test"
)]

pub mod child;
pub mod chosen;
pub mod front;
pub mod http;
pub mod kubernetes;
pub mod minio;
pub mod pipeline;
pub mod process;
pub mod proxy;
pub mod stage;
pub mod strace;
pub mod tools;
pub mod traffic;
pub mod verdict;
pub mod wait;
