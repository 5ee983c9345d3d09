//! Producers that send logs over HTTP and remember what they were promised.
//!
//! Every record has an identity that says who sent it, for which project and service, and as which number.
//! A record whose answer got lost is never sent again under the same identity, so that whatever number of
//! rows an identity has is the pipeline's doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::pipeline::{API_KEY, PROJECTS};
use crate::verdict::Sent;

const SERVICES: [&str; 3] = ["api", "worker", "web front"];
const LEVELS: [&str; 4] = ["info", "error", "warn", "debug"];

#[derive(Clone, Debug)]
pub struct Workload {
    pub producers: u64,
    /// Records of one request.
    pub request: u64,
    /// Over all producers; `None`: until stopped. Counts acknowledged records only.
    pub records: Option<u64>,
    /// Between two requests of one producer.
    pub pause: Duration,
    /// Days into the past over which the records' timestamps are spread.
    pub days: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self { producers: 4, request: 25, records: None, pause: Duration::from_millis(5), days: 1 }
    }
}

pub struct Traffic {
    stop: Arc<AtomicBool>,
    producers: Vec<JoinHandle<()>>,
}

/// Numbers producers over all traffic of a test process.
static PRODUCERS: AtomicU64 = AtomicU64::new(0);

impl Traffic {
    pub fn start(url: String, sent: Arc<Sent>, workload: Workload) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let http = crate::http::client();
        let producers = (0..workload.producers)
            .map(|number| {
                let producer = Producer {
                    id: PRODUCERS.fetch_add(1, Ordering::Relaxed),
                    url: url.clone(),
                    http: http.clone(),
                    sent: Arc::clone(&sent),
                    stop: Arc::clone(&stop),
                    workload: workload.clone(),
                    quota: workload
                        .records
                        .map(|all| all / workload.producers + u64::from(number < all % workload.producers)),
                };
                tokio::spawn(producer.run())
            })
            .collect();
        Self { stop, producers }
    }

    /// Stops after the requests under way.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.finish().await;
    }

    /// Waits until a fixed number of records is acknowledged.
    pub async fn finish(self) {
        for producer in self.producers {
            producer.await.expect("a producer does not fail");
        }
    }
}

struct Producer {
    id: u64,
    url: String,
    http: reqwest::Client,
    sent: Arc<Sent>,
    stop: Arc<AtomicBool>,
    workload: Workload,
    quota: Option<u64>,
}

impl Producer {
    async fn run(self) {
        let mut next = 0;
        let mut acknowledged = 0;
        while !self.stop.load(Ordering::SeqCst) && self.quota.is_none_or(|quota| acknowledged < quota) {
            let left = self.quota.map_or(u64::MAX, |quota| quota - acknowledged);
            let count = self.workload.request.min(left);
            let records: Vec<(String, Value)> =
                (next..next + count).map(|number| self.record(number)).collect();
            next += count;
            let (ids, logs): (Vec<String>, Vec<Value>) = records.into_iter().unzip();
            if self.post(&logs).await {
                acknowledged += count;
                self.sent.acknowledged(ids);
                tokio::time::sleep(self.workload.pause).await;
            } else {
                self.sent.unknown(ids);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn post(&self, logs: &[Value]) -> bool {
        let request = self
            .http
            .post(&self.url)
            .header("authorization", format!("Bearer {API_KEY}"))
            .timeout(Duration::from_secs(15))
            .json(&json!({ "logs": logs }));
        let Ok(answer) = request.send().await else { return false };
        if !answer.status().is_success() {
            return false;
        }
        let answer: Value = answer.json().await.unwrap_or_default();
        // A part may be refused by name; what this producer sends never should be.
        assert!(answer["rejected"].as_u64().unwrap_or(0) == 0, "records were refused: {answer}");
        answer["status"] == "accepted"
    }

    fn record(&self, number: u64) -> (String, Value) {
        let project = PROJECTS[(self.id % 2) as usize];
        let service = SERVICES[(number / 10 % 3) as usize];
        let id = identity(project, service, self.id, number);
        let back = jiff::SignedDuration::from_hours(24 * (number % self.workload.days).cast_signed());
        let time = jiff::Timestamp::now().checked_sub(back).expect("days in range");
        let record = json!({
            "project_id": project,
            "service": service,
            "timestamp": time.to_string(),
            "level": LEVELS[(number % 4) as usize],
            "message": id,
            "metadata": { "number": number, "trace_id": format!("{:032x}", u128::from(number) + 1), "note": "ünï 🦀 \"quoted\"\n" },
        });
        (id, record)
    }
}

/// The message of a record: says what its row must look like.
pub fn identity(project: &str, service: &str, producer: u64, number: u64) -> String {
    format!("{project}/{service}/{producer}/{number}")
}
