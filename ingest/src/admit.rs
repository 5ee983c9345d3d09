//! Decides record by record what is taken, and writes what is taken as rows of their streams. Pure: time,
//! tenant and randomness come in as arguments. Every receiver uses it, whatever its wire format.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use spillway_model::{ProjectId, Record, ServiceName, UnixMs, UnixNanos, write_row};
use uuid::Uuid;

use crate::refusal::{Refusal, Refusals};

/// A level is a label, not a text.
const MAX_LEVEL_BYTES: usize = 128;

/// Streams that are compared one by one before they are looked up.
const NEAR_STREAMS: usize = 16;

/// What a request's records are held against.
#[derive(Debug, Clone)]
pub struct Policy<'r> {
    pub projects: &'r HashSet<ProjectId>,
    pub retention_days: u16,
    pub past: Duration,
    pub future: Duration,
    /// Bytes of a record as a row.
    pub max_record_bytes: usize,
    /// Streams of one request.
    pub max_streams: usize,
}

/// What all rows of a request share.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'r> {
    pub now: UnixNanos,
    pub request_id: &'r str,
    /// The random part of the request's record ids.
    pub random: u128,
}

/// Rows of one stream of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRows {
    pub project: ProjectId,
    pub service: ServiceName,
    /// Newline-delimited, as staged.
    pub rows: Vec<u8>,
    pub count: u64,
}

/// A record of a project that is not the tenant's: nothing of such a request is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    pub index: usize,
    pub project: String,
}

/// What became of a request's records.
#[derive(Debug, Default)]
pub struct Admitted {
    pub received: u64,
    pub accepted: u64,
    pub streams: Vec<StreamRows>,
    pub refusals: Refusals,
    pub foreign: Option<Foreign>,
}

/// Takes the records of one request, one after the other.
pub struct Admission<'r> {
    policy: Policy<'r>,
    stamp: Stamp<'r>,
    received_at: UnixMs,
    earliest: UnixNanos,
    latest: UnixNanos,
    body_bytes: usize,
    admitted: Admitted,
    index: HashMap<ProjectId, HashMap<ServiceName, usize>>,
    last: usize,
}

impl<'r> Admission<'r> {
    /// `body_bytes`: the request's size, a first guess at the size of its rows.
    #[must_use]
    pub fn new(policy: Policy<'r>, stamp: Stamp<'r>, body_bytes: usize) -> Self {
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        Self {
            received_at: stamp.now.ms(),
            earliest: UnixNanos(stamp.now.0.saturating_sub(nanos(policy.past))),
            latest: UnixNanos(stamp.now.0.saturating_add(nanos(policy.future))),
            policy,
            stamp,
            body_bytes,
            admitted: Admitted::default(),
            index: HashMap::new(),
            last: 0,
        }
    }

