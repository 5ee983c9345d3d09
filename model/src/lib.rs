//! What ingest, syncer and operator share: the log record and the columns of its table, the names that
//! may become part of an object's key, the staged objects themselves, and the settings files.
//!
//! Nothing here does I/O.

mod cell;
pub mod codec;
pub mod columns;
mod cursor;
pub mod name;
pub mod object;
pub mod record;
pub mod row;
pub mod settings;
pub mod time;
pub mod visit;

pub use codec::{CodecError, FormatVersion};
pub use columns::{COLUMNS, Column, ColumnKind};
pub use name::{NameError, ProjectId, ServiceName, TenantName};
pub use object::{Home, Incarnation, KeyError, ObjectKey};
pub use record::{Record, Severity};
pub use row::{RowError, read_row, write_row};
pub use time::{Day, TimeError, UnixMs, UnixNanos};
