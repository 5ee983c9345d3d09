//! Carries out the tasks of single batches: everything that touches the bucket or ClickHouse on a batch's
//! behalf. It decides nothing; [`crate::flight`] does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use spillway_bucket::{Bucket, BucketError, Put, PutMeta, Tag};
use spillway_model::time::{Day, UnixMs};
use spillway_schema::ledger::{self, DayRange, PartitionRows, PresentRows, Running, Today, Uptime, Witness};
use spillway_schema::preflight::Server;
use spillway_schema::views::View;
use spillway_schema::{ClickHouse, ClickHouseError, SchemaSpec, is_data_error};
use tokio::sync::Semaphore;

use crate::batch::{
    Attempt, AttemptList, BatchId, BatchList, DeadRow, ENCODER_VERSION, Partition, PipelineUid, RowSet,
};
use crate::dead::{self, DeadLetter};
use crate::encode::{self, DAMAGED_OBJECT, Encoded, Layout, Source};
use crate::failpoint::failpoint;
use crate::flight::{self, Inserted, Outline};
use crate::loaded::{self, Before, Witnesses, before};
use crate::metrics::Metrics;
use crate::transcode::Body;
use crate::walk::Staged;

/// Why a step of a batch failed. The step is tried again; this is what status and log say meanwhile.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The server.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// An object is gone.
    #[error(
        "object {key} is gone although its rows are not in the table; restore it from a backup or an older version, or remove batch {batch} by the steps in docs/recovery.md"
    )]
    Vanished {
        /// Its key.
        key: String,
        /// The batch that needs it.
        batch: BatchId,
    },
    /// Objects can't be read, for a reason that lies with them.
    #[error("object {} can't be read: {error}; others are loaded meanwhile", .keys.join(", "))]
    Unreadable {
        /// Their keys.
        keys: Vec<String>,
        /// Why.
        error: String,
    },
    /// Old objects of which the table has some rows and lacks others, as after a batch was half inserted and then
    /// forgotten. Loading them would double rows, deleting them would lose some.
    #[error(
        "{} of the staged objects have some of their rows in the table and lack others; they are left out while others are loaded, see docs/recovery.md: {}", .keys.len(), .keys.join(", ")
    )]
    PartlyLoaded {
        /// Their keys.
        keys: Vec<String>,
    },
    /// Every object of a new batch was loaded before and had come back.
    #[error("{0} objects had been loaded before and came back; they are deleted")]
    AllReturned(usize),
    /// Encoding failed.
    #[error("batch {batch} can't be encoded: {message}; lower batch.maxBytes")]
    Encode {
        /// The batch.
        batch: BatchId,
        /// Why.
        message: String,
    },
    /// A control object holds something else than expected.
    #[error("{key} {message}")]
    Control {
        /// Its key.
        key: String,
        /// What is wrong.
        message: String,
    },
}

impl WorkError {
    /// The reasons that lie with an object. Each holds up its own records for as long as nobody mends it, however well
    /// bucket and server are.
    pub const OF_OBJECTS: [&'static str; 6] = [
        "ObjectVanished",
        "ObjectUnreadable",
        "ObjectPartlyLoaded",
        "ObjectsReturned",
        "EncodeFailed",
        "ControlObject",
    ];

    /// A short label for metrics and conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Bucket(error) => error.reason(),
            Self::ClickHouse(error) => error.reason(),
            Self::Vanished { .. } => "ObjectVanished",
            Self::Unreadable { .. } => "ObjectUnreadable",
            Self::PartlyLoaded { .. } => "ObjectPartlyLoaded",
            Self::AllReturned(_) => "ObjectsReturned",
            Self::Encode { .. } => "EncodeFailed",
            Self::Control { .. } => "ControlObject",
        }
    }

    /// The objects with which the reason lies: a new batch is tried again without them.
    #[must_use]
    pub fn left_out(&self) -> Option<&[String]> {
        match self {
            Self::Unreadable { keys, .. } | Self::PartlyLoaded { keys } => Some(keys),
            _ => None,
        }
    }
}

