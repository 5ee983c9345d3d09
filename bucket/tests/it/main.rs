//! A bucket of the real kinds: a MinIO, and a directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

mod access;
mod common;
mod configure;
mod contract;
mod empty;
