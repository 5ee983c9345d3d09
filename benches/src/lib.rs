//! Benchmarks. Every figure stands beside a limit that is measured in the same run on the same machine, so
//! that the ratio means something elsewhere too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "a benchmark that cannot run its steps has nothing to report"
)]

pub mod cpu;
pub mod encodings;
pub mod generator;
pub mod ingest;
pub mod latency;
pub mod limit;
pub mod load;
pub mod memory;
pub mod operator;
pub mod report;
pub mod setup;
pub mod syncer;
