//! Runs the writer: begins what [`Core`] asks for, tells it what became of it, and keeps status and metrics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use spillway_bucket::{Bucket, BucketError, Swap, Tag};
use spillway_model::object::{DEAD_LETTER_DIR, SPILLWAY_DIR};
use spillway_model::settings::SyncerSettings;
use spillway_model::time::UnixMs;
use spillway_schema::{ClickHouse, ClickHouseError, SchemaSpec, Server, Topology};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::batch::{BATCHES_DIR, BatchId, PipelineUid};
use crate::core::{Action, Core, Done, Identity, Loaded, Stop};
use crate::failpoint::failpoint;
use crate::flight::{Inserted, Step, Task};
use crate::holder;
use crate::limits::Limits;
use crate::manifest::{MANIFEST_KEY, Manifest, ManifestError, State};
use crate::metrics::{Gauges, Metrics};
use crate::rebuild::RebuildError;
use crate::status::{LastError, STATUS_KEY, Status};
use crate::work::{WorkError, WorkSettings, Worker};

/// Keys asked for at once. S3 gives 1,000; a directory reads a whole folder for each page.
const PAGE: usize = 10_000;
/// Control objects read at once at a take-over.
const LOADS: usize = 32;
/// After this long without a failure the last one is no longer news.
const ERROR_MEMORY: Duration = Duration::from_secs(60);
/// Longest message that goes into the status.
const MESSAGE_LIMIT: usize = 1_000;

/// The syncer can't go on.
#[derive(Debug, thiserror::Error)]
pub enum SyncerError {
    /// Another writer took over, or control objects are lost.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The manifest can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bucket can't be used.
    #[error("the bucket can't be used: {0}")]
    Bucket(String),
    /// The server can't be used.
    #[error("ClickHouse can't be used: {0}")]
    ClickHouse(String),
    /// The Lease.
    #[error("the Lease can't be used: {0}")]
    Lease(String),
    /// A listener.
    #[error("{0}")]
    Admin(String),
    /// No manifest could be made in place of a lost one.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
}

impl SyncerError {
    /// A short label for conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Stopped(Stop::Fenced) => "Fenced",
            Self::Stopped(Stop::ManifestLost) => "ManifestLost",
            Self::Stopped(Stop::ListLost(_)) => "ListLost",
            Self::Stopped(Stop::Released) => "Released",
            Self::Manifest(_) => "ManifestUnusable",
            Self::Bucket(_) => "BucketUnusable",
            Self::ClickHouse(_) => "ClickHouseUnusable",
            Self::Lease(_) => "LeaseUnusable",
            Self::Admin(_) => "PortTaken",
            Self::Rebuild(error) => error.reason(),
        }
    }

    /// The process' exit code, see docs/cli.md.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(Stop::Fenced) => 5,
            Self::Stopped(Stop::Released) => 0,
            _ => 3,
        }
    }
}

/// The protocol's limits as the settings give them.
#[must_use]
pub fn limits(settings: &SyncerSettings) -> Limits {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let take_over_after = ms(settings.takeover_after.get());
    Limits {
        concurrency: settings.concurrency as usize,
        max_batches: settings.max_open_batches as usize * 8,
        delete_grace: ms(settings.delete_grace.get()),
        tombstones: ms(settings.removed_memory.get()),
        insert_deadline: ms(settings.insert_timeout.get()) + 30_000,
        heartbeat: (take_over_after / 4).max(100),
        take_over_after,
        window: spillway_schema::spec::DEDUPLICATION_WINDOW,
        list_busy: ms(settings.interval.get()),
        list_idle: ms(settings.idle_interval.get()).max(ms(settings.interval.get())),
        batch_rows: settings.batch.max_rows,
        batch_bytes: settings.batch.max_bytes.0,
        batch_age: ms(settings.batch.max_age.get()),
        ..Limits::default()
    }
}

/// How long after a manifest was lost something may yet arrive that was sent under it: its writer notices by the next
/// swap, and an insert takes so long at most.
#[must_use]
pub fn quiet_after(settings: &SyncerSettings) -> Duration {
    settings.takeover_after.get() + Duration::from_millis(limits(settings).insert_deadline)
}