/// Times and sizes of the work.
#[derive(Debug, Clone)]
pub struct WorkSettings {
    /// Partitions of one insert, at most.
    pub partitions: usize,
    /// Objects fetched at once by this process.
    pub fetches: usize,
    /// The server gives an insert up after this.
    pub insert_timeout: Duration,
    /// Shards of the cluster; 1 without one.
    pub shards: u32,
    /// An object whose key is older than this may be one that was loaded, deleted and forgotten before a
    /// retried PUT brought it back: the table is asked.
    pub suspect_after: Duration,
}

/// What is kept of a batch between its steps.
#[derive(Debug, Clone)]
struct Kept {
    list: Arc<BatchList>,
    number: u64,
    attempt: Arc<Attempt>,
    /// Bodies of the current attempt, until the table is seen to hold its rows.
    bodies: Option<Arc<Vec<Body>>>,
    letters: Option<Arc<Vec<DeadLetter>>>,
    oldest: Option<UnixMs>,
    received: Option<UnixMs>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Worker {
    bucket: Bucket,
    clickhouse: ClickHouse,
    spec: SchemaSpec,
    server: Server,
    settings: WorkSettings,
    pipeline: Mutex<PipelineUid>,
    kept: Mutex<HashMap<BatchId, Kept>>,
    fetches: Semaphore,
    metrics: Arc<Metrics>,
}

impl Worker {
    /// A worker that has yet to be told the pipeline's name.
    #[must_use]
    pub fn new(
        bucket: Bucket,
        clickhouse: ClickHouse,
        spec: SchemaSpec,
        server: Server,
        settings: WorkSettings,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            bucket,
            clickhouse,
            spec,
            server,
            fetches: Semaphore::new(settings.fetches.max(1)),
            settings,
            pipeline: Mutex::new(PipelineUid(String::new())),
            kept: Mutex::default(),
            metrics,
        }
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Sets the pipeline's name, read from the manifest.
    pub fn set_pipeline(&self, pipeline: PipelineUid) {
        *self.pipeline.lock() = pipeline;
    }

    fn pipeline(&self) -> PipelineUid {
        self.pipeline.lock().clone()
    }

    fn kept(&self, id: BatchId) -> Result<Kept, WorkError> {
        let kept = self.kept.lock().get(&id).cloned();
        kept.ok_or_else(|| WorkError::Control { key: id.list_key(), message: "was not read yet".to_owned() })
    }

    fn change(&self, id: BatchId, with: impl FnOnce(&mut Kept)) {
        if let Some(kept) = self.kept.lock().get_mut(&id) {
            with(kept);
        }
    }

    /// Forgets what is kept of batches that are done.
    pub fn retain(&self, wanted: impl Fn(BatchId) -> bool) {
        self.kept.lock().retain(|id, _| wanted(*id));
    }

    /// Time of the oldest object of a batch.
    #[must_use]
    pub fn oldest(&self, id: BatchId) -> Option<UnixMs> {
        self.kept.lock().get(&id).and_then(|kept| kept.oldest)
    }

    // --- objects ---

    async fn fetch(&self, batch: BatchId, keys: Vec<String>) -> Result<Vec<Source>, WorkError> {
        let fetched = stream::iter(keys.into_iter().map(|key| async move {
            let _place = self.fetches.acquire().await;
            let got = self.bucket.get(&key).await;
            self.source(batch, key, got)
        }));
        let fetched: Vec<_> = fetched.buffered(self.settings.fetches.max(1)).collect().await;
        let (mut sources, mut unreadable, mut why) =
            (Vec::with_capacity(fetched.len()), Vec::new(), String::new());
        for result in fetched {
            match result {
                Ok(source) => sources.push(source),
                Err(WorkError::Unreadable { keys, error }) => {
                    unreadable.extend(keys);
                    why = error;
                }
                Err(error) => return Err(error),
            }
        }
        if unreadable.is_empty() {
            Ok(sources)
        } else {
            Err(WorkError::Unreadable { keys: unreadable, error: why })
        }
    }

