//! Taking a pipeline's schema out of a database, and nothing that holds somebody else's rows.

use std::fmt;

use crate::client::ClickHouse;
use crate::ddl::on_cluster;
use crate::error::ClickHouseError;
use crate::existing::Existing;
use crate::migrations::{SchemaError, object_names};
use crate::spec::{SchemaSpec, Topology};
use crate::sql::{Qualified, literal};
use crate::views::View;

/// What [`drop_all`] did. The database stays in any case: it may hold grants, settings and foreign tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped {
    /// These are gone; empty if nothing was there.
    All(Vec<Qualified>),
    /// The table was not dropped.
    Kept {
        why: WhyKept,
        /// Statements that drop it, to be run by whoever knows that nobody misses it.
        by_hand: Vec<String>,
    },
}

/// Why a schema was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhyKept {
    /// No migration is recorded: the objects were there before the pipeline, or it never finished them.
    NotRecorded,
    /// There is no manifest to tell by which rows, present or future, are the pipeline's.
    NoManifest,
    /// The table holds rows that this pipeline did not load.
    ForeignRows,
}

impl WhyKept {
    /// A short label for conditions and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotRecorded => "NotRecorded",
            Self::NoManifest => "NoManifest",
            Self::ForeignRows => "ForeignRows",
        }
    }
}

impl fmt::Display for WhyKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRecorded => {
                "no migration of this pipeline is recorded, so its tables are not known to be its own"
            }
            Self::NoManifest => {
                "the bucket has no manifest of this pipeline, so the tables are not known to be its own"
            }
            Self::ForeignRows => "the table holds rows that this pipeline did not load",
        })
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(objects) if objects.is_empty() => f.write_str("there was nothing to drop"),
            Self::All(objects) => {
                let names: Vec<String> = objects.iter().map(ToString::to_string).collect();
                write!(f, "dropped {}", names.join(", "))
            }
            Self::Kept { why, by_hand } => {
                write!(
                    f,
                    "the tables are kept, because {why}; if nobody misses it, run: {};",
                    by_hand.join("; ")
                )
            }
        }
    }
}

/// Drops what [`crate::apply`] made: views, their targets, the table of log records, and last the record of
/// migrations, so that a run that broke off is finished by the next one.
///
/// `pipeline` is the uid in the pipeline's manifest (`batch_id` begins with it). Unless it is known and every row
/// of the table is this pipeline's, nothing is dropped: an empty table may be another pipeline's that begins.
///
/// # Errors
/// [`SchemaError::ClickHouse`] and [`SchemaError::Statement`]; what was dropped before stays so.
pub async fn drop_all(
    client: &ClickHouse,
    spec: &SchemaSpec,
    pipeline: Option<&str>,
) -> Result<Dropped, SchemaError> {
    let existing = Existing::read(client, spec, &names(spec)).await?;
    let drops = drops(spec, &existing);
    if drops.is_empty() {
        return Ok(Dropped::All(Vec::new()));
    }
    let why = if existing.recorded.is_empty() {
        Some(WhyKept::NotRecorded)
    } else if has_foreign_rows(client, spec, &existing, pipeline).await? {
        Some(WhyKept::ForeignRows)
    } else if pipeline.is_none() {
        Some(WhyKept::NoManifest)
    } else {
        None
    };
    if let Some(why) = why {
        return Ok(Dropped::Kept { why, by_hand: by_hand(drops) });
    }
    // Servers refuse to drop more than 50 GB by default, a guard against slips. This is none.
    let settings =
        [("max_table_size_to_drop", "0".to_owned()), ("max_partition_size_to_drop", "0".to_owned())];
    let mut dropped = Vec::new();
    let mut drops = drops.into_iter();
    while let Some(Removal { object, sql }) = drops.next() {
        // Dropping the views took its time, and somebody may have begun to load here.
        let rows = [spec.records(), spec.local(&spec.table)].contains(&object);
        if rows
            && has_foreign_rows(client, spec, &Existing::read(client, spec, &names(spec)).await?, pipeline)
                .await?
        {
            let by_hand = std::iter::once(sql).chain(by_hand(drops)).collect();
            return Ok(Dropped::Kept { why: WhyKept::ForeignRows, by_hand });
        }
        tracing::info!(%object, "dropping");
        client.execute(&sql, &settings).await.map_err(|source| SchemaError::Statement {
            what: format!("drop {object}"),
            sql,
            source,
        })?;
        dropped.push(object);
    }
    Ok(Dropped::All(dropped))
}