/// Writes the first manifest of a pipeline, if there is none. To be called before anything is staged: a
/// syncer that finds data and no manifest stops.
///
/// # Errors
/// When rows or control objects of this pipeline are there without a manifest, or bucket or server can't be
/// asked.
pub async fn initialise(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
) -> Result<(), SyncerError> {
    let unusable = |error: BucketError| SyncerError::Bucket(error.to_string());
    if bucket.get(MANIFEST_KEY).await.map_err(unusable)?.is_some() {
        return Ok(());
    }
    let controls = has_controls(bucket).await.map_err(unusable)?;
    let rows =
        has_rows(clickhouse, spec).await.map_err(|error| SyncerError::ClickHouse(error.to_string()))?;
    if controls || rows {
        return Err(Stop::ManifestLost.into());
    }
    let manifest = Manifest::first(PipelineUid(random_name()), UnixMs::now());
    let body = manifest.to_bytes().map_err(ManifestError::from)?;
    // Lost: somebody else was first, with the same right.
    bucket.swap(MANIFEST_KEY, None, body.into()).await.map_err(unusable)?;
    Ok(())
}

async fn has_controls(bucket: &Bucket) -> Result<bool, BucketError> {
    Ok(!bucket.list(BATCHES_DIR, None, 1).await?.objects.is_empty())
}

/// Whether anything is staged, dead letters left out.
async fn has_staged(bucket: &Bucket) -> Result<bool, BucketError> {
    let mut after: Option<String> = None;
    loop {
        let page = bucket.list("", after.as_deref(), PAGE).await?;
        let control = |key: &str| key.starts_with(SPILLWAY_DIR) || key.starts_with(DEAD_LETTER_DIR);
        if page.objects.iter().any(|object| !control(&object.key)) {
            return Ok(true);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(false),
        }
    }
}

async fn has_rows(clickhouse: &ClickHouse, spec: &SchemaSpec) -> Result<bool, ClickHouseError> {
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(rename = "found")]
        _found: u8,
    }
    let sql = format!("SELECT 1 AS found FROM {} WHERE batch_id != '' LIMIT 1", spec.records());
    let rows: Vec<One> = clickhouse.query_json(&sql, &[]).await?;
    Ok(!rows.is_empty())
}

/// Shards of the cluster that holds the table; 1 without one.
async fn shards(clickhouse: &ClickHouse, spec: &SchemaSpec) -> Result<u32, ClickHouseError> {
    #[derive(serde::Deserialize)]
    struct Shards {
        shards: u32,
    }
    let Topology::Cluster(cluster) = &spec.topology else { return Ok(1) };
    let name = spillway_schema::sql::literal(cluster);
    let sql = format!("SELECT max(shard_num) AS shards FROM system.clusters WHERE cluster = {name}");
    let rows: Vec<Shards> = clickhouse.query_json(&sql, &[]).await?;
    Ok(rows.first().map_or(1, |row| row.shards.max(1)))
}

fn random_name() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// When a manifest that its writer has not released may be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakeOver {
    /// When its writer is seen to be dead, or it has stood still for `takeoverAfter`.
    WhenStill,
    /// At once: a Lease says that its writer is gone. Should it be wrong, the epoch stops that one.
    AtOnce,
}

/// Loads until `stop`, then finishes what it has begun and hands the manifest over. Dropped before that, it
/// leaves what it has begun to the next writer, as if it had been killed.
///
/// # Errors
/// See [`SyncerError`]; an unreachable bucket or server is waited for.
pub async fn run(
    settings: SyncerSettings,
    bucket: Bucket,
    clickhouse: ClickHouse,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), SyncerError> {
    run_as(TakeOver::WhenStill, settings, bucket, clickhouse, metrics, stop).await
}

pub(crate) async fn run_as(
    take_over: TakeOver,
    settings: SyncerSettings,
    bucket: Bucket,
    clickhouse: ClickHouse,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), SyncerError> {
    let _turn = Turn::begin(&metrics);
    let Some(server) = wait_until_usable(&bucket, &clickhouse, &settings, &stop).await? else {
        return Ok(());
    };
    let spec = SchemaSpec::from_settings(&settings.clickhouse);
    let work = WorkSettings {
        partitions: settings.batch.max_partitions as usize,
        fetches: settings.fetch_concurrency as usize,
        insert_timeout: settings.insert_timeout.get(),
        suspect_after: settings.removed_memory.get() / 2,
        shards: shards(&clickhouse, &spec)
            .await
            .map_err(|error| SyncerError::ClickHouse(error.to_string()))?,
    };
    let worker =
        Arc::new(Worker::new(bucket, clickhouse.clone(), spec.clone(), server, work, metrics.clone()));
    let me =
        Identity { nonce: random_name(), holder: holder::myself(), pipeline: PipelineUid(random_name()) };
    let (done, results) = mpsc::unbounded_channel();
    let runner = Runner {
        core: Core::new(limits(&settings), me),
        take_over,
        settings,
        spec,
        clickhouse,
        worker,
        metrics,
        clock: Instant::now(),
        done,
        last_error: Arc::default(),
        status: StatusWriter::default(),
        reopened: BTreeSet::new(),
        foreign_said: 0,
        tasks: CancellationToken::new(),
    };
    runner.run(results, stop).await
}