    fn source(
        &self,
        batch: BatchId,
        key: String,
        got: Result<Option<(Bytes, Tag)>, BucketError>,
    ) -> Result<Source, WorkError> {
        let (bytes, _) = match got {
            Ok(Some(got)) => got,
            Ok(None) => return Err(WorkError::Vanished { key, batch }),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return Err(WorkError::Unreadable { keys: vec![key], error: error.to_string() }),
        };
        self.metrics.fetched(bytes.len());
        let parts = spillway_model::ObjectKey::parse(&key)
            .map_err(|error| WorkError::Control { key: key.clone(), message: error.to_string() })?;
        Ok(Source { key, parts, bytes, damaged: None, suspect: false })
    }

    async fn sources(&self, kept: &Kept) -> Result<Vec<Source>, WorkError> {
        let keys = kept.list.objects.iter().map(|member| member.key.clone()).collect();
        let mut sources = self.fetch(kept.list.id, keys).await?;
        // What the list calls damaged stays so, or its rows would come back under other numbers.
        let mut first = 0;
        for (source, member) in sources.iter_mut().zip(&kept.list.objects) {
            let dead = kept.list.first.dead.iter();
            let damage =
                dead.clone().find(|dead| u64::from(dead.row) == first && dead.reason == DAMAGED_OBJECT);
            source.damaged = damage.map(|dead| dead.detail.clone());
            first += member.rows;
        }
        Ok(sources)
    }

    /// Encodes a new batch. An object that makes the encoder fail is put aside, so that it holds up nobody
    /// else's: the objects are tried one by one to find it.
    async fn encode_new(&self, id: BatchId, mut sources: Vec<Source>) -> Result<Encoded, WorkError> {
        let first = self.encode(id, sources.clone(), None).await;
        let Err(error) = first else { return first };
        let mut found = false;
        for source in &mut sources {
            if let Err(error) = self.encode(id, vec![source.clone()], None).await {
                tracing::error!(key = source.key, "the object is put aside as a dead letter: {error}");
                source.damaged = Some(error.to_string());
                found = true;
            }
        }
        if found { self.encode(id, sources, None).await } else { Err(error) }
    }

    async fn encode(
        &self,
        id: BatchId,
        sources: Vec<Source>,
        pieces: Option<Vec<RowSet>>,
    ) -> Result<Encoded, WorkError> {
        let batch_id = id.in_table(&self.pipeline());
        let width = self.settings.partitions;
        let encoded = tokio::task::spawn_blocking(move || match &pieces {
            Some(pieces) => encode::encode(id, &batch_id, &sources, Layout::Pieces(pieces)),
            None => encode::encode(id, &batch_id, &sources, Layout::Narrow(width)),
        });
        let failed = |message: String| WorkError::Encode { batch: id, message };
        let encoded = encoded.await.map_err(|error| failed(error.to_string()))?;
        encoded.map_err(|error| failed(error.to_string()))
    }

    /// Encodes a new batch without the objects that were loaded, deleted and forgotten before a retried PUT
    /// brought them back; those are deleted again. Only old keys can be such.
    async fn encode_unloaded(
        &self,
        id: BatchId,
        mut sources: Vec<Source>,
        now: UnixMs,
    ) -> Result<Encoded, WorkError> {
        let suspect = i64::try_from(self.settings.suspect_after.as_millis()).unwrap_or(i64::MAX);
        for source in &mut sources {
            source.suspect = now.0.saturating_sub(source.parts.time.0) > suspect;
        }
        let mut encoded = self.encode_new(id, sources.clone()).await?;
        let witnesses = std::mem::take(&mut encoded.witnesses);
        let before = self.loaded_before(id, &sources, witnesses).await?;
        if before.is_empty() {
            return Ok(encoded);
        }
        let keys = |wanted| {
            let places = before.iter().filter(move |(_, before)| **before == wanted).map(|(place, _)| *place);
            places.map(|place| sources[place].key.clone()).collect::<Vec<String>>()
        };
        let (returned, partly) = (keys(Before::Whole), keys(Before::Partly));
        if let Some(first) = returned.first() {
            tracing::warn!(
                objects = returned.len(),
                first,
                "objects that were loaded long before came back; deleting them again"
            );
            self.delete_keys(&returned).await?;
        }
        if !partly.is_empty() {
            return Err(WorkError::PartlyLoaded { keys: partly });
        }
        let rest = sources.into_iter().enumerate().filter(|(place, _)| !before.contains_key(place));
        let rest: Vec<Source> = rest.map(|(_, source)| source).collect();
        if rest.is_empty() {
            return Err(WorkError::AllReturned(returned.len()));
        }
        self.encode_new(id, rest).await
    }

