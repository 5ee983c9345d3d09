//! Statements as they are written, and what the real ClickHouse engine makes of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

mod drop;
mod engine;
mod golden;
mod ledger;
mod migrations;
mod preflight;
mod views;