/// Preflight. What waiting can mend is waited for; `None`: told to stop meanwhile.
async fn wait_until_usable(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    settings: &SyncerSettings,
    stop: &CancellationToken,
) -> Result<Option<Server>, SyncerError> {
    let spec = SchemaSpec::from_settings(&settings.clickhouse);
    let mut pause = Duration::from_millis(200);
    loop {
        let problem = match try_preflight(bucket, clickhouse, &spec).await {
            Ok(server) => return Ok(Some(server)),
            Err((false, error)) => return Err(error),
            Err((true, error)) => error,
        };
        tracing::warn!(reason = problem.reason(), "not ready yet, trying again: {problem}");
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

/// The flag: whether waiting may help.
async fn try_preflight(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
) -> Result<Server, (bool, SyncerError)> {
    for finding in spillway_bucket::preflight::preflight(bucket, UnixMs::now).await {
        match finding.level {
            spillway_bucket::preflight::Level::Warning => tracing::warn!("{finding}"),
            spillway_bucket::preflight::Level::Error => {
                return Err((finding.is_transient, SyncerError::Bucket(finding.to_string())));
            }
        }
    }
    let usable = async {
        let server = spillway_schema::preflight::check_server(clickhouse).await?;
        spillway_schema::preflight::check_permissions(clickhouse, spec).await?;
        Ok(server)
    };
    usable.await.map_err(|error: spillway_schema::preflight::PreflightError| {
        let waits = matches!(
            &error,
            spillway_schema::preflight::PreflightError::ClickHouse(
                ClickHouseError::Unclear { .. }
                    | ClickHouseError::Unreachable { .. }
                    | ClickHouseError::Refused { .. }
            )
        );
        (waits, SyncerError::ClickHouse(error.to_string()))
    })
}

type SharedError = Arc<parking_lot::Mutex<Option<(Instant, LastError)>>>;

/// This process is the one that loads, until this is dropped.
struct Turn(Arc<Metrics>);

impl Turn {
    fn begin(metrics: &Arc<Metrics>) -> Self {
        metrics.leader(true);
        Self(metrics.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.set(Gauges::default());
        self.0.leader(false);
    }
}

struct Runner {
    core: Core<Tag>,
    take_over: TakeOver,
    settings: SyncerSettings,
    spec: SchemaSpec,
    clickhouse: ClickHouse,
    worker: Arc<Worker>,
    metrics: Arc<Metrics>,
    clock: Instant,
    done: mpsc::UnboundedSender<Outcome>,
    last_error: SharedError,
    status: StatusWriter,
    /// Batches whose rows were counted as loaded before they were found missing.
    reopened: BTreeSet<BatchId>,
    /// How many keys were last said to be no staged object's.
    foreign_said: usize,
    /// Cancelled with the runner: nothing it began may go on without it.
    tasks: CancellationToken,
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// What comes back from a task; besides what the core is told there are faults that end the process.
enum Outcome {
    Done(Done<Tag>),
    Fatal(SyncerError),
}

impl Runner {
    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(
        mut self,
        mut results: mpsc::UnboundedReceiver<Outcome>,
        stop: CancellationToken,
    ) -> Result<(), SyncerError> {
        let mut deadline: Option<tokio::time::Instant> = None;
        let mut given_up = false;
        let mut status_due =
            tokio::time::interval(self.settings.status_interval.get().max(Duration::from_millis(100)));
        status_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            for action in self.core.poll(self.now(), UnixMs::now()) {
                self.begin(action);
            }
            if let Some(stop) = self.core.stopped() {
                return match stop.clone() {
                    Stop::Released => Ok(()),
                    other => Err(other.into()),
                };
            }
            let now = self.now();
            let wake = Duration::from_millis(self.core.wake_at(now).saturating_sub(now).max(1));
            tokio::select! {
                outcome = results.recv() => {
                    let mut next = outcome;
                    while let Some(outcome) = next {
                        self.take(outcome)?;
                        next = results.try_recv().ok();
                    }
                }
                () = tokio::time::sleep(wake) => {}
                () = stop.cancelled(), if deadline.is_none() => {
                    self.core.stop();
                    deadline = Some(tokio::time::Instant::now() + self.settings.drain_timeout.get());
                }
                () = sleep_until(deadline) => {
                    if given_up {
                        let message = "the manifest could not be released before the stop; the next syncer waits until it has stood still";
                        return Err(SyncerError::Bucket(message.to_owned()));
                    }
                    given_up = true;
                    tracing::warn!("open batches were not finished in time; the next syncer settles them");
                    self.core.stop_at_once();
                    deadline = Some(tokio::time::Instant::now() + Duration::from_secs(5));
                }
                _ = status_due.tick() => self.tell(),
            }
            self.gauge();
            self.say_foreign();
        }
    }

    /// Objects that nobody will load must not lie there unnoticed: they may be of a newer version.
    fn say_foreign(&mut self) {
        let foreign = self.core.foreign();
        if foreign.len() != self.foreign_said {
            self.foreign_said = foreign.len();
            if let Some(first) = foreign.first() {
                let keys = foreign.len();
                tracing::warn!(
                    keys,
                    first,
                    "keys that are no staged object's (of this version) are left alone"
                );
            }
        }
    }

    fn take(&mut self, outcome: Outcome) -> Result<(), SyncerError> {
        let done = match outcome {
            Outcome::Done(done) => done,
            Outcome::Fatal(error) => return Err(error),
        };
        let swapped = matches!(done, Done::Swapped(_));
        let before = self.core.manifest().clone();
        let led = self.core.leading();
        self.core.done(self.now(), UnixMs::now(), done);
        if swapped {
            self.after_swap(&before);
        }
        if !led && self.core.leading() {
            tracing::info!(
                epoch = self.core.manifest().epoch,
                open = self.core.manifest().open(),
                "took the pipeline over"
            );
        }
        Ok(())
    }

    /// What a swap brought about, for metrics, logs and tests that kill the process here.
    fn after_swap(&mut self, before: &Manifest) {
        let after = self.core.manifest().clone();
        self.worker.set_pipeline(after.pipeline.clone());
        for (id, entry) in &after.batches {
            let was = before.batches.get(id).map(|entry| &entry.state);
            match (&entry.state, was) {
                (State::Open, None) => failpoint("planned"),
                (State::Inserted { .. }, Some(State::Open | State::Stuck { .. })) => {
                    let again = self.reopened.remove(id);
                    if let Some(flight) = self.core.flights().find(|flight| flight.id == *id && !again) {
                        self.metrics.loaded(&flight.outline);
                    }
                    failpoint("marked");
                }
                (State::Stuck { reason }, Some(State::Open)) => {
                    tracing::error!(batch = %id, reason, "a batch needs help: see docs/recovery.md");
                    self.metrics.batch("stuck");
                }
                (State::Open, Some(State::Inserted { .. })) => {
                    tracing::error!(batch = %id, "rows that were confirmed are missing now; inserting them again");
                    self.metrics.batch("reopened");
                    self.reopened.insert(*id);
                }
                _ => {}
            }
        }
        if before.batches.keys().any(|id| !after.batches.contains_key(id)) {
            failpoint("swapped-out");
        }
        self.worker.retain(|id| {
            after.batches.contains_key(&id) || self.core.flights().any(|flight| flight.id == id)
        });
    }

    fn gauge(&self) {
        let (mut in_flight, mut open, mut stuck) = (0, 0, 0);
        for flight in self.core.flights() {
            if flight.is_blocked() || flight.stuck {
                self.worker.rest(flight.id);
            }
            if flight.stuck {
                stuck += 1;
            } else if flight.is_open() && flight.step != Step::Prepare {
                open += 1;
                in_flight += flight.outline.rows;
            }
        }
        self.metrics.set(Gauges {
            leading: self.core.leading(),
            epoch: self.core.manifest().epoch,
            backlog: (self.core.backlog_seen(), self.core.backlog().rows(), self.core.backlog().raw_bytes()),
            in_flight,
            open,
            stuck,
            oldest: self.lag(),
            foreign: self.core.foreign().len() as u64,
        });
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds of lag need no more than 52 bits")]
    fn lag(&self) -> f64 {
        let waiting = self.core.flights().filter(|flight| flight.is_open() || flight.stuck);
        let oldest = waiting
            .filter_map(|flight| self.worker.oldest(flight.id))
            .chain(self.core.backlog().oldest())
            .min();
        oldest.map_or(0.0, |oldest| (UnixMs::now().0 - oldest.0).max(0) as f64 / 1_000.0)
    }

    /// Writes the status, if this is the writer.
    fn tell(&mut self) {
        if !self.core.leading() {
            return;
        }
        let manifest = self.core.manifest();
        let stuck = manifest.batches.iter().filter_map(|(id, entry)| match &entry.state {
            State::Stuck { reason } => Some((*id, reason.clone())),
            _ => None,
        });
        let in_flight = |flight: &&crate::flight::Flight| flight.is_open() && flight.step != Step::Prepare;
        let last_error = self
            .last_error
            .lock()
            .as_ref()
            .filter(|(at, _)| at.elapsed() < ERROR_MEMORY)
            .map(|(_, error)| error.clone());
        let status = Status {
            version: 1,
            at: UnixMs::now().0,
            holder: holder::name(&manifest.holder).to_owned(),
            epoch: manifest.epoch,
            seq: manifest.seq,
            backlog_objects: self.core.backlog_seen(),
            backlog_records: self.core.backlog().rows(),
            backlog_bytes: self.core.backlog().raw_bytes(),
            in_flight_records: self.core.flights().filter(in_flight).map(|flight| flight.outline.rows).sum(),
            open_batches: self.core.flights().filter(in_flight).count() as u64,
            lag_seconds: self.lag(),
            loaded_per_second: self.status.rate(manifest),
            stuck: stuck.collect(),
            server_at_fault: self.core.server_at_fault(),
            manifest_lost: false,
            foreign: self.core.foreign().iter().take(10).cloned().collect(),
            last_error,
            totals: manifest.totals.clone(),
        };
        self.status.write(self.worker.bucket().clone(), &status);
    }

    fn begin(&self, action: Action<Tag>) {
        let done = self.done.clone();
        let worker = self.worker.clone();
        let metrics = self.metrics.clone();
        let errors = self.last_error.clone();
        let report = Report { errors, metrics: metrics.clone() };
        let (clickhouse, spec) = (self.clickhouse.clone(), self.spec.clone());
        let epoch = self.core.manifest().epoch;
        let take_over = self.take_over;
        let task = async move {
            let outcome = match action {
                Action::ReadManifest => {
                    read_manifest(worker.bucket(), &clickhouse, &spec, take_over, &report).await
                }
                Action::Swap { expected, manifest } => {
                    Some(Outcome::Done(swap(&worker, expected.as_ref(), &manifest, &report).await))
                }
                Action::Load(ids) => {
                    let loaded = load(&worker, ids, &report).await;
                    let named: Option<BTreeSet<BatchId>> = match &loaded {
                        Done::Loaded(Ok(loaded)) => Some(loaded.iter().map(|loaded| loaded.id).collect()),
                        _ => None,
                    };
                    let _ = done.send(Outcome::Done(loaded));
                    if let Some(named) = named {
                        sweep(&worker, &named, epoch, &report).await;
                    }
                    None
                }
                Action::List(after) => {
                    metrics.bucket("list");
                    let page = report.note(
                        "list",
                        worker.bucket().list("", after.as_deref(), PAGE).await.map_err(WorkError::from),
                    );
                    failpoint("listed");
                    Some(Outcome::Done(Done::Page(page.map(|page| {
                        (page.objects.into_iter().map(|object| object.key).collect(), page.next.is_some())
                    }))))
                }
                Action::Prepare { id, objects } => {
                    let prepared = worker.prepare(id, objects, UnixMs::now()).await;
                    if let Err(error) = &prepared
                        && let Some(keys) = error.left_out()
                    {
                        let _ = done.send(Outcome::Done(Done::LeftOut(keys.to_vec())));
                    }
                    Some(Outcome::Done(Done::Prepared(id, report.note("prepare", prepared))))
                }
                Action::DropReturned(keys) => {
                    tracing::warn!(
                        objects = keys.len(),
                        "objects that were loaded before came back; deleting them again"
                    );
                    report.note("drop-returned", worker.delete_keys(&keys).await);
                    None
                }
                Action::Forget(ids) => {
                    let keys: Vec<String> =
                        ids.iter().flat_map(|(id, attempt)| control_keys(*id, *attempt)).collect();
                    report.note("forget", worker.delete_keys(&keys).await);
                    None
                }
                Action::Task { id, task } => Some(Outcome::Done(carry_out(&worker, id, task, &report).await)),
            };
            if let Some(outcome) = outcome {
                // The receiver is gone only when the process ends.
                let _ = done.send(outcome);
            }
        };
        let tasks = self.tasks.clone();
        tokio::spawn(async move { tasks.run_until_cancelled(task).await });
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn control_keys(id: BatchId, attempt: u64) -> Vec<String> {
    // Attempts in between are swept at the next take-over.
    let mut keys = vec![id.list_key()];
    if attempt > 0 {
        keys.push(id.attempt_key(attempt));
    }
    keys
}

/// Notes failures where people look for them.
struct Report {
    errors: SharedError,
    metrics: Arc<Metrics>,
}

impl Report {
    fn note<T>(&self, step: &'static str, result: Result<T, WorkError>) -> Option<T> {
        result.map_err(|error| self.failed(step, &error)).ok()
    }

    fn failed(&self, step: &'static str, error: &WorkError) {
        let reason = error.reason();
        self.metrics.failed(step, reason);
        let mut message = error.to_string();
        if message.len() > MESSAGE_LIMIT {
            let cut = (0..=MESSAGE_LIMIT).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(cut);
        }
        tracing::warn!(step, reason, "will be tried again: {message}");
        let error =
            LastError { at: UnixMs::now(), step: step.to_owned(), reason: reason.to_owned(), message };
        *self.errors.lock() = Some((Instant::now(), error));
    }
}

async fn read_manifest(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
    take_over: TakeOver,
    report: &Report,
) -> Option<Outcome> {
    let read = bucket.get(MANIFEST_KEY).await.map_err(WorkError::from);
    let unread = Some(Outcome::Done(Done::ManifestUnread));
    let Some(read) = report.note("read-manifest", read) else { return unread };
    if let Some((bytes, tag)) = read {
        return Some(match Manifest::parse(&bytes) {
            Ok(manifest) => {
                let holder_dead = take_over == TakeOver::AtOnce || holder::is_dead(&manifest.holder);
                Outcome::Done(Done::Manifest { manifest: Arc::new(manifest), tag, holder_dead })
            }
            Err(error) => Outcome::Fatal(error.into()),
        });
    }
    let found = async {
        Ok::<bool, WorkError>(
            has_controls(bucket).await? || has_staged(bucket).await? || has_rows(clickhouse, spec).await?,
        )
    };
    match report.note("look-for-data", found.await) {
        Some(found) => Some(Outcome::Done(Done::NoManifest { fresh: !found })),
        None => unread,
    }
}

async fn swap(worker: &Worker, expected: Option<&Tag>, manifest: &Manifest, report: &Report) -> Done<Tag> {
    let begun = Instant::now();
    let Ok(body) = manifest.to_bytes() else { return Done::SwapUnclear };
    let swapped = worker.bucket().swap(MANIFEST_KEY, expected, body.into()).await;
    report.metrics.swapped(begun.elapsed().as_secs_f64());
    match report.note("swap", swapped.map_err(WorkError::from)) {
        Some(Swap::Swapped(tag)) => Done::Swapped(tag),
        Some(Swap::Lost) => Done::SwapLost,
        None => Done::SwapUnclear,
    }
}

async fn load(worker: &Worker, ids: Vec<(BatchId, u64)>, report: &Report) -> Done<Tag> {
    let reads = stream::iter(
        ids.into_iter().map(|(id, attempt)| async move { (id, worker.load(id, attempt).await) }),
    );
    let mut reads = reads.buffer_unordered(LOADS);
    let mut loaded = Vec::new();
    while let Some((id, read)) = reads.next().await {
        match report.note("load", read) {
            Some(Some((outline, keys))) => loaded.push(Loaded { id, outline, keys }),
            Some(None) => return Done::Loaded(Err(Some(id))),
            None => return Done::Loaded(Err(None)),
        }
    }
    Done::Loaded(Ok(loaded))
}

/// Deletes control objects of earlier epochs that nothing names: batches that never got into the manifest.
async fn sweep(worker: &Worker, named: &BTreeSet<BatchId>, epoch: u64, report: &Report) {
    let mut after: Option<String> = None;
    loop {
        let page = worker.bucket().list(BATCHES_DIR, after.as_deref(), PAGE).await.map_err(WorkError::from);
        let Some(page) = report.note("sweep", page) else { return };
        let orphan = |key: &str| {
            let name = key.strip_prefix(BATCHES_DIR)?.strip_suffix(".json")?;
            let id: BatchId = name.split("-a").next()?.parse().ok()?;
            (id.epoch < epoch && !named.contains(&id)).then(|| key.to_owned())
        };
        let orphans: Vec<String> = page.objects.iter().filter_map(|object| orphan(&object.key)).collect();
        if !orphans.is_empty() {
            report.note("sweep", worker.delete_keys(&orphans).await);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return,
        }
    }
}

async fn carry_out(worker: &Worker, id: BatchId, task: Task, report: &Report) -> Done<Tag> {
    match task {
        Task::Bury { attempt } => match worker.bury(id, attempt).await {
            Err(error @ WorkError::Vanished { .. }) => {
                report.failed("bury", &error);
                Done::Vanished(id)
            }
            result => Done::Buried(id, report.note("bury", result).is_some()),
        },
        Task::Insert { attempt, piece, past_views } => {
            let begun = Instant::now();
            let (outcome, error) = worker.insert(id, attempt, piece, past_views).await;
            report.metrics.inserted(label(&outcome), begun.elapsed().as_secs_f64());
            if let Some(error) = error {
                report.failed("insert", &error);
            }
            Done::Inserted(id, outcome)
        }
        Task::Count => Done::Counted(id, report.note("count", worker.count(id).await)),
        Task::AskRunning => Done::Running(id, report.note("ask-running", worker.running(id).await)),
        Task::FindMissing { next, refused, bury_whole } => {
            match worker.find_missing(id, next, refused, bury_whole).await {
                Err(error @ WorkError::Vanished { .. }) => {
                    report.failed("find-missing", &error);
                    Done::Vanished(id)
                }
                result => Done::Missing(id, report.note("find-missing", result)),
            }
        }
        Task::Repair { version } => {
            Done::Repaired(id, report.note("repair", worker.repair(id, version).await).is_some())
        }
        Task::Delete => Done::Deleted(id, report.note("delete", worker.delete(id).await).is_some()),
    }
}

fn label(outcome: &Inserted) -> &'static str {
    match outcome {
        Inserted::Yes => "accepted",
        Inserted::BadData => "bad_data",
        Inserted::Refused => "refused",
        Inserted::Unclear => "unclear",
        Inserted::NotSent => "not_sent",
        Inserted::OtherBytes => "other_bytes",
        Inserted::Vanished => "vanished",
    }
}

/// Writes `_spillway/status.json`, one at a time: a slow bucket skips some.
#[derive(Default)]
struct StatusWriter {
    last: Option<(Instant, u64)>,
    tag: Arc<tokio::sync::Mutex<Option<Tag>>>,
}

impl StatusWriter {
    #[allow(clippy::cast_precision_loss, reason = "a rate need not be exact")]
    fn rate(&mut self, manifest: &Manifest) -> f64 {
        let loaded: u64 = manifest.totals.values().map(|totals| totals.loaded).sum();
        let now = Instant::now();
        let rate = self.last.map_or(0.0, |(at, before)| {
            loaded.saturating_sub(before) as f64 / now.duration_since(at).as_secs_f64().max(0.001)
        });
        self.last = Some((now, loaded));
        rate
    }

    fn write(&self, bucket: Bucket, status: &Status) {
        let Ok(body) = serde_json::to_vec(status) else { return };
        let tag = self.tag.clone();
        tokio::spawn(async move {
            let Ok(mut tag) = tag.try_lock() else { return };
            match bucket.swap(STATUS_KEY, tag.as_ref(), body.into()).await {
                Ok(Swap::Swapped(new)) => *tag = Some(new),
                // Somebody else's, or ours from an earlier life: the next one replaces it.
                Ok(Swap::Lost) => *tag = bucket.head(STATUS_KEY).await.ok().flatten().map(|head| head.tag),
                Err(error) => tracing::debug!("status not written: {error}"),
            }
        });
    }
}