    /// Which of the suspects have rows in the table, by their places.
    async fn loaded_before(
        &self,
        id: BatchId,
        sources: &[Source],
        witnesses: BTreeMap<usize, Witnesses>,
    ) -> Result<BTreeMap<usize, Before>, WorkError> {
        let rows: Vec<&Witness> = witnesses.values().flat_map(BTreeMap::values).collect();
        if rows.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.catch_up().await?;
        let found = loaded::find(&self.clickhouse, &self.spec, &rows).await?;
        let mut all = BTreeMap::new();
        if found.is_empty() {
            return Ok(all);
        }
        let today = self.today().await?;
        for (place, rows) in &witnesses {
            let mut state = before(rows.iter().map(|(at, row)| (*at, found.contains(row))), today);
            if state == Before::Whole {
                // Deleting it can't be taken back, and of a batch that was cut up around refused rows a partition may
                // be there in part: so every row is looked up.
                let source = sources[*place].clone();
                let rows = tokio::task::spawn_blocking(move || loaded::all_rows(&source)).await;
                let rows =
                    rows.map_err(|error| WorkError::Encode { batch: id, message: error.to_string() })?;
                let asked: Vec<&Witness> = rows.iter().map(|(_, row)| row).collect();
                let found = loaded::find(&self.clickhouse, &self.spec, &asked).await?;
                state = before(rows.iter().map(|(at, row)| (*at, found.contains(row))), today);
            }
            if state != Before::Nothing {
                all.insert(*place, state);
            }
        }
        Ok(all)
    }

    /// Writes a control object that must not exist yet.
    async fn put(&self, key: &str, body: Vec<u8>, meta: &PutMeta) -> Result<(), WorkError> {
        match self.bucket.put_if_absent(key, body.into(), meta).await? {
            Put::Created(_) => Ok(()),
            Put::Exists => Err(WorkError::Control {
                key: key.to_owned(),
                message: "exists with other content; no other writer may use this prefix".to_owned(),
            }),
        }
    }

    // --- steps ---

    /// Fetches and encodes a new batch and writes its list object.
    ///
    /// # Errors
    /// When any of that fails: then the batch does not exist.
    pub async fn prepare(
        &self,
        id: BatchId,
        objects: Vec<Staged>,
        now: UnixMs,
    ) -> Result<Outline, WorkError> {
        let oldest = objects.iter().map(|staged| staged.parts.time).min();
        let sources = self.fetch(id, objects.into_iter().map(|staged| staged.key).collect()).await?;
        let encoded = self.encode_unloaded(id, sources, now).await?;
        failpoint("encoded");
        let list = BatchList {
            id,
            pipeline: Some(self.pipeline()),
            encoder: ENCODER_VERSION,
            created: now,
            shard: u32::try_from(id.number % u64::from(self.settings.shards.max(1))).unwrap_or(0) + 1,
            objects: encoded.members,
            first: encoded.attempt,
        };
        let body = to_json(&list, &id.list_key())?;
        self.put(&id.list_key(), body, &json_meta()).await?;
        failpoint("list-written");
        let outline = Outline::of(&list.first, 0);
        let kept = Kept {
            attempt: Arc::new(list.first.clone()),
            list: Arc::new(list),
            number: 0,
            bodies: Some(Arc::new(encoded.bodies)),
            letters: Some(Arc::new(encoded.letters)),
            oldest,
            received: encoded.earliest,
        };
        self.kept.lock().insert(id, kept);
        Ok(outline)
    }

