//! What is in the database already.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::client::ClickHouse;
use crate::error::ClickHouseError;
use crate::spec::SchemaSpec;
use crate::sql::{literal, literals};

/// The objects that are there, by name, and the migrations that were recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Existing {
    /// Whether the database is there.
    pub database: bool,
    /// Tables and views by name.
    pub objects: BTreeMap<String, ExistingObject>,
    /// Numbers of the migrations that were applied.
    pub recorded: Vec<u16>,
}

/// A table or view as the server describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExistingObject {
    /// Engine, e.g. `MergeTree` or `View`.
    pub engine: String,
    /// Engine with its clauses, as the server formats them.
    pub engine_full: String,
    /// PARTITION BY.
    pub partition_key: String,
    /// ORDER BY.
    pub sorting_key: String,
    /// Names and types of the columns, in order.
    pub columns: Vec<(String, String)>,
    /// Names of the data skipping indices.
    pub indexes: Vec<String>,
    /// Whether it holds rows.
    pub has_rows: bool,
}

#[derive(Deserialize)]
struct TableRow {
    name: String,
    engine: String,
    engine_full: String,
    partition_key: String,
    sorting_key: String,
    has_rows: u8,
}

#[derive(Deserialize)]
struct ColumnRow {
    table: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct IndexRow {
    table: String,
    name: String,
}

#[derive(Deserialize)]
struct Number {
    number: u16,
}

impl Existing {
    /// Reads it from the system tables.
    ///
    /// # Errors
    /// See [`ClickHouseError`].
    pub async fn read(
        client: &ClickHouse,
        spec: &SchemaSpec,
        names: &[String],
    ) -> Result<Self, ClickHouseError> {
        let database = literal(&spec.database);
        let names = literals(names.iter().map(String::as_str));
        let databases: Vec<serde_json::Value> = client
            .query_json(&format!("SELECT name FROM system.databases WHERE name = {database}"), &[])
            .await?;
        if databases.is_empty() {
            return Ok(Self::default());
        }
        let tables: Vec<TableRow> = client
            .query_json(
                &format!(
                    "SELECT name, engine, engine_full, partition_key, sorting_key, \
                     toUInt8(ifNull(total_rows, 0) > 0) AS has_rows \
                     FROM system.tables WHERE database = {database} AND name IN ({names})"
                ),
                &[],
            )
            .await?;
        let columns: Vec<ColumnRow> = client
            .query_json(
                &format!(
                    "SELECT table, name, type FROM system.columns \
                     WHERE database = {database} AND table IN ({names}) ORDER BY table, position"
                ),
                &[],
            )
            .await?;
        let indexes: Vec<IndexRow> = client
            .query_json(
                &format!(
                    "SELECT table, name FROM system.data_skipping_indices \
                     WHERE database = {database} AND table IN ({names})"
                ),
                &[],
            )
            .await?;
        let mut objects: BTreeMap<String, ExistingObject> = tables
            .into_iter()
            .map(|row| {
                let object = ExistingObject {
                    engine: row.engine,
                    engine_full: row.engine_full,
                    partition_key: row.partition_key,
                    sorting_key: row.sorting_key,
                    has_rows: row.has_rows != 0,
                    ..ExistingObject::default()
                };
                (row.name, object)
            })
            .collect();
        for column in columns {
            if let Some(object) = objects.get_mut(&column.table) {
                object.columns.push((column.name, column.kind));
            }
        }
        for index in indexes {
            if let Some(object) = objects.get_mut(&index.table) {
                object.indexes.push(index.name);
            }
        }
        let recorded = if objects.contains_key(&spec.migrations().name) {
            let sql = format!("SELECT DISTINCT number FROM {} ORDER BY number", spec.migrations());
            client.query_json::<Number>(&sql, &[]).await?.into_iter().map(|row| row.number).collect()
        } else {
            Vec::new()
        };
        Ok(Self { database: true, objects, recorded })
    }
}
