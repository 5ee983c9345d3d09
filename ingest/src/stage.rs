//! Takes what is due from the buffers, encodes it and writes it to the bucket, until the bucket has it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use spillway_bucket::{BucketError, Put};
use spillway_model::settings::IngestSettings;
use spillway_model::{CodecError, FormatVersion, Home, Incarnation, ObjectKey, TenantName, UnixMs, codec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::buffers::{Buffers, Job, Member};
use crate::failing::Failing;
use crate::limits::Bucket as Tokens;
use crate::metrics::Metrics;
use crate::retry::{self, Failure};
use crate::store::Store;

/// The flusher looks at least so often, so that `/livez` can tell that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Makes an object's body of its members, at a level of compression.
type Encoder = fn(&mut [Member], i32) -> Result<Bytes, CodecError>;

/// Writes the buffers' objects.
pub(crate) struct Stager {
    buffers: Arc<Buffers>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    incarnation: Incarnation,
    number: AtomicU64,
    level: i32,
    encoder: Encoder,
    put_timeout: Duration,
    /// PUTs that may be under way, from the encoding to the answer. One that waits to be repeated is not.
    slots: Arc<Semaphore>,
    /// PUTs that may be sent now.
    budget: Mutex<Tokens>,
    /// The half of both that repeated PUTs may have: what fails must leave the rest to what does not.
    slots_again: Semaphore,
    budget_again: Mutex<Tokens>,
    failing: Arc<Failing>,
    /// Nothing is sent before: the store asked to slow down.
    not_before: Mutex<Instant>,
    /// Encoders at work: more than there are cores would only take memory.
    encoders: Semaphore,
    beat: Mutex<Instant>,
    /// Everything is due.
    hurry: CancellationToken,
}

/// An encoded object and what waits for it.
struct Encoded {
    body: Bytes,
    members: Vec<Member>,
}

/// What a PUT holds while it is under way; given back when it waits to be repeated.
struct Turn<'a> {
    _slot: Option<OwnedSemaphorePermit>,
    _again: Option<SemaphorePermit<'a>>,
}

impl Stager {
    pub(crate) fn new(
        settings: &IngestSettings,
        buffers: Arc<Buffers>,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        incarnation: Incarnation,
    ) -> Arc<Self> {
        let now = Instant::now();
        let concurrency = settings.put_concurrency as usize;
        let puts_per_second = f64::from(settings.max_puts_per_second);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Arc::new(Self {
            buffers,
            store,
            metrics,
            incarnation,
            number: AtomicU64::new(0),
            level: settings.compression_level,
            encoder: encode_members,
            put_timeout: settings.put_timeout.get(),
            slots: Arc::new(Semaphore::new(concurrency)),
            budget: Mutex::new(Tokens::new(puts_per_second, 1.0, now)),
            slots_again: Semaphore::new((concurrency / 2).max(1)),
            budget_again: Mutex::new(Tokens::new(puts_per_second / 2.0, 1.0, now)),
            failing: Failing::new(concurrency),
            not_before: Mutex::new(now),
            encoders: Semaphore::new(cores),
            beat: Mutex::new(now),
            hurry: CancellationToken::new(),
        })
    }

    /// From now on everything is due at once, whatever the PUT budget: the process is about to stop.
    pub(crate) fn hurry(&self) {
        self.hurry.cancel();
    }

