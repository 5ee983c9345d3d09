//! Rows in memory, one buffer per stream, raw until the flush: an encoder kept open per stream would take
//! more memory than the rows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use spillway_model::settings::{FlushSettings, Objects, QueueSettings};
use spillway_model::{ProjectId, ServiceName, TenantName};
use tokio::sync::Notify;

use crate::ack::Waiter;
use crate::admit::StreamRows;
use crate::books::Books;
use crate::failing::HeldBack;
use crate::flush::{self, Object, Waiting};
use crate::queue::{Bounds, Held, Overload};

/// A stream: one project and one service, of one tenant: a project may move to another while rows wait.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId {
    pub(crate) tenant: TenantName,
    pub(crate) project: ProjectId,
    pub(crate) service: ServiceName,
}

/// Rows of one request in one stream. They go into one object, whole.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) rows: Vec<u8>,
    pub(crate) count: u64,
    /// Who waits for them; none: acknowledged from memory.
    pub(crate) waiter: Option<Arc<Waiter>>,
    pub(crate) since: Instant,
    /// Keeps their place in the queue until they are staged.
    pub(crate) _held: Held,
}

#[derive(Debug, Default)]
struct Stream {
    segments: VecDeque<Segment>,
    bytes: u64,
    records: u64,
}

impl Stream {
    fn oldest(&self) -> Option<Instant> {
        self.segments.front().map(|s| s.since)
    }
}

/// A stream's part of an object.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) stream: StreamId,
    pub(crate) segments: Vec<Segment>,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// An object to be written.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) members: Vec<Member>,
}

/// Rows of one request that were admitted.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) tenant: TenantName,
    pub(crate) tally: Tally,
    pub(crate) streams: Vec<StreamRows>,
    pub(crate) held: Vec<Held>,
    pub(crate) waiter: Option<Arc<Waiter>>,
}

/// What a request counts for, apart from the rows that are buffered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub received: u64,
    /// Of the body, decompressed.
    pub bytes: u64,
    pub rejected: Vec<(&'static str, u64)>,
}

/// Why a request's rows were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Overload(Overload),
    /// The process is about to end: rows taken now would be lost.
    Closed,
}

/// What was not staged when the process stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOver {
    /// Acknowledged from memory, and gone.
    pub lost_records: u64,
    /// Gone as well, but nobody was told that they are stored: their senders were told that they will be once
    /// the bucket answers, or nothing.
    pub unacknowledged_records: u64,
}

impl LeftOver {
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.lost_records == 0 && self.unacknowledged_records == 0
    }
}

/// What `/metrics` shows of the buffers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) books: Books,
    pub(crate) streams: u64,
    pub(crate) oldest: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    streams: HashMap<StreamId, Stream>,
    /// Of all streams.
    bytes: u64,
    /// Of those, what the flusher held back when it looked last: it is no reason to flush the others early.
    held_back: u64,
    streams_of: HashMap<TenantName, u64>,
    books: Books,
    /// Records in flight that were acknowledged from memory.
    in_flight_from_memory: u64,
    /// Records that could never be staged.
    lost: u64,
    /// Of those, the ones that were acknowledged from memory.
    lost_from_memory: u64,
    /// No more rows are taken.
    closed: bool,
    /// When the flusher looks again by itself.
    wakes_at: Option<Instant>,
}

/// All streams of the process.
#[derive(Debug)]
pub(crate) struct Buffers {
    flush: FlushSettings,
    objects: Objects,
    max_streams_per_tenant: u64,
    /// Bytes in buffers beyond which the largest streams do not wait for their age.
    pressure: u64,
    inner: Mutex<Inner>,
    /// Something is due sooner than the flusher thinks.
    pub(crate) changed: Notify,
}

