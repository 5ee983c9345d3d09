//! The table's columns, defined once: the record's fields, the JSON names of a staged row, the DDL, the
//! Arrow schema and docs/columns.md follow from the list below.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};

/// One column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name in the table and in the JSON of a staged row.
    pub name: &'static str,
    pub kind: ColumnKind,
    /// ClickHouse's `CODEC(...)` arguments; empty: the server's default.
    pub codec: &'static str,
    /// One sentence for docs/columns.md and the column's COMMENT.
    pub doc: &'static str,
    /// The number of the migration that brought it.
    pub since: u16,
    /// Whether a staged row carries it. The others are the syncer's.
    pub staged: bool,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    Uuid,
    /// Nanoseconds since 1970, UTC.
    Nanos,
    /// Milliseconds since 1970, UTC.
    Ms,
    Severity,
    U8,
    U16,
    U32,
    U64,
    F64,
    Bool,
    /// Text with many different values.
    Text,
    /// Text with few different values.
    Label,
    TextList,
    /// Text by label, in the order in which it was sent.
    TextMap,
}

impl ColumnKind {
    #[must_use]
    pub fn clickhouse_type(self) -> &'static str {
        match self {
            Self::Uuid => "UUID",
            Self::Nanos => "DateTime64(9, 'UTC')",
            Self::Ms => "DateTime64(3, 'UTC')",
            Self::Severity => {
                "Enum8('unspecified' = 0, 'trace' = 1, 'debug' = 2, 'info' = 3, 'warn' = 4, 'error' = 5, 'fatal' = 6)"
            }
            Self::U8 => "UInt8",
            Self::U16 => "UInt16",
            Self::U32 => "UInt32",
            Self::U64 => "UInt64",
            Self::F64 => "Float64",
            Self::Bool => "Bool",
            Self::Text => "String",
            Self::Label => "LowCardinality(String)",
            Self::TextList => "Array(String)",
            Self::TextMap => "Map(LowCardinality(String), String)",
        }
    }

    /// The Arrow type that ClickHouse reads into [`Self::clickhouse_type`] without loss: a UUID as its 16
    /// bytes, a severity as its number, a label as plain text.
    #[must_use]
    pub fn arrow_type(self) -> DataType {
        match self {
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Nanos => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Self::Ms => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Self::Severity => DataType::Int8,
            Self::U8 => DataType::UInt8,
            Self::U16 => DataType::UInt16,
            Self::U32 => DataType::UInt32,
            Self::U64 => DataType::UInt64,
            Self::F64 => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Text | Self::Label => DataType::Utf8,
            Self::TextList => DataType::List(Arc::new(Field::new("item", DataType::Utf8, false))),
            Self::TextMap => {
                let entries = vec![
                    Field::new("keys", DataType::Utf8, false),
                    Field::new("values", DataType::Utf8, false),
                ];
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false)
            }
        }
    }
}

