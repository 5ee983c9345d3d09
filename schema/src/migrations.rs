//! Bringing a database to the schema.
//!
//! [`plan`] compares what should be with what is and answers with statements that only add, or with the
//! differences that it will not touch, each with the statements to run by hand. [`apply`] reads, plans and
//! runs. Every statement can be repeated, so that a run that broke off is finished by the next one; what was
//! applied is recorded by number in `<table>_spillway_migrations`.

use std::fmt;

use spillway_model::settings::MessageIndex;

use crate::client::ClickHouse;
use crate::ddl::{
    ColumnDef, CreateTable, Engine, TEXT_INDEX_NAME, TOKEN_INDEX_NAME, changeable_settings,
    distributed_table, on_cluster, records_table,
};
use crate::error::ClickHouseError;
use crate::existing::{Existing, ExistingObject};
use crate::preflight::{self, PreflightError};
use crate::spec::SchemaSpec;
use crate::sql::{Qualified, ident, literal};
use crate::version::Version;
use crate::views::View;

/// A numbered change of the schema. Columns say by `since` which one brought them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Consecutive, from 1.
    pub number: u16,
    /// What it does.
    pub name: &'static str,
}

/// Every migration there is. A change of the schema adds one and never edits an old one.
pub const MIGRATIONS: &[Migration] =
    &[Migration { number: 1, name: "table of log records, views error_rate, http_latency, tenant_volume" }];

/// A statement that brings the database closer to the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The migration it belongs to.
    pub migration: u16,
    /// What it does, in a few words.
    pub what: String,
    /// The statement.
    pub sql: String,
}

/// What [`plan`] decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Statements in order.
    pub steps: Vec<Step>,
    /// Statements that may be worth running by hand at a quiet time.
    pub advice: Vec<Advice>,
}

/// Something that is allowed as it is but could be better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What is to be known.
    pub what: String,
    /// Statement to run by hand.
    pub sql: String,
}

/// A difference that only its owner may resolve, because doing so rewrites or deletes data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The table.
    pub object: Qualified,
    /// What differs.
    pub what: String,
    /// As it is.
    pub found: String,
    /// As it should be.
    pub wanted: String,
    /// Statements that resolve it, to be run with the syncer stopped (`suspend`).
    pub by_hand: Vec<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} has {} {} where {} is needed; with the syncer suspended, run: {};",
            self.object,
            self.what,
            if self.found.is_empty() { "nothing" } else { &self.found },
            self.wanted,
            self.by_hand.join("; ")
        )
    }
}

/// What [`apply`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The server.
    pub version: Version,
    /// The statements that were run; empty if everything was in place.
    pub steps: Vec<Step>,
    /// What may be worth doing by hand.
    pub advice: Vec<Advice>,
}

/// The schema could not be brought about.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The server does not meet the requirements.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// Tables are there that differ in what cannot be changed without rewriting or deleting data. Nothing was
    /// changed.
    #[error("the schema was left as it is: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))]
    Refused(Vec<Refusal>),
    /// A statement failed. Those before it stay; running again goes on from there.
    #[error("{what}: {source}")]
    Statement {
        /// What the statement was to do.
        what: String,
        /// The statement.
        sql: String,
        /// Why it failed.
        source: ClickHouseError,
    },
    /// The database could not be asked.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
}

impl SchemaError {
    /// A short label for conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Preflight(e) => e.reason(),
            Self::Refused(_) => "SchemaDiffers",
            Self::Statement { source, .. } => match source {
                ClickHouseError::Denied { .. } => "Denied",
                _ => "StatementFailed",
            },
            Self::ClickHouse(e) => e.reason(),
        }
    }
}