    /// Reads a batch's control objects; `None`: one of them is gone.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn load(&self, id: BatchId, number: u64) -> Result<Option<(Outline, Vec<String>)>, WorkError> {
        let Some(list) = self.read::<BatchList>(&id.list_key()).await? else { return Ok(None) };
        let attempt = if number == 0 {
            list.first.clone()
        } else {
            match self.read::<AttemptList>(&id.attempt_key(number)).await? {
                Some(attempt) => attempt.attempt,
                None => return Ok(None),
            }
        };
        let keys: Vec<String> = list.objects.iter().map(|member| member.key.clone()).collect();
        let times = keys.iter().filter_map(|key| spillway_model::ObjectKey::parse(key).ok());
        let outline = Outline::of(&attempt, number);
        let kept = Kept {
            oldest: times.map(|parts| parts.time).min(),
            list: Arc::new(list),
            number,
            attempt: Arc::new(attempt),
            bodies: None,
            letters: None,
            received: None,
        };
        self.kept.lock().insert(id, kept);
        Ok(Some((outline, keys)))
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, WorkError> {
        let Some((bytes, _)) = self.bucket.get(key).await? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| WorkError::Control {
            key: key.to_owned(),
            message: format!("is damaged: {error}"),
        })
    }

    /// Writes the dead letters of an attempt.
    ///
    /// # Errors
    /// When they can't be written.
    pub async fn bury(&self, id: BatchId, number: u64) -> Result<(), WorkError> {
        let kept = self.kept(id)?;
        let dead: Vec<DeadRow> =
            kept.attempt.dead.iter().filter(|dead| dead.attempt == number).cloned().collect();
        let letters = match &kept.letters {
            Some(letters) if number == 0 => letters.clone(),
            _ => {
                let sources = self.sources(&kept).await?;
                let rows = RowSet::from_sorted(dead.iter().map(|dead| dead.row));
                let mut lines = encode::raw_lines(&sources, &rows);
                let letters = dead.into_iter().filter_map(|row| {
                    let (object, raw) = lines.remove(&row.row)?;
                    Some(DeadLetter::new(id, row, object, &raw))
                });
                Arc::new(letters.collect())
            }
        };
        let key = dead::key(id, number, kept.list.created);
        let failed = |error: spillway_model::CodecError| WorkError::Control {
            key: key.clone(),
            message: error.to_string(),
        };
        let body = dead::encode(&letters).map_err(failed)?;
        let meta = PutMeta { content_type: Some("application/gzip"), tagging: Some(dead::tagging()) };
        // What is there was written by an earlier try for this very attempt, perhaps by an older version.
        if let Put::Created(_) = self.bucket.put_if_absent(&key, body.into(), &meta).await? {
            self.metrics.dead_lettered(&letters);
        }
        self.change(id, |kept| kept.letters = None);
        Ok(())
    }

