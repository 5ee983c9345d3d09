//! The `LogPipeline` object: what a user writes, what it means once it has been checked, and the settings that
//! ingest and syncer get from it. Pure: no client, no file, no clock. `spillway up` and the operator share it.

// The KubeSchema derive puts a copy of each struct into a scope of its own.
#![allow(unreachable_pub)]

pub mod clickhouse;
mod crd;
mod embedded;
pub mod ingest;
pub mod monitoring;
pub mod pipeline;
pub mod pods;
pub mod reference;
pub mod schema;
pub mod secrets;
pub mod settings;
pub mod status;
pub mod storage;
pub mod syncer;
pub mod tenants;
pub mod units;
pub mod validate;

pub use crd::crd;
pub use pipeline::{DeletionPolicy, LogPipeline, LogPipelineSpec};
pub use secrets::Secrets;
pub use validate::{FieldError, Problem, ValidatedPipeline, validate};
