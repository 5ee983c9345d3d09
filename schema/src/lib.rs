//! The ClickHouse side: a client whose answers can be trusted, the schema and its migrations, what a server
//! can do, and the statements with which the syncer inserts batches and asks after them.
//!
//! ```no_run
//! use spillway_model::settings::ClickHouseSettings;
//! use spillway_schema::{ClickHouse, SchemaSpec, apply};
//!
//! # async fn set_up(settings: &ClickHouseSettings) -> Result<(), Box<dyn std::error::Error>> {
//! let client = ClickHouse::connect(settings)?;
//! let applied = apply(&client, &SchemaSpec::from_settings(settings)).await?;
//! for step in &applied.steps {
//!     tracing::info!("{}", step.what);
//! }
//! # Ok(())
//! # }
//! ```

pub mod client;
mod credentials;
pub mod data_errors;
pub mod ddl;
pub mod drop;
mod error;
pub mod existing;
pub mod ledger;
pub mod migrations;
pub mod preflight;
pub mod spec;
pub mod sql;
pub mod version;
pub mod views;

pub use client::{ClickHouse, Settings};
pub use credentials::Login;
pub use data_errors::{DATA_ERRORS, is_data_error};
pub use drop::{Dropped, drop_all};
pub use error::ClickHouseError;
pub use ledger::DayRange;
pub use migrations::{Applied, SchemaError, apply};
pub use preflight::Server;
pub use spec::{SchemaSpec, Topology};
pub use version::Version;
pub use views::{Partition, View};