    /// How long ago the flusher last looked at the buffers.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.beat.lock())
    }

    /// Flushes for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let now = Instant::now();
            *self.beat.lock() = now;
            let hurry = self.hurry.is_cancelled();
            let held_back = self.failing.held_back();
            let (jobs, next) = self.buffers.take(now, self.puts(now, hurry), hurry, &held_back);
            self.budget.lock().charge(jobs.len() as u64, now);
            for job in jobs {
                // Taken here, so that the next look knows of it. None: a repeated PUT was faster.
                let slot = Arc::clone(&self.slots).try_acquire_owned().ok();
                tokio::spawn(Arc::clone(&self).stage(job, slot));
            }
            let wake = self.wake_at(now, next, hurry);
            tokio::select! {
                () = self.buffers.changed.notified() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = self.hurry.cancelled(), if !hurry => {}
            }
        }
    }

    /// How many PUTs may begin now.
    fn puts(&self, now: Instant, hurry: bool) -> usize {
        let free = self.slots.available_permits();
        if hurry {
            return free;
        }
        if now < *self.not_before.lock() {
            return 0;
        }
        free.min(usize::try_from(self.budget.lock().available(now)).unwrap_or(usize::MAX))
    }

    fn wake_at(&self, now: Instant, next: Option<Instant>, hurry: bool) -> Instant {
        let latest = now + HEARTBEAT;
        match next {
            None => latest,
            // Due but not taken: for want of a free PUT, whose end notifies, or of budget, which is waited for.
            Some(at) if at <= now && !hurry => {
                let budget = now + self.budget.lock().wait(now).max(Duration::from_millis(5));
                budget.max(*self.not_before.lock()).min(latest)
            }
            Some(at) => at.clamp(now + Duration::from_millis(1), latest),
        }
    }

    async fn stage(self: Arc<Self>, job: Job, slot: Option<OwnedSemaphorePermit>) {
        let oldest = job.members.iter().flat_map(|m| &m.segments).map(|s| s.since).min();
        if let Some(encoded) = self.encode(job).await {
            self.put(&encoded, slot).await;
            self.buffers.staged(&encoded.members);
            for segment in encoded.members.iter().flat_map(|m| &m.segments) {
                if let Some(waiter) = &segment.waiter {
                    waiter.one_staged();
                }
            }
            if let Some(oldest) = oldest {
                self.metrics.stage_seconds.observe(oldest.elapsed().as_secs_f64());
            }
        } else {
            drop(slot);
        }
        self.buffers.changed.notify_one();
    }

    async fn encode(&self, job: Job) -> Option<Encoded> {
        let _permit = self.encoders.acquire().await.ok()?;
        let (encoder, level) = (self.encoder, self.level);
        let started = Instant::now();
        let encoded = tokio::task::spawn_blocking(move || encode(job, |m| encoder(m, level))).await;
        match encoded {
            Ok(Ok(encoded)) => {
                self.metrics.encode_seconds.observe(started.elapsed().as_secs_f64());
                Some(encoded)
            }
            Ok(Err((members, error))) => {
                let records: u64 = members.iter().map(|m| m.records).sum();
                tracing::error!(error, records, "rows could not be encoded and are lost");
                self.buffers.lost(&members);
                None
            }
            Err(error) => {
                tracing::error!(%error, "encoding a flush failed and its rows are lost");
                None
            }
        }
    }

    fn next_key(&self, members: &[Member]) -> ObjectKey {
        let home = match members {
            [only] => {
                Home::Stream { project: only.stream.project.clone(), service: only.stream.service.clone() }
            }
            _ => Home::Packed,
        };
        ObjectKey {
            home,
            time: UnixMs::now(),
            incarnation: self.incarnation.clone(),
            number: self.number.fetch_add(1, Ordering::Relaxed) + 1,
            version: FormatVersion::V1,
            rows: members.iter().map(|m| m.records).sum(),
            raw_bytes: members.iter().map(|m| m.bytes).sum(),
        }
    }

    /// Until the bucket has it. What came of an attempt may be unknown, so every attempt writes the same
    /// bytes under the same key.
    async fn put(&self, encoded: &Encoded, slot: Option<OwnedSemaphorePermit>) {
        let mut key = self.next_key(&encoded.members);
        let mut attempt = 0;
        let mut slot = Some(slot);
        let mut failing = None;
        loop {
            attempt += 1;
            let turn = match slot.take() {
                Some(slot) => self.first_turn(slot).await,
                None => self.turn_again().await,
            };
            let text = key.to_string();
            let started = Instant::now();
            let put = self.store.put(&text, encoded.body.clone());
            let result = tokio::time::timeout(self.put_timeout, put).await;
            drop(turn);
            self.metrics.put_seconds.observe(started.elapsed().as_secs_f64());
            let (failure, reason, detail) = match result {
                Ok(Ok(Put::Created(_))) => {
                    self.metrics.put("created");
                    self.metrics.object(encoded.members.len() > 1, encoded.body.len() as u64);
                    if attempt > 1 {
                        tracing::info!(key = text, attempt, "object staged after all");
                    }
                    return;
                }
                Ok(Ok(Put::Exists)) => {
                    // Another process has this incarnation: ours goes elsewhere, theirs is not touched.
                    tracing::error!(key = text, "the key holds another object; the next number is taken");
                    self.metrics.put("exists");
                    key = self.next_key(&encoded.members);
                    continue;
                }
                Ok(Err(error)) => (failure(&error), error.reason(), error.to_string()),
                Err(_) => (Failure::Transient, "Timeout", format!("no answer in {:?}", self.put_timeout)),
            };
            self.metrics.put(reason);
            failing.get_or_insert_with(|| self.failing.add(owner(&encoded.members)));
            // A PUT is free for what does not fail.
            self.buffers.changed.notify_one();
            let pause = retry::pause(attempt, failure, rand::random());
            if attempt == 1 || attempt.is_multiple_of(10) {
                let rows = key.rows;
                tracing::warn!(
                    key = text,
                    attempt,
                    rows,
                    reason,
                    detail,
                    ?pause,
                    "object not staged yet; trying again"
                );
            }
            self.wait(pause, failure).await;
        }
    }

    async fn first_turn(&self, slot: Option<OwnedSemaphorePermit>) -> Turn<'_> {
        let slot = match slot {
            Some(slot) => Some(slot),
            None => Arc::clone(&self.slots).acquire_owned().await.ok(),
        };
        Turn { _slot: slot, _again: None }
    }

    async fn turn_again(&self) -> Turn<'_> {
        let again = self.slots_again.acquire().await.ok();
        while let Some(wait) = self.budget_for_again() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.hurry.cancelled() => break,
            }
        }
        self.budget.lock().charge(1, Instant::now());
        Turn { _slot: Arc::clone(&self.slots).acquire_owned().await.ok(), _again: again }
    }

    /// Takes one PUT of what repeated ones may have, or says how long to wait for it.
    fn budget_for_again(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut budget = self.budget_again.lock();
        let wait = budget.wait(now);
        if wait.is_zero() {
            budget.charge(1, now);
            return None;
        }
        Some(wait)
    }

    async fn wait(&self, pause: Duration, failure: Failure) {
        let until = {
            let until = Instant::now() + pause;
            let mut not_before = self.not_before.lock();
            if matches!(failure, Failure::SlowDown(_)) {
                *not_before = until.max(*not_before);
            }
            until.max(*not_before)
        };
        // While the process stops, a second is the most that can be spent waiting.
        let hurried = async {
            self.hurry.cancelled().await;
            tokio::time::sleep(pause.min(Duration::from_secs(1))).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = hurried => {}
        }
    }
}