/// Calls `$with!` with every column that a staged row carries, in the table's order:
/// `name: Kind, presence, "codec", since, "doc";` where presence is `always` or `given` (left out of the
/// row when it is empty, zero or false).
macro_rules! for_each_column {
    ($with:ident) => {
        $with! {
            id: Uuid, always, "ZSTD(1)", 1, "UUIDv7 of the record, given at admission unless the producer sent one.";
            project_id: Label, always, "ZSTD(1)", 1, "Project the record belongs to; decides its tenant.";
            service: Label, always, "ZSTD(1)", 1, "Service that logged it.";
            timestamp: Nanos, always, "Delta(8), ZSTD(1)", 1, "When it happened, as the producer says.";
            observed_timestamp: Nanos, given, "Delta(8), ZSTD(1)", 1, "When a collector saw it (OpenTelemetry); 1970 when none did.";
            received_at: Ms, always, "Delta(8), ZSTD(1)", 1, "When Spillway admitted it.";
            severity: Severity, always, "ZSTD(1)", 1, "Severity; what no level name or number maps to is unspecified.";
            severity_number: U8, given, "ZSTD(1)", 1, "OpenTelemetry severity number, 1 to 24; 0 when not given.";
            severity_text: Label, given, "ZSTD(1)", 1, "Level as the producer wrote it.";
            environment: Label, given, "ZSTD(1)", 1, "Deployment environment.";
            host: Label, given, "ZSTD(1)", 1, "Host name.";
            instance: Label, given, "ZSTD(1)", 1, "Instance of the service.";
            message: Text, always, "ZSTD(1)", 1, "The message.";
            display_text: Text, given, "ZSTD(1)", 1, "The message as it is to be shown, where that differs.";
            body: Text, given, "ZSTD(1)", 1, "Structured body as JSON text.";
            trace_id: Text, given, "ZSTD(1)", 1, "Trace.";
            span_id: Text, given, "ZSTD(1)", 1, "Span.";
            parent_span_id: Text, given, "ZSTD(1)", 1, "Parent span.";
            subtrace_id: Text, given, "ZSTD(1)", 1, "Part of a trace (Aires).";
            session_id: Text, given, "ZSTD(1)", 1, "Session of a user.";
            user_id: Text, given, "ZSTD(1)", 1, "User.";
            agent_id: Text, given, "ZSTD(1)", 1, "Agent (Aires).";
            source_file: Label, given, "ZSTD(1)", 1, "Source file that logged it.";
            source_line: U32, given, "ZSTD(1)", 1, "Line in the source file.";
            source_function: Label, given, "ZSTD(1)", 1, "Function that logged it.";
            category: Label, given, "ZSTD(1)", 1, "Category (Aires).";
            kind: Label, given, "ZSTD(1)", 1, "Kind of event (Aires).";
            tags: TextList, given, "ZSTD(1)", 1, "Tags.";
            attributes: TextMap, given, "ZSTD(1)", 1, "Attributes of the record; nested values as JSON text.";
            data: TextMap, given, "ZSTD(1)", 1, "Structured data of the event (Aires).";
            related_type: TextList, given, "ZSTD(1)", 1, "Types of related objects; the four related_ arrays have one length.";
            related_id: TextList, given, "ZSTD(1)", 1, "Ids of related objects.";
            related_label: TextList, given, "ZSTD(1)", 1, "Labels of related objects.";
            related_url: TextList, given, "ZSTD(1)", 1, "Addresses of related objects.";
            http_method: Label, given, "ZSTD(1)", 1, "HTTP method.";
            http_url: Text, given, "ZSTD(1)", 1, "HTTP URL.";
            http_path: Text, given, "ZSTD(1)", 1, "HTTP path.";
            http_status_code: U16, given, "ZSTD(1)", 1, "HTTP status.";
            http_request_size: U64, given, "ZSTD(1)", 1, "HTTP request body in bytes.";
            http_response_size: U64, given, "ZSTD(1)", 1, "HTTP response body in bytes.";
            http_duration_ms: F64, given, "ZSTD(1)", 1, "HTTP duration in milliseconds.";
            http_user_agent: Text, given, "ZSTD(1)", 1, "HTTP user agent.";
            http_remote_addr: Text, given, "ZSTD(1)", 1, "Address of the HTTP client.";
            metric_name: Label, given, "ZSTD(1)", 1, "Name of the metric the event carries (Aires).";
            metric_value: F64, given, "ZSTD(1)", 1, "Value of the metric.";
            metric_unit: Label, given, "ZSTD(1)", 1, "Unit of the metric.";
            metric_type: Label, given, "ZSTD(1)", 1, "Type of the metric.";
            error_type: Label, given, "ZSTD(1)", 1, "Type of the error.";
            error_message: Text, given, "ZSTD(1)", 1, "Message of the error.";
            error_stack: Text, given, "ZSTD(1)", 1, "Stack trace.";
            error_handled: Bool, given, "ZSTD(1)", 1, "Whether the program handled the error.";
            resource_cluster: Label, given, "ZSTD(1)", 1, "Kubernetes cluster.";
            resource_namespace: Label, given, "ZSTD(1)", 1, "Kubernetes namespace.";
            resource_pod: Label, given, "ZSTD(1)", 1, "Kubernetes pod.";
            resource_container: Label, given, "ZSTD(1)", 1, "Container.";
            resource_node: Label, given, "ZSTD(1)", 1, "Kubernetes node.";
            resource_attributes: TextMap, given, "ZSTD(1)", 1, "Attributes of the resource (OpenTelemetry).";
            scope_name: Label, given, "ZSTD(1)", 1, "Instrumentation scope (OpenTelemetry).";
            scope_version: Label, given, "ZSTD(1)", 1, "Version of the scope.";
            scope_attributes: TextMap, given, "ZSTD(1)", 1, "Attributes of the scope.";
            flags: U32, given, "ZSTD(1)", 1, "Trace flags (OpenTelemetry).";
            sdk_name: Label, given, "ZSTD(1)", 1, "SDK that sent it.";
            sdk_version: Label, given, "ZSTD(1)", 1, "Version of the SDK.";
            sdk_language: Label, given, "ZSTD(1)", 1, "Language of the SDK.";
            retention_days: U16, always, "ZSTD(1)", 1, "Days the row is kept, from its tenant at admission; part of the partition key.";
            request_id: Text, given, "ZSTD(1)", 1, "Request that brought it: X-Request-Id, or one given at admission.";
        }
    };
}
pub(crate) use for_each_column;