    /// Inserts one piece under its token.
    ///
    /// # Errors
    /// Never: what went wrong is part of the answer, with a text for the status.
    pub async fn insert(
        &self,
        id: BatchId,
        number: u64,
        piece: usize,
        past_views: bool,
    ) -> (Inserted, Option<WorkError>) {
        let bodies = match self.bodies(id, number).await {
            Ok(Some(bodies)) => bodies,
            Ok(None) => return (Inserted::OtherBytes, None),
            Err(error @ WorkError::Vanished { .. }) => return (Inserted::Vanished, Some(error)),
            Err(error) => return (Inserted::NotSent, Some(error)),
        };
        let Some(body) = bodies.get(piece) else { return (Inserted::OtherBytes, None) };
        let shard = self.kept(id).map_or(1, |kept| kept.list.shard);
        let pipeline = self.pipeline();
        let token = id.token(&pipeline, number, piece);
        let attempt = ledger::Attempt {
            token: &token,
            query_id: &token,
            max_execution_time: u32::try_from(self.settings.insert_timeout.as_secs().max(1))
                .unwrap_or(u32::MAX),
            rows: body.rows,
            shard,
            past_views,
        };
        let sql = ledger::insert_statement(&self.spec, body.columns.iter().copied(), "ArrowStream");
        let settings = ledger::insert_settings(&self.spec, &self.server, attempt);
        // The server gives up first, so that its answer, not our patience, ends the insert.
        let patience = self.settings.insert_timeout + Duration::from_secs(10);
        let inserting = self.clickhouse.insert(&sql, &token, &settings, body.bytes.clone(), patience);
        let result = crate::failpoint::during("inserting", inserting).await;
        failpoint("inserted");
        match result {
            Ok(()) => (Inserted::Yes, None),
            Err(error) => {
                let outcome = match &error {
                    ClickHouseError::Refused { code, .. } if is_data_error(*code) => Inserted::BadData,
                    ClickHouseError::Refused { .. } => Inserted::Refused,
                    ClickHouseError::Unclear { .. } => Inserted::Unclear,
                    ClickHouseError::Unreachable { .. }
                    | ClickHouseError::Denied { .. }
                    | ClickHouseError::Invalid(_) => Inserted::NotSent,
                };
                if matches!(outcome, Inserted::Refused | Inserted::Unclear) {
                    // It may take long until they are wanted again, and others need the memory.
                    self.change(id, |kept| kept.bodies = None);
                }
                (outcome, Some(error.into()))
            }
        }
    }

    /// The bodies of the current attempt; `None`: the encoder makes other bytes of the rows now.
    async fn bodies(&self, id: BatchId, number: u64) -> Result<Option<Arc<Vec<Body>>>, WorkError> {
        let kept = self.kept(id)?;
        if let Some(bodies) = &kept.bodies
            && kept.number == number
        {
            return Ok(Some(bodies.clone()));
        }
        let sources = self.sources(&kept).await?;
        let pieces: Vec<RowSet> = kept.attempt.pieces.iter().map(|piece| piece.rows.clone()).collect();
        let encoded = self.encode(id, sources, Some(pieces)).await?;
        let same = encoded.attempt.pieces.iter().map(|piece| &piece.digest).eq(kept
            .attempt
            .pieces
            .iter()
            .map(|piece| &piece.digest));
        if !same {
            return Ok(None);
        }
        let bodies = Arc::new(encoded.bodies);
        self.change(id, |kept| kept.bodies = Some(bodies.clone()));
        Ok(Some(bodies))
    }

    fn days(attempt: &Attempt) -> Option<DayRange> {
        let days = || attempt.partitions.iter().map(|(partition, _)| partition.day);
        Some(DayRange { first: days().min()?, last: days().max()? })
    }

    /// On a cluster: replicas that are behind must not make rows look missing.
    async fn catch_up(&self) -> Result<(), WorkError> {
        match ledger::sync_statement(&self.spec) {
            Some(sql) => Ok(self.clickhouse.execute(&sql, &[]).await?),
            None => Ok(()),
        }
    }