fn by_hand(drops: impl IntoIterator<Item = Removal>) -> Vec<String> {
    drops.into_iter().map(|drop| drop.sql).collect()
}

async fn has_foreign_rows(
    client: &ClickHouse,
    spec: &SchemaSpec,
    existing: &Existing,
    pipeline: Option<&str>,
) -> Result<bool, ClickHouseError> {
    // On a cluster the Distributed table sees every shard; it is dropped before the local ones.
    let tables = [spec.records(), spec.local(&spec.table)];
    let Some(table) = tables.into_iter().find(|table| existing.objects.contains_key(&table.name)) else {
        return Ok(false);
    };
    let sql = foreign_row(&table, pipeline);
    Ok(!client.query_json::<serde_json::Value>(&sql, &[]).await?.is_empty())
}

/// Answers with one row if `table` holds a row of anybody else.
fn foreign_row(table: &Qualified, pipeline: Option<&str>) -> String {
    let others = pipeline
        .map(|uid| format!(" WHERE NOT startsWith(batch_id, {})", literal(&format!("{uid}-"))))
        .unwrap_or_default();
    format!("SELECT 1 AS found FROM {table}{others} LIMIT 1")
}

/// A statement and what it drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub object: Qualified,
    pub sql: String,
}

/// What to drop of `existing`, in order: what reads or feeds a table before the table. An object of our name
/// that is of another kind than ours is left.
#[must_use]
pub fn drops(spec: &SchemaSpec, existing: &Existing) -> Vec<Removal> {
    // SYNC on replicas: without it their traces in Keeper outlive the answer by minutes, and a table made
    // anew meets them. On one server the delay is what makes UNDROP TABLE possible.
    let (on_cluster, sync) = match &spec.topology {
        Topology::Single => (String::new(), ""),
        Topology::Cluster(name) => (on_cluster(Some(name)), " SYNC"),
    };
    ours(spec)
        .into_iter()
        .filter(|(object, kind)| {
            existing.objects.get(&object.name).is_some_and(|found| kind.is(&found.engine))
        })
        .map(|(object, kind)| {
            let sql = format!("DROP {} IF EXISTS {object}{on_cluster}{sync}", kind.keyword());
            Removal { object, sql }
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Kind {
    Feed,
    View,
    Distributed,
    Table,
}

impl Kind {
    fn is(self, engine: &str) -> bool {
        match self {
            Self::Feed => engine == "MaterializedView",
            Self::View => engine == "View",
            Self::Distributed => engine == "Distributed",
            Self::Table => engine.ends_with("MergeTree"),
        }
    }

    fn keyword(self) -> &'static str {
        match self {
            Self::Feed | Self::View => "VIEW",
            Self::Distributed | Self::Table => "TABLE",
        }
    }
}

fn ours(spec: &SchemaSpec) -> Vec<(Qualified, Kind)> {
    let mut ours: Vec<(Qualified, Kind)> = View::ALL.map(|view| (view.feed(spec), Kind::Feed)).into();
    ours.extend(View::ALL.map(|view| (view.view(spec), Kind::View)));
    for view in View::ALL {
        ours.extend([(view.shadow(spec), Kind::Table), (view.target(spec), Kind::Table)]);
    }
    if let Topology::Cluster(_) = spec.topology {
        ours.push((spec.records(), Kind::Distributed));
    }
    ours.push((spec.local(&spec.table), Kind::Table));
    ours.push((spec.migrations(), Kind::Table));
    ours
}

fn names(spec: &SchemaSpec) -> Vec<String> {
    let mut names = object_names(spec);
    names.extend(View::ALL.map(|view| view.shadow(spec).name));
    names
}