/// Whose fault it is when these can't be written: nobody's when they share an object.
fn owner(members: &[Member]) -> Option<TenantName> {
    match members {
        [only] => Some(only.stream.tenant.clone()),
        _ => None,
    }
}

fn failure(error: &BucketError) -> Failure {
    match error {
        BucketError::SlowDown { .. } => Failure::SlowDown(error.retry_after()),
        error if error.is_transient() => Failure::Transient,
        _ => Failure::NeedsHelp,
    }
}

/// Encodes a job. One that can't be encoded comes back with the reason: its rows must be counted and its
/// requests answered, even after a panic.
fn encode(
    job: Job,
    encoder: impl FnOnce(&mut [Member]) -> Result<Bytes, CodecError>,
) -> Result<Encoded, (Vec<Member>, String)> {
    let mut members = job.members;
    // What a panic leaves of the members is their counts and who waits; nobody reads their rows again.
    match catch_unwind(AssertUnwindSafe(|| encoder(&mut members))) {
        Ok(Ok(body)) => Ok(Encoded { body, members }),
        Ok(Err(error)) => Err((members, error.to_string())),
        Err(_) => Err((members, "the encoder panicked".to_owned())),
    }
}

/// One gzip member per stream. The rows are freed: from here on only their encoded bytes are kept.
fn encode_members(members: &mut [Member], level: i32) -> Result<Bytes, CodecError> {
    let mut bodies = members.iter_mut().map(|m| encode_member(m, level)).collect::<Result<Vec<_>, _>>()?;
    Ok(match bodies.pop() {
        Some(only) if bodies.is_empty() => only.into(),
        Some(last) => {
            bodies.push(last);
            bodies.concat().into()
        }
        None => Bytes::new(),
    })
}

