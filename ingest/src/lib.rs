//! Receives logs over HTTP, decides what is taken, buffers it per stream and stages it in the bucket.
//!
//! A request's way: `http` reads its header and body, [`drain_json`] reads its records, [`admit`]
//! decides about each and writes rows, [`intake`] takes the rows into the buffers, the stager writes them to
//! the bucket as `flush` decides, and only then is a durable request answered.

mod ack;
mod admin;
pub mod admit;
mod age;
mod answer;
pub mod body;
mod books;
mod buffers;
mod drain;
pub mod drain_json;
mod failing;
pub mod flush;
mod http;
pub mod intake;
pub mod limits;
mod metrics;
mod nesting;
pub mod process;
pub mod queue;
pub mod refusal;
pub mod retry;
mod serve;
mod server;
pub mod settings;
mod stage;
pub mod store;
pub mod tenants;
mod tls;

pub use buffers::LeftOver;
pub use serve::{DrainReport, IngestError, Listeners, Shutdown, serve, serve_into};
pub use tenants::{TenantsSource, key_digest};
pub use tls::CertificateError;