/// Brings the database to the schema: creates what is missing, adds what is new, refuses the rest.
///
/// # Errors
/// See [`SchemaError`]. After [`SchemaError::Refused`] nothing was changed.
pub async fn apply(client: &ClickHouse, spec: &SchemaSpec) -> Result<Applied, SchemaError> {
    let version = preflight::supported_version(client).await?;
    let existing = Existing::read(client, spec, &object_names(spec)).await?;
    let Plan { steps, advice } = plan(spec, version, &existing).map_err(SchemaError::Refused)?;
    for step in &steps {
        tracing::info!(migration = step.migration, what = %step.what, "changing the schema");
        client.execute(&step.sql, &[]).await.map_err(|source| SchemaError::Statement {
            what: step.what.clone(),
            sql: step.sql.clone(),
            source,
        })?;
    }
    Ok(Applied { version, steps, advice })
}

/// The names whose presence [`plan`] looks at.
#[must_use]
pub fn object_names(spec: &SchemaSpec) -> Vec<String> {
    let mut names = vec![spec.table.clone(), spec.local(&spec.table).name, spec.migrations().name];
    for view in View::ALL {
        names.extend([view.view(spec).name, view.target(spec).name, view.feed(spec).name]);
    }
    names.sort();
    names.dedup();
    names
}

