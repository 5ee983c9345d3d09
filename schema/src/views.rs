//! The aggregated views and how they stay right.
//!
//! Each view is three objects: a *target* table that the server fills through a materialized view as
//! records are inserted, and a plain view that users read. A target row is keyed by its group **and by the
//! batch** it came from, and carries a version: what the materialized view writes has version 0. A batch
//! whose contribution is in doubt (its insert was replayed, or the server died between the table's part and
//! the view's) is repaired by one `INSERT ... SELECT` of that batch from the table under a higher version,
//! which replaces whatever is there and is harmless when repeated. Nothing has to know how often a view was
//! fed.
//!
//! The targets have the table's partitions and TTL, so that what expires there expires here. Expressions
//! cannot throw: a failing view would fail the insert after its rows are in the table (ClickHouse#2765).

use crate::ddl::{ColumnDef, CreateTable, Engine, on_cluster, table_settings};
use crate::spec::{SchemaSpec, Topology};
use crate::sql::{Qualified, literal, literals};
use crate::version::{SAFE_REPLACE_PARTITION, Version};

use crate::ledger::DayRange;

/// Percentiles that the latency view offers.
///
/// BFloat16 quantiles rather than t-digests: counting values rounded to 8 bits of mantissa (0.4 % off) gives
/// the same answer however parts are merged, so view and table can be compared for equality.
const QUANTILES: &str = "quantilesBFloat16(0.5, 0.9, 0.95, 0.99)";

/// One of the views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// `<table>_error_rate`: records and errors per project, service and minute.
    ErrorRate,
    /// `<table>_http_latency`: requests and percentiles per project, service, method, path and minute.
    HttpLatency,
    /// `<table>_tenant_volume`: records and bytes of text per project and minute.
    TenantVolume,
}

/// A column of a target beyond its key: what a batch contributes, and how contributions add up.
struct Measure {
    name: &'static str,
    kind: String,
    /// From the table's rows.
    of_rows: String,
    /// From the target's rows, giving the same kind again.
    of_batches: String,
    /// Columns of the user's view that are made of it.
    shown: String,
}

/// Bytes of text that a producer sent with a record. Lengths of columns cost next to nothing where the
/// columns are empty, and the sum can't throw.
const TEXT_BYTES: &str = "length(message) + length(display_text) + length(body) + length(http_url) \
     + length(error_message) + length(error_stack) + arraySum(arrayMap(t -> length(t), tags)) \
     + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(attributes), mapValues(attributes))) \
     + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(data), mapValues(data))) \
     + arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(resource_attributes), mapValues(resource_attributes)))";

impl View {
    /// Every view there is.
    pub const ALL: [Self; 3] = [Self::ErrorRate, Self::HttpLatency, Self::TenantVolume];

    /// The views that a schema keeps.
    pub fn of(spec: &SchemaSpec) -> impl Iterator<Item = Self> + use<> {
        let views = spec.views;
        Self::ALL.into_iter().filter(move |view| match view {
            Self::ErrorRate => views.error_rate,
            Self::HttpLatency => views.http_latency,
            Self::TenantVolume => views.tenant_volume,
        })
    }

