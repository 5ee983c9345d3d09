//! One producer at work: makes requests at its rate, sends them, and keeps book of what was answered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, RequestBuilder, header};
use spillway_model::UnixNanos;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    answer::{self, Answer},
    generator::Producer,
    record_set::Sent,
};

/// Where and how to send.
#[derive(Clone)]
pub struct Target {
    pub client: Client,
    /// Of `POST /v1/drain`.
    pub url: String,
    pub key: String,
    /// What the answer shall promise; `None`: the pipeline's default.
    pub ack: Option<&'static str>,
}

/// How much to send, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Records per request.
    pub batch: usize,
    /// Records in all; `None`: until the time is over.
    pub records: Option<u64>,
    /// `None`: until the records are sent.
    pub until: Option<Instant>,
    /// Records per second; `None`: as fast as they are answered.
    pub rate: Option<f64>,
    /// Requests that may be under way at once.
    pub in_flight: usize,
    /// How long it may go on that nothing is taken.
    pub give_up: Duration,
}

/// What all producers have done so far, for the progress bar.
#[derive(Default)]
pub struct Progress {
    pub acknowledged: AtomicU64,
    pub busy: AtomicU64,
    pub unclear: AtomicU64,
}

/// Why a producer stops early.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    #[error("{url} answered {status}: {body}; check --key and --projects against the pipeline's tenants")]
    Refused { url: String, status: u16, body: String },
    #[error("{url} took nothing for {waited:?} ({why}); check that it runs, or raise --give-up")]
    GaveUp { url: String, waited: Duration, why: String },
    #[error(
        "a producer broke off ({0}), so not all that was sent is judged; this is a defect, please report it"
    )]
    Lost(JoinError),
}

/// What a producer did.
pub struct Outcome {
    pub sent: Sent,
    /// From sending a request to its acknowledgement, in milliseconds.
    pub latencies: Vec<f64>,
    pub last_acknowledged: Option<Instant>,
    /// Why the fate of records is unknown, and of how many.
    pub unclear: BTreeMap<String, u64>,
    pub error: Option<ProducerError>,
}

/// One request on its way.
struct Delivery {
    first: u64,
    count: usize,
    sent_at: Instant,
    answered: Instant,
    /// `Err(None)`: stopped before it was taken.
    result: Result<Answer, Option<ProducerError>>,
}