/// Decides which statements bring `existing` to `spec`.
///
/// # Errors
/// The differences that no added thing can resolve.
pub fn plan(spec: &SchemaSpec, version: Version, existing: &Existing) -> Result<Plan, Vec<Refusal>> {
    let mut plan = Plan::default();
    let mut refused = Vec::new();
    let on_cluster = on_cluster(spec.cluster());
    if !existing.database {
        plan.add(
            1,
            "create the database",
            format!("CREATE DATABASE IF NOT EXISTS {}{on_cluster}", ident(&spec.database)),
        );
    }
    let migrations = migrations_table(spec);
    if !existing.objects.contains_key(&migrations.name.name) {
        plan.add(1, "create the table of migrations", migrations.to_string());
    }

    let records = records_table(spec, version);
    match existing.objects.get(&records.name.name) {
        None => plan.add(1, "create the table of log records", records.to_string()),
        Some(found) => {
            refused.extend(differences(&records, found));
            plan.steps.extend(missing_columns(&records, found));
            plan.steps.extend(missing_indexes(spec, &records, found));
            plan.steps.extend(missing_settings(spec, &records, found));
        }
    }
    if let Some(distributed) = distributed_table(spec) {
        match existing.objects.get(&distributed.name.name) {
            None => plan.add(1, "create the Distributed table", distributed.to_string()),
            Some(found) => plan.steps.extend(missing_columns(
                &CreateTable { name: distributed.name.clone(), ..records.clone() },
                found,
            )),
        }
    }

    for view in View::of(spec) {
        let target = view.target_table(spec);
        match existing.objects.get(&target.name.name) {
            None => plan.add(1, format!("create the target of {}", view.suffix()), target.to_string()),
            Some(found) => {
                refused.extend(differences(&target, found));
                plan.steps.extend(missing_columns(&target, found));
                plan.steps.extend(missing_settings(spec, &target, found));
            }
        }
        if !existing.objects.contains_key(&view.feed(spec).name) {
            plan.add(
                1,
                format!("create the materialized view of {}", view.suffix()),
                view.feed_statement(spec),
            );
            if existing.objects.get(&records.name.name).is_some_and(|table| table.has_rows) {
                plan.advice.push(Advice {
                    what: format!(
                        "{} counts only what is inserted from now on; to fill it from older rows",
                        view.view(spec)
                    ),
                    sql: view.backfill_statement(spec),
                });
            }
        }
        if !existing.objects.contains_key(&view.view(spec).name) {
            plan.add(1, format!("create the view {}", view.suffix()), view.view_statement(spec));
        }
    }
    for view in View::ALL.into_iter().filter(|view| !View::of(spec).any(|kept| kept == *view)) {
        if existing.objects.contains_key(&view.feed(spec).name) {
            plan.advice.push(Advice {
                what: format!("{} is switched off but still fed; to stop that", view.view(spec)),
                sql: format!("DROP VIEW {}{on_cluster}", view.feed(spec)),
            });
        }
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    for migration in MIGRATIONS.iter().filter(|m| !existing.recorded.contains(&m.number)) {
        plan.add(
            migration.number,
            format!("record migration {}", migration.number),
            record_statement(spec, *migration),
        );
    }
    Ok(plan)
}

impl Plan {
    fn add(&mut self, migration: u16, what: impl Into<String>, sql: String) {
        self.steps.push(Step { migration, what: what.into(), sql });
    }
}

fn migrations_table(spec: &SchemaSpec) -> CreateTable {
    CreateTable {
        name: spec.migrations(),
        cluster: spec.cluster().map(str::to_owned),
        columns: vec![
            ColumnDef::plain("number", "UInt16"),
            ColumnDef::plain("name", "String"),
            ColumnDef::plain("applied_at", "DateTime64(3, 'UTC')"),
            ColumnDef::plain("applied_by", "String"),
        ],
        indexes: Vec::new(),
        engine: Engine::Merge,
        partition_by: None,
        order_by: "(number)".to_owned(),
        ttl: None,
        settings: Vec::new(),
    }
}

fn record_statement(spec: &SchemaSpec, migration: Migration) -> String {
    format!(
        "INSERT INTO {} (number, name, applied_at, applied_by) SELECT {}, {}, now64(3, 'UTC'), {}",
        spec.migrations(),
        migration.number,
        literal(migration.name),
        literal(concat!("spillway ", env!("CARGO_PKG_VERSION"))),
    )
}

fn missing_columns(wanted: &CreateTable, found: &ExistingObject) -> Vec<Step> {
    let mut after: Option<&str> = None;
    let mut steps = Vec::new();
    for column in &wanted.columns {
        if !found.columns.iter().any(|(name, _)| *name == column.name) {
            let place = after.map_or(" FIRST".to_owned(), |name| format!(" AFTER {}", ident(name)));
            steps.push(Step {
                migration: column.since,
                what: format!("add column {} to {}", column.name, wanted.name),
                sql: format!(
                    "ALTER TABLE {}{} ADD COLUMN IF NOT EXISTS {column}{place}",
                    wanted.name,
                    wanted.on_cluster()
                ),
            });
        }
        after = Some(&column.name);
    }
    steps
}

fn missing_indexes(spec: &SchemaSpec, wanted: &CreateTable, found: &ExistingObject) -> Vec<Step> {
    let has = |name: &str| found.indexes.iter().any(|index| index == name);
    // A server that has learnt the text index since the table was made would otherwise get both.
    let words_indexed =
        spec.message_index == MessageIndex::Auto && (has(TEXT_INDEX_NAME) || has(TOKEN_INDEX_NAME));
    wanted
        .indexes
        .iter()
        .filter(|index| !has(index.name))
        .filter(|index| !(words_indexed && index.expression == "message"))
        .map(|index| Step {
            migration: 1,
            what: format!("add index {} to {}", index.name, wanted.name),
            sql: format!(
                "ALTER TABLE {}{} ADD INDEX IF NOT EXISTS {index}",
                wanted.name,
                wanted.on_cluster()
            ),
        })
        .collect()
}

fn missing_settings(spec: &SchemaSpec, wanted: &CreateTable, found: &ExistingObject) -> Option<Step> {
    let declared = found.engine_full.rsplit_once("SETTINGS ").map_or("", |(_, settings)| settings);
    let declared: Vec<&str> = declared.split(", ").collect();
    let missing: Vec<String> = changeable_settings(spec)
        .into_iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .filter(|setting| !declared.contains(&setting.as_str()))
        .collect();
    (!missing.is_empty()).then(|| Step {
        migration: 1,
        what: format!("set {} of {}", missing.join(", "), wanted.name),
        sql: format!(
            "ALTER TABLE {}{} MODIFY SETTING {}",
            wanted.name,
            wanted.on_cluster(),
            missing.join(", ")
        ),
    })
}

/// Differences that can't be resolved by adding.
fn differences(wanted: &CreateTable, found: &ExistingObject) -> Vec<Refusal> {
    let refusal = |what: &str, found: &str, wanted_text: &str, by_hand: Vec<String>| Refusal {
        object: wanted.name.clone(),
        what: what.to_owned(),
        found: found.to_owned(),
        wanted: wanted_text.to_owned(),
        by_hand,
    };
    let mut refusals = Vec::new();
    let engine = match (wanted.engine, wanted.cluster.is_some()) {
        (Engine::Merge, false) => "MergeTree",
        (Engine::Merge, true) => "ReplicatedMergeTree",
        (Engine::Replacing, false) => "ReplacingMergeTree",
        (Engine::Replacing, true) => "ReplicatedReplacingMergeTree",
    };
    // ClickHouse Cloud turns every engine of the family into its Shared one.
    if found.engine != engine && found.engine.replacen("Shared", "Replicated", 1) != engine {
        refusals.push(refusal("the engine", &found.engine, engine, rebuild(wanted, found)));
    }
    let partition_by = wanted.partition_by.as_deref().unwrap_or_default();
    if plain(&found.partition_key) != plain(partition_by) {
        refusals.push(refusal("PARTITION BY", &found.partition_key, partition_by, rebuild(wanted, found)));
    }
    if plain(&found.sorting_key) != plain(&wanted.order_by) {
        refusals.push(refusal("ORDER BY", &found.sorting_key, &wanted.order_by, rebuild(wanted, found)));
    }
    if let Some(ttl) = &wanted.ttl {
        let declared = declared_ttl(&found.engine_full);
        if plain(declared) != plain(ttl) {
            let statement = format!("ALTER TABLE {}{} MODIFY TTL {ttl}", wanted.name, wanted.on_cluster());
            refusals.push(refusal("TTL", declared, ttl, vec![statement]));
        }
    }
    for column in &wanted.columns {
        let Some((_, kind)) = found.columns.iter().find(|(name, _)| *name == column.name) else { continue };
        if plain(kind) != plain(&column.kind) {
            let in_key =
                wanted.order_by.contains(column.name.as_str()) || partition_by.contains(column.name.as_str());
            let by_hand = if in_key {
                rebuild(wanted, found)
            } else {
                vec![format!(
                    "ALTER TABLE {}{} MODIFY COLUMN {} {}",
                    wanted.name,
                    wanted.on_cluster(),
                    ident(&column.name),
                    column.kind
                )]
            };
            refusals.push(refusal(&format!("column {} of type", column.name), kind, &column.kind, by_hand));
        }
    }
    refusals
}

/// Statements that put a table of the wanted shape in the place of the one that is there, keeping both.
fn rebuild(wanted: &CreateTable, found: &ExistingObject) -> Vec<String> {
    let new = Qualified::new(&wanted.name.database, format!("{}_rebuilt", wanted.name.name));
    let shared: Vec<String> = wanted
        .columns
        .iter()
        .filter(|column| found.columns.iter().any(|(name, _)| *name == column.name))
        .map(|column| ident(&column.name))
        .collect();
    let shared = shared.join(", ");
    let on_cluster = wanted.on_cluster();
    vec![
        CreateTable { name: new.clone(), ..wanted.clone() }.to_string(),
        format!("INSERT INTO {new} ({shared}) SELECT {shared} FROM {}", wanted.name),
        format!("EXCHANGE TABLES {new} AND {}{on_cluster}", wanted.name),
    ]
}

fn declared_ttl(engine_full: &str) -> &str {
    let Some((_, rest)) = engine_full.split_once(" TTL ") else { return "" };
    rest.split_once(" SETTINGS ").map_or(rest, |(ttl, _)| ttl)
}

/// An expression without what formatting adds: spaces, backticks, outer parentheses.
fn plain(expression: &str) -> String {
    let text: String = expression.chars().filter(|c| !c.is_whitespace() && *c != '`').collect();
    match text.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) if !inner.contains(['(', ')']) || balanced(inner) => inner.to_owned(),
        _ => text,
    }
}

/// Whether the parentheses in `text` close in the order they open.
fn balanced(text: &str) -> bool {
    let mut depth = 0_i32;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// The statements that create everything in an empty database, for `spillway render` and golden tests.
#[must_use]
pub fn statements(spec: &SchemaSpec, version: Version) -> Vec<Step> {
    plan(spec, version, &Existing::default()).map(|plan| plan.steps).unwrap_or_default()
}