macro_rules! table {
    ($($name:ident: $kind:ident, $presence:ident, $codec:literal, $since:literal, $doc:literal;)*) => {
        /// Every column, in the table's order.
        pub const COLUMNS: &[Column] = &[
            $(Column {
                name: stringify!($name),
                kind: ColumnKind::$kind,
                codec: $codec,
                doc: $doc,
                since: $since,
                staged: true,
            },)*
            Column {
                name: "batch_id",
                kind: ColumnKind::Label,
                codec: "ZSTD(1)",
                doc: "Batch that loaded the row; with batch_row it names the row.",
                since: 1,
                staged: false,
            },
            Column {
                name: "batch_row",
                kind: ColumnKind::U32,
                codec: "Delta(4), ZSTD(1)",
                doc: "Number of the row in its batch, from 0.",
                since: 1,
                staged: false,
            },
        ];
    };
}
for_each_column!(table);

/// The column of that name.
#[must_use]
pub fn column(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|c| c.name == name)
}

/// The text of docs/columns.md.
#[must_use]
pub fn reference_markdown() -> String {
    let mut text = String::from(
        "# Columns\n\n\
         Generated from `model/src/columns.rs`; a test compares the two. A staged row is one JSON object per \
         line with these names; empty values are left out. `batch_id` and `batch_row` are added when the row \
         is loaded.\n\n\
         | column | type | codec | since migration | meaning |\n|---|---|---|---|---|\n",
    );
    for c in COLUMNS {
        let _ = writeln!(
            text,
            "| `{}` | `{}` | `{}` | {} | {} |",
            c.name,
            c.kind.clickhouse_type(),
            c.codec,
            c.since,
            c.doc
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_used_twice() {
        for (i, c) in COLUMNS.iter().enumerate() {
            assert!(!COLUMNS[..i].iter().any(|d| d.name == c.name), "{}", c.name);
        }
    }

    #[test]
    fn the_reference_names_every_column_once() {
        let text = reference_markdown();
        for c in COLUMNS {
            assert_eq!(text.matches(&format!("| `{}` |", c.name)).count(), 1, "{}", c.name);
        }
    }

    #[test]
    fn only_the_batch_columns_are_left_to_the_syncer() {
        let late: Vec<_> = COLUMNS.iter().filter(|c| !c.staged).map(|c| c.name).collect();
        assert_eq!(late, ["batch_id", "batch_row"]);
    }
}