    /// What is appended to the table's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::HttpLatency => "http_latency",
            Self::TenantVolume => "tenant_volume",
        }
    }

    /// The plain view that users read.
    #[must_use]
    pub fn view(self, spec: &SchemaSpec) -> Qualified {
        spec.name(&format!("{}_{}", spec.table, self.suffix()))
    }

    /// The target's name on each server.
    #[must_use]
    pub fn target(self, spec: &SchemaSpec) -> Qualified {
        spec.local(&self.target_name(spec))
    }

    /// The materialized view that feeds the target.
    #[must_use]
    pub fn feed(self, spec: &SchemaSpec) -> Qualified {
        spec.name(&format!("{}_{}_feed", spec.table, self.suffix()))
    }

    /// The table beside the target in which old days are folded.
    #[must_use]
    pub fn shadow(self, spec: &SchemaSpec) -> Qualified {
        spec.name(&format!("{}_fold", self.target(spec).name))
    }

    fn target_name(self, spec: &SchemaSpec) -> String {
        format!("{}_{}_batches", spec.table, self.suffix())
    }

    /// What the user's view groups by, in the order of the target's key.
    fn group(self) -> &'static [(&'static str, &'static str, &'static str)] {
        const PROJECT: (&str, &str, &str) = ("project_id", "LowCardinality(String)", "project_id");
        const SERVICE: (&str, &str, &str) = ("service", "LowCardinality(String)", "service");
        const MINUTE: (&str, &str, &str) = ("minute", "DateTime('UTC')", "toStartOfMinute(timestamp)");
        match self {
            Self::ErrorRate => &[PROJECT, SERVICE, MINUTE],
            Self::HttpLatency => &[
                PROJECT,
                SERVICE,
                ("http_method", "LowCardinality(String)", "http_method"),
                ("http_path", "String", "http_path"),
                MINUTE,
            ],
            Self::TenantVolume => &[PROJECT, MINUTE],
        }
    }

    fn measures(self) -> Vec<Measure> {
        let sum = |name: &'static str, of_rows: &str| Measure {
            name,
            kind: "UInt64".to_owned(),
            of_rows: of_rows.to_owned(),
            of_batches: format!("sum({name})"),
            shown: format!("sum(batch.{name}) AS {name}"),
        };
        match self {
            Self::ErrorRate => {
                let mut errors = sum("errors", "countIf(severity IN ('error', 'fatal'))");
                errors.shown.push_str(", sum(batch.errors) / sum(batch.records) AS error_rate");
                vec![sum("records", "count()"), errors]
            }
            Self::HttpLatency => {
                let merged = QUANTILES.replacen("quantilesBFloat16", "quantilesBFloat16Merge", 1);
                let parts: Vec<String> = ["p50", "p90", "p95", "p99"]
                    .iter()
                    .enumerate()
                    .map(|(i, p)| format!("{merged}(batch.duration_ms)[{}] AS {p}_ms", i + 1))
                    .collect();
                vec![
                    sum("requests", "count()"),
                    sum("server_errors", "countIf(http_status_code >= 500)"),
                    Measure {
                        name: "duration_ms",
                        kind: format!("AggregateFunction({QUANTILES}, Float64)"),
                        of_rows: format!(
                            "{}(http_duration_ms)",
                            QUANTILES.replacen("quantilesBFloat16", "quantilesBFloat16State", 1)
                        ),
                        of_batches: format!(
                            "{}(duration_ms)",
                            QUANTILES.replacen("quantilesBFloat16", "quantilesBFloat16MergeState", 1)
                        ),
                        shown: parts.join(", "),
                    },
                ]
            }
            Self::TenantVolume => {
                vec![sum("records", "count()"), sum("bytes", &format!("sum({TEXT_BYTES})"))]
            }
        }
    }

    /// Rows of the table that count.
    fn condition(self) -> Option<&'static str> {
        match self {
            Self::HttpLatency => Some("http_duration_ms > 0"),
            Self::ErrorRate | Self::TenantVolume => None,
        }
    }

    /// The target table.
    #[must_use]
    pub fn target_table(self, spec: &SchemaSpec) -> CreateTable {
        self.table_named(spec, self.target(spec))
    }

    fn table_named(self, spec: &SchemaSpec, name: Qualified) -> CreateTable {
        let group = self.group();
        let mut columns: Vec<ColumnDef> =
            group.iter().map(|(name, kind, _)| ColumnDef::plain(*name, *kind)).collect();
        columns.push(ColumnDef::plain("retention_days", "UInt16"));
        columns.push(ColumnDef::plain("batch_id", "LowCardinality(String)"));
        columns.extend(self.measures().into_iter().map(|m| ColumnDef::plain(m.name, m.kind)));
        columns.push(ColumnDef::plain("version", "UInt64"));
        let key: Vec<&str> = group.iter().map(|(name, ..)| *name).collect();
        CreateTable {
            name,
            cluster: spec.cluster().map(str::to_owned),
            columns,
            indexes: Vec::new(),
            engine: Engine::Replacing,
            partition_by: Some("(toDate(minute), retention_days)".to_owned()),
            // Key columns decide the partition, so that rows of one key are always found together.
            order_by: format!("({}, retention_days, batch_id)", key.join(", ")),
            ttl: Some("toDate(minute) + toIntervalDay(retention_days)".to_owned()),
            settings: table_settings(spec),
        }
    }

    fn column_list(self) -> String {
        let mut names: Vec<&str> = self.group().iter().map(|(name, ..)| *name).collect();
        names.extend(["retention_days", "batch_id"]);
        names.extend(self.measures().iter().map(|m| m.name));
        names.push("version");
        names.join(", ")
    }

    /// `SELECT` of what the rows of `table` contribute, per batch, in the target's column order.
    fn contribution(self, table: &Qualified, version: u64, also: &str) -> String {
        let mut select: Vec<String> = self
            .group()
            .iter()
            .map(|(name, _, of)| if name == of { (*name).to_owned() } else { format!("{of} AS {name}") })
            .collect();
        let group: Vec<&str> = self.group().iter().map(|(name, ..)| *name).collect();
        select.extend(["retention_days".to_owned(), "batch_id".to_owned()]);
        select.extend(self.measures().iter().map(|m| format!("{} AS {}", m.of_rows, m.name)));
        select.push(format!("toUInt64({version}) AS version"));
        let conditions: Vec<&str> =
            self.condition().into_iter().chain((!also.is_empty()).then_some(also)).collect();
        let filter = if conditions.is_empty() {
            String::new()
        } else {
            format!("\nWHERE {}", conditions.join(" AND "))
        };
        format!(
            "SELECT {}\nFROM {table}{filter}\nGROUP BY {}, retention_days, batch_id",
            select.join(", "),
            group.join(", ")
        )
    }

    /// The materialized view's CREATE statement.
    #[must_use]
    pub fn feed_statement(self, spec: &SchemaSpec) -> String {
        format!(
            "CREATE MATERIALIZED VIEW IF NOT EXISTS {}{} TO {} AS\n{}",
            self.feed(spec),
            on_cluster(spec.cluster()),
            self.target(spec),
            self.contribution(&spec.local(&spec.table), 0, "")
        )
    }

    /// The plain view's CREATE statement. `OR REPLACE`: it holds nothing.
    #[must_use]
    pub fn view_statement(self, spec: &SchemaSpec) -> String {
        let group: Vec<&str> = self.group().iter().map(|(name, ..)| *name).collect();
        let shown: Vec<String> = self.measures().into_iter().map(|m| m.shown).collect();
        let from = match &spec.topology {
            Topology::Single => self.target(spec).to_string(),
            // A batch lives on one shard, so FINAL on each is FINAL over all.
            Topology::Cluster(cluster) => {
                let target = self.target(spec);
                format!(
                    "cluster({}, {}, {})",
                    literal(cluster),
                    literal(&target.database),
                    literal(&target.name)
                )
            }
        };
        let group = group.join(", ");
        format!(
            "CREATE OR REPLACE VIEW {}{} AS\nSELECT {group}, {}\nFROM {from} AS batch FINAL\nGROUP BY {group}",
            self.view(spec),
            on_cluster(spec.cluster()),
            shown.join(", "),
        )
    }

    /// Makes the target hold what the table holds of a batch, whatever it held before. Repeating it, or a
    /// late repetition under a lower version, changes nothing.
    ///
    /// `version` is at least 1 and grows with every repair of the batch after rows were added. On a cluster
    /// the statement runs on a replica of the batch's shard.
    #[must_use]
    pub fn repair_statement(self, spec: &SchemaSpec, batch_id: &str, days: DayRange, version: u64) -> String {
        let of_batch = format!("batch_id = {} AND {}", literal(batch_id), days.condition());
        format!(
            "INSERT INTO {} ({})\n{}",
            self.target(spec),
            self.column_list(),
            self.contribution(&spec.local(&spec.table), version, &of_batch)
        )
    }

    /// Fills the target from rows that were in the table before the view was. Because every batch has its
    /// own key, what the materialized view wrote in the meantime is the same row again.
    #[must_use]
    pub fn backfill_statement(self, spec: &SchemaSpec) -> String {
        format!(
            "INSERT INTO {} ({})\n{}",
            self.target(spec),
            self.column_list(),
            self.contribution(&spec.local(&spec.table), 0, "")
        )
    }

    /// Whether folding survives a crash of this server. Unfolded views are as right, only longer.
    #[must_use]
    pub fn can_fold(spec: &SchemaSpec, version: Version) -> bool {
        match spec.topology {
            Topology::Single => version >= SAFE_REPLACE_PARTITION,
            // Replicas replace a partition by an entry of their log, which a restart takes up again.
            Topology::Cluster(_) => true,
        }
    }

    /// Folds a partition's batches into one row per group: the days behind are read far more often than
    /// they are repaired. The rows go through a shadow table that replaces the partition in one step, so a
    /// crash anywhere leaves either the old or the new partition, and running it again starts over.
    ///
    /// Only where [`View::can_fold`] allows it, and only partitions that hold rows: the server refuses to
    /// replace one by nothing.
    ///
    /// Batches of `open` keep their rows, because they may still be repaired. Nothing may be inserted into
    /// the partition meanwhile: it would be lost by the replacement.
    #[must_use]
    pub fn fold_statements<'a>(
        self,
        spec: &SchemaSpec,
        partition: &Partition,
        open: impl IntoIterator<Item = &'a str>,
    ) -> Vec<String> {
        let (target, shadow) = (self.target(spec), self.shadow(spec));
        let on_cluster = on_cluster(spec.cluster());
        let group: Vec<&str> = self.group().iter().map(|(name, ..)| *name).collect();
        let group = group.join(", ");
        let measures: Vec<String> =
            self.measures().iter().map(|m| format!("{} AS folded_{}", m.of_batches, m.name)).collect();
        let open = literals(open);
        let batch =
            if open.is_empty() { "''".to_owned() } else { format!("if(batch_id IN ({open}), batch_id, '')") };
        vec![
            format!("DROP TABLE IF EXISTS {shadow}{on_cluster}"),
            self.table_named(spec, shadow.clone()).to_string(),
            format!(
                "INSERT INTO {shadow} ({})\nSELECT {group}, retention_days, {batch} AS folded_batch, {}, max(version) AS folded_version\n\
                 FROM {target} FINAL\nWHERE toDate(minute) = {} AND retention_days = {}\n\
                 GROUP BY {group}, retention_days, folded_batch",
                self.column_list(),
                measures.join(", "),
                literal(&partition.day.date()),
                partition.retention_days,
            ),
            format!("ALTER TABLE {target}{on_cluster} REPLACE PARTITION {partition} FROM {shadow}"),
            format!("DROP TABLE IF EXISTS {shadow}{on_cluster}"),
        ]
    }
}

/// A partition of the table and of its views' targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Day of the records' timestamps, UTC.
    pub day: spillway_model::Day,
    /// Days after which the rows expire.
    pub retention_days: u16,
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}, {})", literal(&self.day.date()), self.retention_days)
    }
}
