//! Gathers what an audit compares: pods first, then the bucket, then the manifest, then the table. A record moves on
//! from "staged" over "planned" to "counted as loaded" and never back, so what has left the bucket before it was
//! listed is counted by the manifest that is read after it. What was listed and has moved on since is in a batch of
//! that manifest, whose list tells that it is no backlog.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use spillway_bucket::{Bucket, BucketError};
use spillway_model::{
    ObjectKey, UnixMs,
    object::{DEAD_LETTER_DIR, SPILLWAY_DIR},
    settings::ClickHouseSettings,
};
use spillway_schema::{ClickHouse, ClickHouseError, SchemaSpec, View, sql::literal};
use spillway_syncer::{
    batch::{BatchId, BatchList},
    manifest::{MANIFEST_KEY, Manifest, ManifestError, State},
};

use crate::metrics::{self, Scrape};

/// Everything that an audit compares.
pub struct Seen {
    pub pods: Vec<Pod>,
    /// Why others could not be looked at.
    pub silent: Vec<String>,
    pub manifest: Manifest,
    /// Lists of the batches that the manifest names or still remembers.
    pub lists: BTreeMap<BatchId, BatchList>,
    /// Keys of staged objects in the bucket, before the manifest was read.
    pub staged: Vec<ObjectKey>,
    /// Keys that are nobody's.
    pub foreign: Vec<String>,
    /// Rows of the table by project, those of batches left out that the manifest does not count yet.
    pub table: BTreeMap<String, u64>,
    /// Rows and distinct rows of batches.
    pub batches: BTreeMap<String, (u64, u64)>,
    /// Records by view and project, and the table's rows that they should equal.
    pub views: Vec<ViewSeen>,
    /// Objects that batches need and that are not there, although these batches were still open afterwards.
    pub gone: Vec<String>,
    /// Inserts may have been under way while the table was looked at.
    pub busy: bool,
    /// When it was looked at.
    pub at: UnixMs,
}

/// An ingest process.
pub struct Pod {
    pub url: String,
    pub scrape: Scrape,
}

/// One view and one project.
pub struct ViewSeen {
    pub view: &'static str,
    pub project: String,
    pub in_view: u64,
    pub in_table: u64,
}

/// Why something can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("there is no {MANIFEST_KEY} in {0}; check --file and --data")]
    NoManifest(String),
    #[error("{key} can't be read: {source}")]
    List { key: String, source: serde_json::Error },
}

/// Where to look.
pub struct Look<'a> {
    pub bucket: &'a Bucket,
    pub clickhouse: &'a ClickHouse,
    pub settings: &'a ClickHouseSettings,
    pub metrics: &'a [String],
    pub deep: bool,
}

#[derive(Deserialize)]
struct ProjectRows {
    project_id: String,
    rows: u64,
}

#[derive(Deserialize)]
struct BatchRows {
    batch_id: String,
    rows: u64,
    distinct: u64,
}

