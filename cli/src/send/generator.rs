//! Realistic log records with a sequence number per producer, so that each can be found again in ClickHouse.

use std::sync::Arc;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::Serialize;
use spillway_model::{ProjectId, ServiceName, UnixNanos};

/// Attribute that names the run.
pub const RUN: &str = "run";
/// Attribute that names the producer within the run.
pub const PRODUCER: &str = "producer";
/// Attribute that numbers the producer's records, from 0.
pub const SEQUENCE: &str = "seq";

/// What all producers of a run have in common.
#[derive(Clone, Debug)]
pub struct Load {
    /// Tells this run's records from all others.
    pub run: String,
    pub project: ProjectId,
    pub services: Vec<ServiceName>,
    /// Bytes that a record's message is filled up to; `None`: as long as it happens to be.
    pub message_bytes: Option<usize>,
}

/// Makes the records of one producer. The same seed and times make the same records.
pub struct Producer {
    load: Arc<Load>,
    number: u32,
    random: SmallRng,
    next: u64,
}

/// A record as `POST /v1/drain` takes it.
#[derive(Serialize)]
struct Log<'a> {
    project_id: &'a str,
    timestamp: &'a str,
    level: &'a str,
    service: &'a str,
    message: &'a str,
    metadata: Metadata<'a>,
}

/// The first three become columns, the others attributes.
#[derive(Serialize)]
struct Metadata<'a> {
    trace_id: String,
    span_id: String,
    session_id: String,
    run: &'a str,
    producer: String,
    seq: String,
    status: String,
}

/// One kind of event of a web shop: how often, how bad, and its text with places for what varies.
struct Event {
    weight: u32,
    level: &'static str,
    statuses: &'static [u16],
    text: &'static str,
}

const EVENTS: &[Event] = &[
    Event {
        weight: 40,
        level: "info",
        statuses: &[200],
        text: "GET /api/v1/products/{id} answered in {ms} ms",
    },
    Event {
        weight: 20,
        level: "info",
        statuses: &[200, 201],
        text: "POST /api/v1/carts/{id}/items added {n} items for user {user}",
    },
    Event {
        weight: 15,
        level: "debug",
        statuses: &[200],
        text: "cache hit for product:{id}, {n} bytes, expires in {ms} s",
    },
    Event {
        weight: 10,
        level: "info",
        statuses: &[200],
        text: "payment {id} of {n}.99 EUR authorised by provider in {ms} ms",
    },
    Event {
        weight: 8,
        level: "warn",
        statuses: &[200, 429],
        text: "slow query on orders took {ms} ms and returned {n} rows for user {user}",
    },
    Event {
        weight: 5,
        level: "error",
        statuses: &[500, 502, 503],
        text: "upstream inventory closed the connection after {ms} ms while reserving {n} items of order {id}",
    },
    Event {
        weight: 2,
        level: "fatal",
        statuses: &[500],
        text: "worker {id} ran out of memory after {n} jobs, restarting",
    },
];