    /// Whether the table holds all rows of the batch, expired ones left out.
    ///
    /// # Errors
    /// When the server gives no answer.
    pub async fn count(&self, id: BatchId) -> Result<bool, WorkError> {
        let kept = self.kept(id)?;
        let Some(days) = Self::days(&kept.attempt) else { return Ok(true) };
        self.catch_up().await?;
        let batch_id = id.in_table(&self.pipeline());
        let sql = ledger::count_partitions(&self.spec, &batch_id, days);
        let rows: Vec<PartitionRows> =
            self.clickhouse.query_json(&sql, &ledger::read_settings(&self.spec)).await?;
        let found = |partition: &Partition| {
            let same = |row: &&PartitionRows| {
                Day(row.day) == partition.day && row.retention_days == partition.retention_days
            };
            rows.iter().find(same).map_or(0, |row| row.rows)
        };
        let all = kept.attempt.partitions.iter().all(|(partition, expected)| found(partition) >= *expected);
        let today = if all { Day(i32::MIN) } else { self.today().await? };
        let mut full = true;
        for (partition, expected) in &kept.attempt.partitions {
            let found = found(partition);
            if found > *expected {
                tracing::error!(batch = %id, found, expected, "the table holds more rows of a batch than were staged");
                self.metrics.overfull();
            }
            full &= found >= *expected || partition.is_expired(today);
        }
        if full {
            if let Some(received) = kept.received {
                self.metrics.queryable(UnixMs::now(), received, kept.attempt.rows());
            }
            self.change(id, |kept| {
                kept.bodies = None;
                kept.received = None;
            });
        }
        Ok(full)
    }

    /// The day by which the server drops rows.
    async fn today(&self) -> Result<Day, WorkError> {
        let rows: Vec<Today> = self.clickhouse.query_json(ledger::today(), &[]).await?;
        let missing =
            || ClickHouseError::Invalid("ClickHouse answered nothing when asked for its day".to_owned());
        Ok(Day(rows.first().ok_or_else(missing)?.today))
    }

    /// Gives the memory of a batch's bodies back while it can't go on.
    pub fn rest(&self, id: BatchId) {
        self.change(id, |kept| kept.bodies = None);
    }

    /// Whether an insert (or repair) of the batch runs at the server, and since when the server does.
    ///
    /// # Errors
    /// When the server gives no answer.
    pub async fn running(&self, id: BatchId) -> Result<flight::Server, WorkError> {
        // Of any attempt: after a rebuild the manifest may name a later one than was under way.
        let sql = ledger::running(&self.spec, &format!("{}-", id.in_table(&self.pipeline())));
        let running: Vec<Running> = self.clickhouse.query_json(&sql, &[]).await?;
        let up: Vec<Uptime> = self.clickhouse.query_json(ledger::uptime(), &[]).await?;
        let up = up.first().map_or(0, |up| u64::from(up.seconds) * 1_000);
        Ok(flight::Server { running: !running.is_empty(), up })
    }