impl Look<'_> {
    pub async fn all(&self) -> Result<Seen, LookError> {
        let (mut pods, mut silent) = (Vec::new(), Vec::new());
        for url in self.metrics {
            match metrics::fetch(url).await {
                Ok(scrape) => pods.push(Pod { url: url.clone(), scrape }),
                Err(error) => silent.push(error.to_string()),
            }
        }
        let (staged, foreign) = self.staged().await?;
        let manifest = self.manifest().await?;
        let lists = self.lists(&manifest).await?;
        let gone = self.gone(&manifest, &lists, &staged).await?;
        let table = self.table(&manifest).await?;
        let batches = self.batches(&manifest).await?;
        let views = self.views().await?;
        let later = self.manifest().await?;
        let still_open: BTreeSet<BatchId> = open(&later).collect();
        let gone = gone.into_iter().filter(|(id, _)| still_open.contains(id)).map(|(_, key)| key).collect();
        let busy = is_busy(&manifest, &later);
        let at = UnixMs::now();
        Ok(Seen { pods, silent, manifest, lists, staged, foreign, table, batches, views, gone, busy, at })
    }

    /// Objects of open batches that are not in the bucket. One that was not listed may have been staged after it was
    /// listed, so it is asked for.
    async fn gone(
        &self,
        manifest: &Manifest,
        lists: &BTreeMap<BatchId, BatchList>,
        staged: &[ObjectKey],
    ) -> Result<Vec<(BatchId, String)>, LookError> {
        let listed: BTreeSet<String> = staged.iter().map(ToString::to_string).collect();
        let mut gone = Vec::new();
        for id in open(manifest) {
            for member in lists.get(&id).iter().flat_map(|list| &list.objects) {
                if !listed.contains(&member.key) && self.bucket.head(&member.key).await?.is_none() {
                    gone.push((id, member.key.clone()));
                }
            }
        }
        Ok(gone)
    }

    async fn manifest(&self) -> Result<Manifest, LookError> {
        let found = self.bucket.get(MANIFEST_KEY).await?;
        let (body, _) = found.ok_or_else(|| LookError::NoManifest(self.bucket.describe()))?;
        Ok(Manifest::parse(&body)?)
    }

    async fn lists(&self, manifest: &Manifest) -> Result<BTreeMap<BatchId, BatchList>, LookError> {
        let mut lists = BTreeMap::new();
        let removed = manifest.removed.iter().map(|removed| removed.id);
        for id in manifest.batches.keys().copied().chain(removed) {
            let key = id.list_key();
            // One that has been removed may be forgotten by now.
            let Some((body, _)) = self.bucket.get(&key).await? else { continue };
            let list = serde_json::from_slice(&body).map_err(|source| LookError::List { key, source })?;
            lists.insert(id, list);
        }
        Ok(lists)
    }

    async fn staged(&self) -> Result<(Vec<ObjectKey>, Vec<String>), LookError> {
        let (mut staged, mut foreign, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = self.bucket.list("", after.as_deref(), 1000).await?;
            for object in page.objects {
                if object.key.starts_with(SPILLWAY_DIR) || object.key.starts_with(DEAD_LETTER_DIR) {
                    continue;
                }
                match ObjectKey::parse(&object.key) {
                    Ok(key) => staged.push(key),
                    Err(_) => foreign.push(object.key),
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok((staged, foreign)),
            }
        }
    }

    fn table_name(&self) -> String {
        format!("{}.{}", self.settings.database, self.settings.table)
    }

    /// Only rows that the manifest's totals count at its `seq`: neither of batches that are open in it, nor of later
    /// ones, nor of another pipeline that shares the table.
    async fn table(&self, manifest: &Manifest) -> Result<BTreeMap<String, u64>, LookError> {
        let open: Vec<String> = open(manifest).map(|id| literal(&id.in_table(&manifest.pipeline))).collect();
        let open = if open.is_empty() {
            String::new()
        } else {
            format!(" AND batch_id NOT IN ({})", open.join(", "))
        };
        let sql = format!(
            "SELECT project_id, count() AS rows FROM {} \
             WHERE startsWith(batch_id, {}) AND toUInt64OrZero(splitByChar('-', batch_id)[-1]) < {}{open} \
             GROUP BY project_id",
            self.table_name(),
            literal(&format!("{}-", manifest.pipeline.0)),
            manifest.next_batch
        );
        let rows: Vec<ProjectRows> = self.clickhouse.query_json(&sql, &[]).await?;
        Ok(rows.into_iter().map(|row| (row.project_id, row.rows)).collect())
    }

    async fn batches(&self, manifest: &Manifest) -> Result<BTreeMap<String, (u64, u64)>, LookError> {
        let known: Vec<String> = manifest
            .batches
            .keys()
            .chain(manifest.removed.iter().map(|removed| &removed.id))
            .map(|id| literal(&id.in_table(&manifest.pipeline)))
            .collect();
        let only = match (self.deep, known.is_empty()) {
            (true, _) => String::new(),
            (false, true) => return Ok(BTreeMap::new()),
            (false, false) => format!("WHERE batch_id IN ({}) ", known.join(", ")),
        };
        let sql = format!(
            "SELECT batch_id, count() AS rows, uniqExact(batch_row) AS distinct FROM {} {only}GROUP BY batch_id",
            self.table_name()
        );
        let rows: Vec<BatchRows> = self.clickhouse.query_json(&sql, &[]).await?;
        Ok(rows.into_iter().map(|row| (row.batch_id, (row.rows, row.distinct))).collect())
    }

    async fn views(&self) -> Result<Vec<ViewSeen>, LookError> {
        #[derive(Deserialize)]
        struct Row {
            project_id: String,
            in_view: u64,
            in_table: u64,
        }
        let spec = SchemaSpec::from_settings(self.settings);
        let mut seen = Vec::new();
        for view in View::of(&spec) {
            let (measure, condition) = match view {
                View::ErrorRate | View::TenantVolume => ("records", "1"),
                View::HttpLatency => ("requests", "http_duration_ms > 0"),
            };
            // One statement, so that both are looked at as nearly at once as can be.
            let sql = format!(
                "SELECT project_id, sum(v) AS in_view, sum(t) AS in_table FROM \
                 (SELECT project_id, sum({measure}) AS v, toUInt64(0) AS t FROM {} GROUP BY project_id UNION ALL \
                 SELECT project_id, toUInt64(0) AS v, count() AS t FROM {} WHERE {condition} GROUP BY project_id) \
                 GROUP BY project_id ORDER BY project_id",
                view.view(&spec),
                self.table_name()
            );
            let rows: Vec<Row> = self.clickhouse.query_json(&sql, &[]).await?;
            seen.extend(rows.into_iter().map(|row| ViewSeen {
                view: view.suffix(),
                project: row.project_id,
                in_view: row.in_view,
                in_table: row.in_table,
            }));
        }
        Ok(seen)
    }
}

/// Whether rows may have come into the table between two reads of the manifest. `seq` alone doesn't tell: it is
/// raised by an idle writer as well, to show that it lives.
pub fn is_busy(before: &Manifest, after: &Manifest) -> bool {
    let moved = before.next_batch != after.next_batch || before.batches != after.batches;
    moved || open(before).chain(open(after)).next().is_some()
}

/// Batches whose rows the manifest's totals do not count yet.
pub fn open(manifest: &Manifest) -> impl Iterator<Item = BatchId> + '_ {
    let counted = |state: &State| matches!(state, State::Inserted { .. });
    manifest.batches.iter().filter(move |(_, entry)| !counted(&entry.state)).map(|(id, _)| *id)
}