/// Sends until done, or until `stop`.
pub async fn run(
    mut producer: Producer,
    target: Target,
    pace: Pace,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Outcome {
    let mut outcome = Outcome::new(producer.name());
    let mut under_way: JoinSet<Delivery> = JoinSet::new();
    let started = Instant::now();
    let mut made: u64 = 0;
    while !stop.is_cancelled() && outcome.error.is_none() {
        if let Some(rate) = pace.rate {
            let due = started + Duration::from_secs_f64(made as f64 / rate);
            tokio::select! {
                () = sleep_until(due) => {}
                () = stop.cancelled() => break,
            }
        }
        let left = pace.records.map_or(u64::MAX, |records| records.saturating_sub(made));
        if left == 0 || pace.until.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        while under_way.len() >= pace.in_flight
            && let Some(delivery) = under_way.join_next().await
        {
            outcome.take(delivery, &progress);
        }
        let count = pace.batch.min(usize::try_from(left).unwrap_or(usize::MAX));
        let (first, body) = producer.request(count, UnixNanos::now());
        made += count as u64;
        let (target, progress, stop) = (target.clone(), Arc::clone(&progress), stop.clone());
        under_way.spawn(async move {
            let sent_at = Instant::now();
            let result = deliver(&target, &pace, body, &progress, &stop).await;
            Delivery { first, count, sent_at, answered: Instant::now(), result }
        });
    }
    while let Some(delivery) = under_way.join_next().await {
        outcome.take(delivery, &progress);
    }
    outcome
}

impl Outcome {
    /// Of a producer that has not sent yet.
    pub fn new(producer: String) -> Self {
        Self {
            sent: Sent::new(producer),
            latencies: Vec::new(),
            last_acknowledged: None,
            unclear: BTreeMap::new(),
            error: None,
        }
    }

    /// Of a producer that has left nothing but this.
    pub fn lost(error: JoinError) -> Self {
        Self { error: Some(ProducerError::Lost(error)), ..Self::new(String::new()) }
    }

    fn take(&mut self, delivery: Result<Delivery, JoinError>, progress: &Progress) {
        let Delivery { first, count, sent_at, answered, result } = match delivery {
            Ok(delivery) => delivery,
            Err(error) => {
                self.error = Some(ProducerError::Lost(error));
                return;
            }
        };
        let numbers = first..first + count as u64;
        match result {
            Ok(Answer::Accepted { refused }) => {
                self.latencies.push((answered - sent_at).as_secs_f64() * 1000.0);
                self.last_acknowledged = self.last_acknowledged.max(Some(answered));
                for (at, number) in numbers.enumerate() {
                    if refused.contains(&at) {
                        self.sent.refuse(number)
                    } else {
                        self.sent.acknowledge(number)
                    }
                }
                progress.acknowledged.fetch_add((count - refused.len()) as u64, Ordering::Relaxed);
            }
            // A record whose fate is unknown is never sent again: a second copy would be a record of its own.
            Ok(answer) => {
                let why = match answer {
                    Answer::Unclear { why } => why,
                    other => format!("{other:?}"),
                };
                *self.unclear.entry(why).or_default() += count as u64;
                numbers.for_each(|number| self.sent.unclear(number));
                progress.unclear.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) => {
                numbers.for_each(|number| self.sent.refuse(number));
                self.error = self.error.take().or(error);
            }
        }
    }
}

/// Sends a request until it is taken or its fate is unknown. `Err(None)`: stopped before that.
async fn deliver(
    target: &Target,
    pace: &Pace,
    body: Vec<u8>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Answer, Option<ProducerError>> {
    let body = bytes::Bytes::from(body);
    let started = Instant::now();
    loop {
        let (after, why) = match attempt(target, body.clone()).await {
            Answer::Busy { after } => (after, "busy".to_owned()),
            Answer::Refused { status, body } => {
                let url = target.url.clone();
                return Err(Some(ProducerError::Refused { url, status, body }));
            }
            answer => return Ok(answer),
        };
        progress.busy.fetch_add(1, Ordering::Relaxed);
        if started.elapsed() > pace.give_up {
            let (url, waited) = (target.url.clone(), started.elapsed());
            return Err(Some(ProducerError::GaveUp { url, waited, why }));
        }
        // Not all at the same moment.
        let jitter = 1.0 + 0.25 * rand::random::<f64>();
        tokio::select! {
            () = sleep(after.mul_f64(jitter)) => {}
            () = stop.cancelled() => return Err(None),
        }
    }
}

async fn attempt(target: &Target, body: bytes::Bytes) -> Answer {
    let response = match request(target).body(body).send().await {
        Ok(response) => response,
        // Nothing was sent.
        Err(error) if error.is_connect() => return Answer::Busy { after: Duration::from_millis(200) },
        Err(error) => return Answer::Unclear { why: chain(&error) },
    };
    let status = response.status().as_u16();
    let after =
        response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    match response.bytes().await {
        Ok(body) => answer::read(status, after.as_deref(), &body),
        Err(error) => Answer::Unclear { why: chain(&error) },
    }
}

/// What went wrong at the bottom is what matters.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn request(target: &Target) -> RequestBuilder {
    let request = target
        .client
        .post(&target.url)
        .bearer_auth(&target.key)
        .header(header::CONTENT_TYPE, "application/json");
    match target.ack {
        Some(ack) => request.header(ACK_HEADER, ack),
        None => request,
    }
}

/// Says what the answer shall promise.
pub const ACK_HEADER: &str = "X-Spillway-Ack";
