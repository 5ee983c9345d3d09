//! The parts together: real processes, a real MinIO, the real ClickHouse engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

mod clickhouse_facts;
mod dead_letters;
mod end_to_end;
mod faulty_s3;
mod killed_at_rename;
mod odd_objects;
mod one_machine;
mod restarts;
mod strict_verdict;
