//! The program as users run it, and what lies in the repository beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

mod commands;
mod render;
mod repository;
mod up;