fn encode_member(member: &mut Member, level: i32) -> Result<Vec<u8>, CodecError> {
    let mut rows: Vec<_> = member.segments.iter_mut().map(|s| std::mem::take(&mut s.rows)).collect();
    match (rows.pop(), rows.is_empty()) {
        (Some(only), true) => codec::encode(FormatVersion::V1, &only, level),
        (Some(last), false) => {
            rows.push(last);
            codec::encode(FormatVersion::V1, &rows.concat(), level)
        }
        (None, _) => codec::encode(FormatVersion::V1, &[], level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack::Waiter;
    use crate::admit::StreamRows;
    use crate::buffers::{Append, LeftOver, Tally};
    use crate::failing::HeldBack;
    use crate::queue::Queue;
    use futures::future::BoxFuture;
    use spillway_model::settings::BucketSettings;
    use spillway_model::{ProjectId, ServiceName};

    struct NoStore;

    impl Store for NoStore {
        fn put<'a>(&'a self, key: &'a str, _: Bytes) -> BoxFuture<'a, Result<Put, BucketError>> {
            panic!("{key} was not to be written")
        }
    }

    #[tokio::test]
    async fn a_panic_in_the_encoder_is_counted_and_answered() {
        let settings = IngestSettings::new(BucketSettings::directory("unused"));
        let queue = Queue::new(&settings.queue);
        let buffers = Arc::new(Buffers::new(settings.flush.clone(), settings.objects, &settings.queue));
        let metrics = Arc::new(Metrics::new(Arc::clone(&buffers), Arc::clone(&queue)));
        let incarnation = Incarnation::new("test", 1);
        let mut stager =
            Stager::new(&settings, Arc::clone(&buffers), Arc::new(NoStore), metrics, incarnation);
        Arc::get_mut(&mut stager).unwrap().encoder = |_, _| panic!("as the test wants it");

        let tenant = TenantName::parse("acme").unwrap();
        let mut slot = queue.enter(&tenant, 1).unwrap();
        let held = slot.hand_over([1].into_iter());
        let (waiter, answered) = Waiter::new(1);
        let (project, service) = (ProjectId::parse("shop").unwrap(), ServiceName::parse("api").unwrap());
        let streams = vec![StreamRows { project, service, rows: vec![b'x'], count: 1 }];
        let waiter = Some(Arc::new(waiter));
        let tally = Tally { received: 1, ..Tally::default() };
        buffers.append(Append { tenant, tally, streams, held, waiter }, Instant::now()).unwrap();
        let (mut jobs, _) = buffers.take(Instant::now(), 1, true, &HeldBack::default());
        Arc::clone(&stager).stage(jobs.remove(0), None).await;
        assert!(answered.await.is_err(), "its request is told that it failed");
        assert!(buffers.is_empty());
        assert_eq!(queue.usage().bytes, 0);
        let left = buffers.give_up();
        assert_eq!(left, LeftOver { lost_records: 0, unacknowledged_records: 1 });
    }
}