    /// Works out which rows are missing and writes the object of the next attempt.
    ///
    /// # Errors
    /// When the rows can't be asked for or the object can't be written.
    pub async fn find_missing(
        &self,
        id: BatchId,
        next: u64,
        refused: Vec<usize>,
        bury_whole: bool,
    ) -> Result<Outline, WorkError> {
        let kept = self.kept(id)?;
        self.catch_up().await?;
        let present = match Self::days(&kept.attempt) {
            Some(days) => {
                let batch_id = id.in_table(&self.pipeline());
                let sql = ledger::present_rows(&self.spec, &batch_id, days);
                let rows: Vec<PresentRows> =
                    self.clickhouse.query_json(&sql, &ledger::read_settings(&self.spec)).await?;
                let Ok([present]) = <[PresentRows; 1]>::try_from(rows) else {
                    let message = "ClickHouse gave no list of a batch's rows, not even an empty one";
                    return Err(ClickHouseError::Invalid(message.to_owned()).into());
                };
                RowSet::from_sorted(present.rows)
            }
            None => RowSet::default(),
        };
        let sources = self.sources(&kept).await?;
        let width = self.settings.partitions;
        let before = kept.attempt.clone();
        let today = self.today().await?;
        let survey_sources = sources.clone();
        let planned = tokio::task::spawn_blocking(move || {
            let survey = encode::survey(&survey_sources);
            let missing = (0_u32..).zip(&survey.rows).filter_map(|(row, info)| {
                let partition = survey.partitions.get(info.as_ref()?.partition as usize)?;
                let expired = partition.is_expired(today);
                let dead = before.dead.iter().any(|dead| dead.row == row);
                (!expired && !dead && !present.contains(row)).then_some(row)
            });
            let missing = RowSet::from_sorted(missing);
            let pieces: Vec<&RowSet> = refused
                .iter()
                .filter_map(|piece| before.pieces.get(*piece))
                .map(|piece| &piece.rows)
                .collect();
            let planned = encode::next_attempt(&survey, &missing, &pieces, bury_whole, width);
            (survey, planned)
        });
        let (survey, planned) =
            planned.await.map_err(|error| WorkError::Encode { batch: id, message: error.to_string() })?;
        let encoded = self.encode(id, sources, Some(planned.pieces)).await?;
        let mut attempt = Attempt { pieces: encoded.attempt.pieces, ..Attempt::clone(&kept.attempt) };
        for row in planned.dead {
            let Some(info) = survey.rows.get(row as usize).copied().flatten() else { continue };
            let project = survey.projects[info.project as usize].clone();
            let partition = survey.partitions[info.partition as usize];
            if let Some(rows) = attempt.projects.get_mut(&project) {
                *rows = rows.saturating_sub(1);
            }
            if let Some((_, rows)) = attempt.partitions.iter_mut().find(|(known, _)| *known == partition) {
                *rows = rows.saturating_sub(1);
            }
            attempt.dead.push(DeadRow {
                row,
                rows: 1,
                attempt: next,
                project: Some(project),
                reason: "refused".to_owned(),
                detail: "ClickHouse refuses the row; its log and the syncer's tell why".to_owned(),
            });
        }
        let list = AttemptList { id, number: next, encoder: ENCODER_VERSION, attempt };
        let key = id.attempt_key(next);
        self.put(&key, to_json(&list, &key)?, &json_meta()).await?;
        let outline = Outline::of(&list.attempt, next);
        self.change(id, |kept| {
            kept.number = next;
            kept.attempt = Arc::new(list.attempt);
            kept.bodies = Some(Arc::new(encoded.bodies));
            kept.letters = None;
        });
        Ok(outline)
    }

    /// Recomputes the batch's rows in every view.
    ///
    /// # Errors
    /// When a view fails.
    pub async fn repair(&self, id: BatchId, version: u64) -> Result<(), WorkError> {
        let kept = self.kept(id)?;
        let Some(days) = Self::days(&kept.attempt) else { return Ok(()) };
        let pipeline = self.pipeline();
        let batch_id = id.in_table(&pipeline);
        let seconds = u32::try_from(self.settings.insert_timeout.as_secs().max(1)).unwrap_or(u32::MAX);
        for view in View::of(&self.spec) {
            let query_id = format!("{batch_id}-repair-{}-{version}", view.suffix());
            let settings = ledger::repair_settings(&self.server, &query_id, seconds);
            self.clickhouse
                .execute(&view.repair_statement(&self.spec, &batch_id, days, version), &settings)
                .await?;
        }
        self.metrics.repaired();
        Ok(())
    }

    /// Deletes the batch's objects.
    ///
    /// # Errors
    /// When some could not be deleted.
    pub async fn delete(&self, id: BatchId) -> Result<(), WorkError> {
        let kept = self.kept(id)?;
        failpoint("deleting");
        let keys: Vec<String> = kept.list.objects.iter().map(|member| member.key.clone()).collect();
        self.delete_keys(&keys).await?;
        failpoint("deleted");
        Ok(())
    }

    /// Deletes keys; one that is gone counts as deleted.
    ///
    /// # Errors
    /// When some could not be deleted: all that could be are gone.
    pub async fn delete_keys(&self, keys: &[String]) -> Result<(), WorkError> {
        let failed = self.bucket.delete_many(keys).await?;
        self.metrics.deleted(keys.len() - failed.len(), failed.len());
        match failed.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }
}

fn json_meta() -> PutMeta {
    PutMeta { content_type: Some("application/json"), tagging: None }
}

fn to_json<T: serde::Serialize>(value: &T, key: &str) -> Result<Vec<u8>, WorkError> {
    serde_json::to_vec(value)
        .map_err(|error| WorkError::Control { key: key.to_owned(), message: error.to_string() })
}
