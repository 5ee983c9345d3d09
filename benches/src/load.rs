//! Sends request bodies, as fast as they are answered or at a rate, and waits for every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, StatusCode};
use tokio::time::{Instant, sleep, sleep_until};

/// A request body, made beforehand: the load must not compete with what it measures.
#[derive(Clone)]
pub struct Body {
    /// The API key to send it with.
    pub key: String,
    /// JSON.
    pub bytes: Bytes,
    /// Records in it.
    pub records: u64,
}

/// What was answered.
#[derive(Debug, Default)]
pub struct Answers {
    /// Records acknowledged.
    pub accepted: AtomicU64,
    /// Requests answered with 429 or 503, and sent again.
    pub pushed_back: AtomicU64,
}

/// How to send.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Requests under way at once.
    pub connections: usize,
    /// Records per second over all connections; as fast as they are answered if none.
    pub rate: Option<u64>,
    /// How long new requests are begun.
    pub duration: Duration,
}

/// Sends the bodies in turn until the time is up; returns when the last request is answered.
pub async fn send(url: &str, bodies: Arc<Vec<Body>>, pace: Pace) -> Arc<Answers> {
    let http = spillway_tests::http::client();
    let answers = Arc::new(Answers::default());
    let turn = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let senders: Vec<_> = (0..pace.connections)
        .map(|_| {
            let (http, url, bodies) = (http.clone(), url.to_owned(), Arc::clone(&bodies));
            let (answers, turn) = (Arc::clone(&answers), Arc::clone(&turn));
            tokio::spawn(async move {
                loop {
                    let number = turn.fetch_add(1, Ordering::Relaxed);
                    let body = &bodies[usize::try_from(number).unwrap_or(0) % bodies.len()];
                    if let Some(rate) = pace.rate {
                        let due = number as f64 * body.records as f64 / rate as f64;
                        sleep_until(start + Duration::from_secs_f64(due)).await;
                    }
                    if start.elapsed() >= pace.duration {
                        return;
                    }
                    deliver(&http, &url, body, &answers).await;
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.expect("a sender does not fail");
    }
    answers
}

async fn deliver(http: &Client, url: &str, body: &Body, answers: &Answers) {
    loop {
        let answer = http
            .post(url)
            .header("Authorization", &body.key)
            .header("Content-Type", "application/json")
            .body(body.bytes.clone())
            .timeout(Duration::from_secs(60))
            .send()
            .await
            .expect("ingest answers");
        match answer.status() {
            StatusCode::OK => {
                answers.accepted.fetch_add(body.records, Ordering::Relaxed);
                return;
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                answers.pushed_back.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(200)).await;
            }
            status => panic!("{status}: {}", answer.text().await.unwrap_or_default()),
        }
    }
}