impl Producer {
    pub fn new(load: Arc<Load>, number: u32, seed: u64) -> Self {
        let random =
            SmallRng::seed_from_u64(seed.wrapping_add(u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        Self { load, number, random, next: 0 }
    }

    /// The producer's name in the attribute [`PRODUCER`].
    pub fn name(&self) -> String {
        name(&self.load, self.number)
    }

    /// A body for `POST /v1/drain` with the next `count` records, stamped with `now` and a few microseconds
    /// between them. Returns the first sequence number and the body.
    pub fn request(&mut self, count: usize, now: UnixNanos) -> (u64, Vec<u8>) {
        let first = self.next;
        let mut body = Vec::with_capacity(64 + count * 512);
        body.extend_from_slice(b"{\"logs\":[");
        for at in 0..count {
            if at > 0 {
                body.push(b',');
            }
            self.record(&mut body, UnixNanos(now.0 + at as i64 * 7_000));
        }
        body.extend_from_slice(b"]}");
        (first, body)
    }

    fn record(&mut self, out: &mut Vec<u8>, time: UnixNanos) {
        let random = &mut self.random;
        let event = pick(random);
        let (id, user) = (random.random_range(10_000..99_999_u32), random.random_range(1..50_000_u32));
        let (duration, number) = (random.random_range(1..900_u32), random.random_range(1..64_u32));
        let mut message = event
            .text
            .replace("{id}", &id.to_string())
            .replace("{user}", &user.to_string())
            .replace("{ms}", &duration.to_string())
            .replace("{n}", &number.to_string());
        fill(&mut message, self.load.message_bytes.unwrap_or(0), random);
        let mut timestamp = Vec::with_capacity(32);
        time.write_sql(&mut timestamp);
        let log = Log {
            project_id: self.load.project.as_str(),
            timestamp: std::str::from_utf8(&timestamp).unwrap_or_default(),
            level: event.level,
            service: self.load.services[random.random_range(0..self.load.services.len())].as_str(),
            message: &message,
            metadata: Metadata {
                trace_id: format!("{:032x}", random.random::<u128>()),
                span_id: format!("{:016x}", random.random::<u64>()),
                session_id: format!("sess-{:08x}", random.random::<u32>()),
                run: &self.load.run,
                producer: name(&self.load, self.number),
                seq: self.next.to_string(),
                status: event.statuses[random.random_range(0..event.statuses.len())].to_string(),
            },
        };
        self.next += 1;
        // A Vec takes every byte, and every field has a JSON form.
        let _ = serde_json::to_writer(out, &log);
    }
}

fn name(load: &Load, number: u32) -> String {
    format!("{}-{number}", load.project)
}

fn pick(random: &mut SmallRng) -> &'static Event {
    let total: u32 = EVENTS.iter().map(|event| event.weight).sum();
    let mut left = random.random_range(0..total);
    for event in EVENTS {
        if left < event.weight {
            return event;
        }
        left -= event.weight;
    }
    &EVENTS[0]
}

/// Fills a message up with words: they compress like text, not like noise and not like a single letter.
fn fill(message: &mut String, bytes: usize, random: &mut SmallRng) {
    const WORDS: &[&str] = &[
        "retry", "queue", "shard", "tenant", "commit", "region", "backoff", "handler", "timeout", "payload",
    ];
    while message.len() < bytes {
        message.push(' ');
        message.push_str(WORDS[random.random_range(0..WORDS.len())]);
    }
    if bytes > 0 && message.len() > bytes {
        // All of it is ASCII, so any place is between two characters.
        message.truncate(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn load(message_bytes: Option<usize>) -> Arc<Load> {
        let services = ["cart", "web"].map(|name| ServiceName::parse(name).unwrap()).to_vec();
        let project = ProjectId::parse("shop").unwrap();
        Arc::new(Load { run: "r1".into(), project, services, message_bytes })
    }

    fn logs(body: &[u8]) -> Vec<Value> {
        let body: Value = serde_json::from_slice(body).unwrap();
        body["logs"].as_array().unwrap().clone()
    }

    #[test]
    fn every_record_has_the_next_number_of_its_producer() {
        let mut producer = Producer::new(load(None), 3, 1);
        let (first, body) = producer.request(100, UnixNanos(0));
        let (second, more) = producer.request(50, UnixNanos(0));
        assert_eq!((first, second), (0, 100));
        let numbers: Vec<u64> = logs(&body)
            .iter()
            .chain(&logs(&more))
            .map(|log| log["metadata"][SEQUENCE].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(numbers, (0..150).collect::<Vec<_>>());
        assert_eq!(logs(&body)[0]["metadata"][PRODUCER], producer.name());
        assert_eq!(logs(&body)[0]["metadata"][RUN], "r1");
    }

    #[test]
    fn all_services_and_levels_occur() {
        let (_, body) = Producer::new(load(None), 0, 1).request(2_000, UnixNanos(0));
        let all = |field: &str| -> BTreeSet<String> {
            logs(&body).iter().map(|log| log[field].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(all("service").len(), 2);
        assert_eq!(all("level").len(), 5);
    }

    #[test]
    fn the_same_seed_makes_the_same_records() {
        let body = |seed| Producer::new(load(None), 0, seed).request(10, UnixNanos(0)).1;
        assert_eq!(body(7), body(7));
        assert_ne!(body(7), body(8));
    }

    #[test]
    fn messages_are_as_long_as_asked_for() {
        let (_, body) = Producer::new(load(Some(400)), 0, 1).request(20, UnixNanos(0));
        for log in logs(&body) {
            assert_eq!(log["message"].as_str().unwrap().len(), 400);
        }
    }
}