impl Buffers {
    pub(crate) fn new(flush: FlushSettings, objects: Objects, queue: &QueueSettings) -> Self {
        // What is being encoded and written fills the queue as well, and takes about as long again.
        let pressure = Bounds::new(queue).tenant.bytes / 4;
        Self {
            flush,
            objects,
            max_streams_per_tenant: queue.max_streams_per_tenant,
            pressure,
            inner: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Takes a request's rows, all or none of them.
    ///
    /// # Errors
    /// When the tenant would have too many streams, or after [`Self::close`].
    pub(crate) fn append(&self, append: Append, now: Instant) -> Result<(), NotTaken> {
        let Append { tenant, mut tally, streams, held, waiter } = append;
        let ids: Vec<_> = streams
            .iter()
            .map(|s| StreamId {
                tenant: tenant.clone(),
                project: s.project.clone(),
                service: s.service.clone(),
            })
            .collect();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let new = ids.iter().filter(|id| !inner.streams.contains_key(*id)).count() as u64;
        let open = inner.streams_of.entry(tenant.clone()).or_default();
        let refused = if inner.closed {
            Some(("draining", NotTaken::Closed))
        } else if new > 0 && *open + new > self.max_streams_per_tenant {
            let overload = Overload::TenantStreams { limit: self.max_streams_per_tenant };
            Some(("overload", NotTaken::Overload(overload)))
        } else {
            None
        };
        if let Some((reason, not_taken)) = refused {
            tally.rejected.push((reason, streams.iter().map(|s| s.count).sum()));
            inner.books.count(&tenant, &tally);
            return Err(not_taken);
        }
        *open += new;
        inner.books.count(&tenant, &tally);
        let mut due = false;
        for ((id, part), held) in ids.into_iter().zip(streams).zip(held) {
            inner.books.place(&tenant, &id.project).buffered += part.count;
            let stream = inner.streams.entry(id).or_default();
            stream.bytes += part.rows.len() as u64;
            inner.bytes += part.rows.len() as u64;
            stream.records += part.count;
            due |= stream.bytes >= self.flush.max_bytes.0 || stream.records >= self.flush.max_records;
            stream.segments.push_back(Segment {
                rows: part.rows,
                count: part.count,
                waiter: waiter.clone(),
                since: now,
                _held: held,
            });
        }
        due |= inner.bytes > self.pressure.saturating_add(inner.held_back);
        let by_age = now + self.flush.max_age.get();
        if due || inner.wakes_at.is_none_or(|at| at > by_age) {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Counts a request of which nothing is taken.
    pub(crate) fn count(&self, tenant: &TenantName, tally: &Tally) {
        self.inner.lock().books.count(tenant, tally);
    }

    /// Takes the rows of at most `puts` objects, and says when the next stream will be due: now, if one had
    /// to be left for want of budget. Who is held back has to wait for whoever notifies `changed` then.
    pub(crate) fn take(
        &self,
        now: Instant,
        puts: usize,
        at_once: bool,
        held_back: &HeldBack,
    ) -> (Vec<Job>, Option<Instant>) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.held_back = 0;
        let (mut due, mut early) = (Vec::new(), Vec::new());
        let mut next = None;
        for (id, stream) in &inner.streams {
            let Some(oldest) = stream.oldest() else { continue };
            if held_back.tenants.contains(&id.tenant) {
                inner.held_back += stream.bytes;
                continue;
            }
            let waiting = Waiting {
                stream: id,
                bytes: stream.bytes,
                records: stream.records,
                age: now.saturating_duration_since(oldest),
            };
            if flush::is_due(&waiting, &self.flush, at_once) {
                due.push(waiting);
            } else {
                let at = oldest + self.flush.max_age.get();
                next = Some(next.map_or(at, |n: Instant| n.min(at)));
                early.push(waiting);
            }
        }
        due.extend(flush::relieve(early, self.pressure));
        let count = due.len();
        let objects = if held_back.packed { Objects::PerService } else { self.objects };
        let plan: Vec<Vec<StreamId>> = flush::plan(due, puts, objects, self.flush.max_bytes.0)
            .into_iter()
            .map(|object| match object {
                Object::One(id) => vec![id.clone()],
                Object::Packed(ids) => ids.into_iter().cloned().collect(),
            })
            .collect();
        let planned: usize = plan.iter().map(Vec::len).sum();
        let mut left = count > planned;
        let jobs = plan
            .into_iter()
            .map(|ids| {
                let members = ids.into_iter().filter_map(|id| inner.take_stream(id, &self.flush, &mut left));
                Job { members: members.collect() }
            })
            .filter(|job| !job.members.is_empty())
            .collect();
        if left {
            next = Some(now);
        }
        inner.wakes_at = next;
        (jobs, next)
    }

    /// The rows of a job are in the bucket.
    pub(crate) fn staged(&self, members: &[Member]) {
        let mut inner = self.inner.lock();
        for member in members {
            let place = inner.books.place(&member.stream.tenant, &member.stream.project);
            place.in_flight = place.in_flight.saturating_sub(member.records);
            place.staged += member.records;
            place.staged_bytes += member.bytes;
            inner.in_flight_from_memory =
                inner.in_flight_from_memory.saturating_sub(from_memory(&member.segments));
        }
    }

    /// The rows of a job can never be staged.
    pub(crate) fn lost(&self, members: &[Member]) {
        let mut inner = self.inner.lock();
        for member in members {
            let place = inner.books.place(&member.stream.tenant, &member.stream.project);
            place.in_flight = place.in_flight.saturating_sub(member.records);
            place.lost += member.records;
            inner.lost += member.records;
            inner.lost_from_memory += from_memory(&member.segments);
            inner.in_flight_from_memory =
                inner.in_flight_from_memory.saturating_sub(from_memory(&member.segments));
        }
    }

    /// From now on no rows are taken.
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        let inner = self.inner.lock();
        inner.streams.is_empty() && inner.books.places.values().all(|p| p.in_flight == 0)
    }

    /// Gives up what is not staged and says what it was.
    pub(crate) fn give_up(&self) -> LeftOver {
        let mut inner = self.inner.lock();
        let buffered: u64 = inner.streams.values().map(|s| from_memory(&s.segments)).sum();
        let mut all = inner.lost;
        for place in inner.books.places.values_mut() {
            let gone = place.buffered + place.in_flight;
            all += gone;
            place.lost += gone;
            place.buffered = 0;
            place.in_flight = 0;
        }
        let lost_records = buffered + inner.in_flight_from_memory + inner.lost_from_memory;
        inner.streams.clear();
        inner.in_flight_from_memory = 0;
        LeftOver { lost_records, unacknowledged_records: all.saturating_sub(lost_records) }
    }

    pub(crate) fn snapshot(&self, now: Instant) -> Snapshot {
        let inner = self.inner.lock();
        let oldest = inner.streams.values().filter_map(Stream::oldest).min();
        Snapshot {
            books: inner.books.clone(),
            streams: inner.streams.len() as u64,
            oldest: oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
        }
    }
}

fn from_memory<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> u64 {
    segments.into_iter().filter(|s| s.waiter.is_none()).map(|s| s.count).sum()
}

impl Inner {
    /// Takes a stream's oldest segments, one object's worth.
    fn take_stream(&mut self, id: StreamId, flush: &FlushSettings, left: &mut bool) -> Option<Member> {
        let stream = self.streams.get_mut(&id)?;
        let (mut segments, mut bytes, mut records) = (Vec::new(), 0, 0);
        while bytes < flush.max_bytes.0
            && records < flush.max_records
            && let Some(segment) = stream.segments.pop_front()
        {
            bytes += segment.rows.len() as u64;
            records += segment.count;
            segments.push(segment);
        }
        stream.bytes = stream.bytes.saturating_sub(bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        stream.records = stream.records.saturating_sub(records);
        if stream.segments.is_empty() {
            self.streams.remove(&id);
            if let Some(open) = self.streams_of.get_mut(&id.tenant) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    self.streams_of.remove(&id.tenant);
                }
            }
        } else {
            // More came than one object takes; the rest has waited as long.
            *left = true;
        }
        let place = self.books.place(&id.tenant, &id.project);
        place.buffered = place.buffered.saturating_sub(records);
        place.in_flight += records;
        self.in_flight_from_memory += from_memory(&segments);
        Some(Member { stream: id, segments, records, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Queue;
    use spillway_model::settings::{ByteSize, Span};

    struct Case {
        buffers: Buffers,
        queue: Arc<Queue>,
        tenant: TenantName,
        now: Instant,
    }

    impl Case {
        fn new(objects: Objects) -> Self {
            let flush = FlushSettings { max_bytes: ByteSize(100), max_records: 1000, max_age: Span::ms(500) };
            let queue = QueueSettings {
                max_bytes: ByteSize(8000),
                tenant_share: 1.0,
                max_streams_per_tenant: 3,
                ..QueueSettings::default()
            };
            Self {
                buffers: Buffers::new(flush, objects, &queue),
                queue: Queue::new(&queue),
                tenant: TenantName::parse("acme").unwrap(),
                now: Instant::now(),
            }
        }

        /// Rows of so many bytes for each service, at so many milliseconds.
        fn append(&self, ms: u64, services: &[(&str, usize)], durable: bool) -> Result<(), NotTaken> {
            self.append_as(&self.tenant, ms, services, durable)
        }

        fn append_as(
            &self,
            tenant: &TenantName,
            ms: u64,
            services: &[(&str, usize)],
            durable: bool,
        ) -> Result<(), NotTaken> {
            let streams: Vec<_> = services
                .iter()
                .map(|(service, bytes)| StreamRows {
                    project: ProjectId::parse("shop").unwrap(),
                    service: ServiceName::parse(service).unwrap(),
                    rows: vec![b'x'; *bytes],
                    count: 1,
                })
                .collect();
            let mut slot = self.queue.enter(tenant, 0).unwrap();
            let held = slot.hand_over(streams.iter().map(|s| s.rows.len() as u64));
            let waiter = durable.then(|| Arc::new(Waiter::new(streams.len()).0));
            let tally = Tally { received: streams.len() as u64, ..Tally::default() };
            let append = Append { tenant: tenant.clone(), tally, streams, held, waiter };
            self.buffers.append(append, self.now + Duration::from_millis(ms))
        }

        /// The services and bytes of each object.
        fn take(&self, ms: u64, puts: usize) -> (Vec<Vec<(String, u64)>>, Option<u64>) {
            self.take_but(ms, puts, &HeldBack::default())
        }

        fn take_but(
            &self,
            ms: u64,
            puts: usize,
            held_back: &HeldBack,
        ) -> (Vec<Vec<(String, u64)>>, Option<u64>) {
            let at = self.now + Duration::from_millis(ms);
            let (jobs, next) = self.buffers.take(at, puts, false, held_back);
            let member = |m: &Member| (m.stream.service.to_string(), m.bytes);
            let jobs = jobs.iter().map(|job| job.members.iter().map(member).collect()).collect();
            (jobs, next.map(|at| (at - self.now).as_millis() as u64))
        }
    }

    #[test]
    fn a_stream_waits_for_its_age_and_says_how_long() {
        let case = Case::new(Objects::Adaptive);
        case.append(0, &[("a", 10)], true).unwrap();
        case.append(200, &[("a", 10), ("b", 10)], true).unwrap();
        assert_eq!(case.take(499, 10), (vec![], Some(500)));
        assert_eq!(case.take(500, 10), (vec![vec![("a".to_owned(), 20)]], Some(700)));
        assert_eq!(case.take(700, 10), (vec![vec![("b".to_owned(), 10)]], None));
    }

    #[test]
    fn what_is_due_but_has_no_put_is_due_again_at_once() {
        let case = Case::new(Objects::PerService);
        case.append(0, &[("a", 10), ("b", 10)], true).unwrap();
        assert_eq!(case.take(500, 0), (vec![], Some(500)));
        assert_eq!(case.take(500, 1).1, Some(500));
        assert_eq!(case.take(500, 1).1, None);
        assert!(!case.buffers.is_empty(), "in flight is not empty");
    }

    #[test]
    fn one_object_takes_about_its_bytes_and_the_rest_stays() {
        let case = Case::new(Objects::Adaptive);
        for _ in 0..5 {
            case.append(0, &[("a", 60)], true).unwrap();
        }
        assert_eq!(case.take(1, 10), (vec![vec![("a".to_owned(), 120)]], Some(1)));
        assert_eq!(case.take(2, 10), (vec![vec![("a".to_owned(), 120)]], Some(2)));
        assert_eq!(case.take(3, 10), (vec![], Some(500)));
    }

    #[test]
    fn a_request_that_opens_too_many_streams_is_refused_whole() {
        let case = Case::new(Objects::Adaptive);
        case.append(0, &[("a", 1), ("b", 1)], true).unwrap();
        let refused = case.append(0, &[("c", 1), ("d", 1)], true);
        assert_eq!(refused, Err(NotTaken::Overload(Overload::TenantStreams { limit: 3 })));
        assert_eq!(case.queue.usage().bytes, 2);
        case.append(0, &[("a", 1), ("c", 1)], true).unwrap();
        assert_eq!(case.take(500, 10).0.len(), 3);
        case.append(600, &[("d", 1), ("e", 1), ("f", 1)], true).unwrap();
        let books = case.buffers.snapshot(case.now).books;
        assert_eq!(books.sent[&case.tenant].rejected, [("overload", 2)].into());
        assert_eq!(books.sent[&case.tenant].received, 9);
    }

    #[test]
    fn closed_buffers_take_nothing_more() {
        let case = Case::new(Objects::Adaptive);
        case.append(0, &[("a", 1)], false).unwrap();
        case.buffers.close();
        assert_eq!(case.append(0, &[("a", 1)], false), Err(NotTaken::Closed));
        assert_eq!(case.queue.usage().bytes, 1);
        assert_eq!(case.buffers.give_up().lost_records, 1);
    }

    #[test]
    fn full_buffers_do_not_wait_for_age() {
        let case = Case::new(Objects::Adaptive);
        let big = Buffers::new(
            FlushSettings { max_bytes: ByteSize(1_000_000), ..case.buffers.flush.clone() },
            Objects::Adaptive,
            &QueueSettings { max_bytes: ByteSize(8000), tenant_share: 1.0, ..QueueSettings::default() },
        );
        let case = Case { buffers: big, ..case };
        case.append(0, &[("a", 1500), ("b", 400)], true).unwrap();
        assert_eq!(case.take(1, 10).0, Vec::<Vec<_>>::new());
        case.append(1, &[("c", 200)], true).unwrap();
        assert_eq!(case.take(1, 10).0, [vec![("a".to_owned(), 1500)]]);
    }

    #[test]
    fn giving_up_tells_what_was_acknowledged_from_what_was_not() {
        let case = Case::new(Objects::Adaptive);
        case.append(0, &[("a", 60)], false).unwrap();
        case.append(0, &[("a", 60)], true).unwrap();
        let (jobs, _) = case.buffers.take(case.now, 1, false, &HeldBack::default());
        assert_eq!(jobs[0].members[0].records, 2);
        case.append(0, &[("b", 1)], false).unwrap();
        case.append(0, &[("c", 1)], true).unwrap();
        let left = case.buffers.give_up();
        assert_eq!(left, LeftOver { lost_records: 2, unacknowledged_records: 2 });
        assert_eq!(case.buffers.give_up(), LeftOver::default());
        let books = case.buffers.snapshot(case.now).books;
        assert_eq!(books.places.values().map(|p| p.lost).sum::<u64>(), 4);
    }

    #[test]
    fn a_project_that_moves_to_another_tenant_leaves_the_books_of_both_right() {
        let case = Case::new(Objects::Adaptive);
        let heir = TenantName::parse("heir").unwrap();
        case.append(0, &[("a", 10)], false).unwrap();
        case.append_as(&heir, 0, &[("a", 10), ("b", 10)], false).unwrap();
        let shop = ProjectId::parse("shop").unwrap();
        let places = |tenant: &TenantName| {
            let books = case.buffers.snapshot(case.now).books;
            let places = books.places[&(tenant.clone(), shop.clone())];
            (places.buffered, places.in_flight, places.staged)
        };
        assert_eq!((places(&case.tenant), places(&heir)), ((1, 0, 0), (2, 0, 0)));
        let (jobs, _) = case.buffers.take(case.now, 10, true, &HeldBack::default());
        assert_eq!((places(&case.tenant), places(&heir)), ((0, 1, 0), (0, 2, 0)));
        jobs.iter().for_each(|job| case.buffers.staged(&job.members));
        assert_eq!((places(&case.tenant), places(&heir)), ((0, 0, 1), (0, 0, 2)));
        assert!(case.buffers.is_empty());
    }

    #[test]
    fn who_is_held_back_keeps_nobody_awake_and_presses_nobody() {
        let case = Case::new(Objects::Adaptive);
        let denied = TenantName::parse("denied").unwrap();
        let held_back = HeldBack { tenants: [denied.clone()].into(), packed: false };
        case.append_as(&denied, 0, &[("a", 3000)], true).unwrap();
        case.append(0, &[("b", 10)], true).unwrap();
        assert_eq!(case.take_but(1, 10, &held_back), (vec![], Some(500)));
        assert_eq!(case.take_but(500, 10, &held_back), (vec![vec![("b".to_owned(), 10)]], None));
        assert_eq!(case.take(501, 10), (vec![vec![("a".to_owned(), 3000)]], None));
    }

    #[test]
    fn while_shared_objects_fail_each_stream_has_its_own() {
        let case = Case::new(Objects::Adaptive);
        case.append(0, &[("a", 10), ("b", 20), ("c", 30)], true).unwrap();
        let held_back = HeldBack { packed: true, ..HeldBack::default() };
        assert_eq!(case.take_but(500, 2, &held_back).0.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(case.take(500, 2).0.len(), 1);
    }
}