    /// The next record of the request, and the fault that its receiver found.
    pub fn record<'a>(&mut self, record: &mut Record<'a>, fault: Option<Refusal>)
    where
        'r: 'a,
    {
        let index = self.admitted.received as usize;
        self.admitted.received += 1;
        if self.admitted.foreign.is_some() {
            return;
        }
        if let Err(refusal) = self.take(index, record, fault) {
            self.admitted.refusals.push(index, refusal);
        }
    }

    #[must_use]
    pub fn finish(mut self) -> Admitted {
        if self.admitted.foreign.is_some() {
            self.admitted.streams.clear();
            self.admitted.accepted = 0;
        }
        // A stream that was opened for a record that then turned out too large.
        self.admitted.streams.retain(|stream| stream.count > 0);
        for stream in &mut self.admitted.streams {
            if stream.rows.capacity() - stream.rows.len() > stream.rows.len() / 4 {
                stream.rows.shrink_to_fit();
            }
        }
        self.admitted
    }

    fn take<'a>(
        &mut self,
        index: usize,
        record: &mut Record<'a>,
        fault: Option<Refusal>,
    ) -> Result<(), Refusal>
    where
        'r: 'a,
    {
        let known = fault.is_none() && self.is_near_stream(record);
        if let Some(fault) = fault.as_ref().filter(|_| record.project_id.is_empty()) {
            return Err(fault.clone());
        }
        if !known && !self.policy.projects.contains(&*record.project_id) {
            ProjectId::check(&record.project_id)
                .map_err(|error| Refusal::BadName { field: "project_id", error })?;
            let project = record.project_id.chars().take(128).collect();
            self.admitted.foreign = Some(Foreign { index, project });
            return Ok(());
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.check_time(record.timestamp)?;
        if record.severity_text.len() > MAX_LEVEL_BYTES {
            let bytes = record.severity_text.len();
            return Err(Refusal::TooLong { field: "level", bytes, limit: MAX_LEVEL_BYTES });
        }
        if !known {
            self.last = self.stream(record)?;
        }
        record.id = self.id(index);
        record.received_at = self.received_at;
        record.retention_days = self.policy.retention_days;
        record.request_id = Cow::Borrowed(self.stamp.request_id);

        let Some(stream) = self.admitted.streams.get_mut(self.last) else { return Ok(()) };
        let start = stream.rows.len();
        write_row(&mut stream.rows, record);
        let bytes = stream.rows.len() - start;
        if bytes > self.policy.max_record_bytes {
            stream.rows.truncate(start);
            return Err(Refusal::TooLarge { bytes, limit: self.policy.max_record_bytes });
        }
        stream.count += 1;
        self.admitted.accepted += 1;
        Ok(())
    }

    /// Looks among the first few streams without hashing: a request has mostly one, or a handful that take
    /// turns.
    fn is_near_stream(&mut self, record: &Record<'_>) -> bool {
        let is_it = |stream: &StreamRows| {
            stream.service.as_str() == record.service && stream.project.as_str() == record.project_id
        };
        let near = &self.admitted.streams[..self.admitted.streams.len().min(NEAR_STREAMS)];
        if self.admitted.streams.get(self.last).is_some_and(is_it) {
            return true;
        }
        let found = near.iter().position(is_it);
        self.last = found.unwrap_or(self.last);
        found.is_some()
    }

    fn stream(&mut self, record: &Record<'_>) -> Result<usize, Refusal> {
        if let Some(at) = self.index.get(&*record.project_id).and_then(|s| s.get(&*record.service)) {
            return Ok(*at);
        }
        let service = ServiceName::parse(&record.service)
            .map_err(|error| Refusal::BadName { field: "service", error })?;
        let at = self.admitted.streams.len();
        if at >= self.policy.max_streams {
            return Err(Refusal::TooManyStreams { limit: self.policy.max_streams });
        }
        // Known to be there: the caller looked.
        let Some(project) = self.policy.projects.get(&*record.project_id) else {
            return Err(Refusal::Missing { field: "project_id" });
        };
        // The first stream is most often the only one. A row is a third longer than its record, by what
        // admission stamps on it.
        let capacity = if at == 0 { self.body_bytes + self.body_bytes * 2 / 5 } else { 0 };
        self.index.entry(project.clone()).or_default().insert(service.clone(), at);
        self.admitted.streams.push(StreamRows {
            project: project.clone(),
            service,
            rows: Vec::with_capacity(capacity),
            count: 0,
        });
        Ok(at)
    }

    fn check_time(&self, timestamp: UnixNanos) -> Result<(), Refusal> {
        if timestamp > self.latest {
            return Err(Refusal::InFuture { seconds: self.policy.future.as_secs() });
        }
        // The table's TTL is toDate(timestamp) + retention_days.
        let days = self.policy.retention_days;
        if i64::from(timestamp.day().0) + i64::from(days) <= i64::from(self.stamp.now.day().0) {
            return Err(Refusal::PastRetention { days });
        }
        if timestamp < self.earliest {
            return Err(Refusal::TooOld { days: self.policy.past.as_secs() / 86_400 });
        }
        Ok(())
    }

    /// UUIDv7: 48 bits of time, 12 of chance, and 62 that begin at chance and count the request's records.
    /// Consecutive ids share their beginning, which halves what they cost compressed.
    fn id(&self, index: usize) -> Uuid {
        const LOW: u128 = (1 << 62) - 1;
        let ms = (self.received_at.0.max(0) as u128) & 0xffff_ffff_ffff;
        let middle = (self.stamp.random >> 64) & 0xfff;
        let low = (self.stamp.random & LOW).wrapping_add(index as u128) & LOW;
        Uuid::from_u128(ms << 80 | 7 << 76 | middle << 64 | 0b10 << 62 | low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_model::read_row;

    const NOW: UnixNanos = UnixNanos(1_769_903_999_000_000_000); // 2026-01-31T23:59:59Z
    const DAY: i64 = 86_400_000_000_000;

    struct Case {
        projects: HashSet<ProjectId>,
        retention_days: u16,
        past: Duration,
    }

    impl Case {
        fn new() -> Self {
            Self {
                projects: [ProjectId::parse("shop").unwrap(), ProjectId::parse("blog").unwrap()].into(),
                retention_days: 7,
                past: Duration::from_secs(30 * 86_400),
            }
        }

        fn run(&self, records: Vec<Record<'static>>) -> Admitted {
            let policy = Policy {
                projects: &self.projects,
                retention_days: self.retention_days,
                past: self.past,
                future: Duration::from_secs(3600),
                max_record_bytes: 1000,
                max_streams: 3,
            };
            let stamp = Stamp { now: NOW, request_id: "r1", random: u128::MAX };
            let mut admission = Admission::new(policy, stamp, 100);
            for mut record in records {
                admission.record(&mut record, None);
            }
            admission.finish()
        }
    }

    fn record(project: &'static str, service: &'static str) -> Record<'static> {
        Record {
            project_id: project.into(),
            service: service.into(),
            timestamp: NOW,
            message: "m".into(),
            severity_text: "info".into(),
            ..Record::default()
        }
    }

    fn at(nanos: i64) -> Record<'static> {
        Record { timestamp: UnixNanos(nanos), ..record("shop", "api") }
    }

    fn reasons(admitted: &Admitted) -> Vec<(usize, &'static str, &'static str)> {
        let label = |r: &crate::refusal::Refused| (r.index, r.refusal.field(), r.refusal.reason());
        admitted.refusals.listed.iter().map(label).collect()
    }

    #[test]
    fn good_records_are_rows_of_their_streams_and_bad_ones_are_named() {
        let long = Record { message: "x".repeat(2000).into(), ..record("blog", "web") };
        let admitted = Case::new().run(vec![
            record("shop", "api"),
            record("shop", "a/b"),
            record("blog", "api"),
            long,
            record("shop", "api"),
            record("shop", "four"),
            record("../x", "api"),
        ]);
        assert_eq!((admitted.received, admitted.accepted), (7, 3));
        assert_eq!(
            reasons(&admitted),
            [
                (1, "service", "path_separator"),
                (3, "", "too_large"),
                (5, "service", "too_many_streams"),
                (6, "project_id", "path_separator"),
            ]
        );
        let streams: Vec<_> =
            admitted.streams.iter().map(|s| (s.project.as_str(), s.service.as_str(), s.count)).collect();
        assert_eq!(streams, [("shop", "api", 2), ("blog", "api", 1)]);
        assert!(admitted.foreign.is_none());
    }

    #[test]
    fn one_record_of_a_strangers_project_stores_nothing() {
        let admitted =
            Case::new().run(vec![record("shop", "api"), record("bank", "api"), record("shop", "b")]);
        assert_eq!(admitted.foreign, Some(Foreign { index: 1, project: "bank".to_owned() }));
        assert_eq!((admitted.received, admitted.accepted, admitted.streams.len()), (3, 0, 0));
    }

    #[test]
    fn a_strangers_record_is_a_strangers_whatever_else_is_wrong_with_it() {
        let case = Case::new();
        let policy = Policy {
            projects: &case.projects,
            retention_days: 7,
            past: case.past,
            future: case.past,
            max_record_bytes: 1000,
            max_streams: 3,
        };
        let mut admission = Admission::new(policy, Stamp { now: NOW, request_id: "r", random: 0 }, 0);
        admission.record(&mut record("", ""), Some(Refusal::Missing { field: "project_id" }));
        admission.record(&mut record("bank", ""), Some(Refusal::Missing { field: "service" }));
        let admitted = admission.finish();
        assert_eq!(admitted.foreign.map(|f| f.index), Some(1));
    }

    #[test]
    fn a_record_outside_the_window_or_its_retention_is_refused() {
        let cases = [
            (NOW.0, 7, 30, None),
            (NOW.0 + 3600 * 1_000_000_000, 7, 30, None),
            (NOW.0 + 3601 * 1_000_000_000, 7, 30, Some("in_future")),
            (i64::MAX, 7, 30, Some("in_future")),
            // Its day plus seven days is tomorrow, the last second that the row lives.
            (NOW.0 - 6 * DAY, 7, 30, None),
            (NOW.0 - 7 * DAY, 7, 30, Some("past_retention")),
            (NOW.0 - 7 * DAY, 90, 30, None),
            (NOW.0 - 31 * DAY, 90, 30, Some("too_old")),
            (0, 90, 30, Some("past_retention")),
            (i64::MIN, u16::MAX, 30, Some("past_retention")),
        ];
        for (timestamp, retention_days, past, reason) in cases {
            let past = Duration::from_secs(past * 86_400);
            let admitted = Case { retention_days, past, ..Case::new() }.run(vec![at(timestamp)]);
            let expected = reason.map(|r| (0, "timestamp", r));
            assert_eq!(reasons(&admitted), expected.into_iter().collect::<Vec<_>>(), "{timestamp}");
        }
    }

    #[test]
    fn rows_carry_what_admission_stamps_on_them() {
        let admitted = Case::new().run(vec![record("shop", "api"), record("shop", "api")]);
        let lines: Vec<_> = admitted.streams[0].rows.split_inclusive(|b| *b == b'\n').collect();
        let rows: Vec<_> = lines.iter().map(|line| read_row(line).unwrap()).collect();
        assert_eq!(rows.len(), 2);
        assert_ne!(rows[0].id, rows[1].id);
        for row in rows {
            assert_eq!(row.id.get_version_num(), 7);
            assert_eq!(row.id.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(row.received_at, NOW.ms());
            assert_eq!((row.retention_days, &*row.request_id), (7, "r1"));
        }
    }
}
