//! The log ports of the ingest pods, each by itself and one request at a time: for what a single answer says.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

use crate::forward::Forward;
use crate::pods;
use crate::space::{PATIENCE, Space};

/// A port of each pod that was there.
pub struct Doors {
    doors: Vec<(String, Forward)>,
    client: reqwest::Client,
}

/// What is asked of each.
#[derive(Clone, Copy, Debug)]
pub struct Knock<'a> {
    pub key: &'a str,
    pub project: &'a str,
    pub records: usize,
    pub days_old: i64,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<u64>,
    pub body: String,
}

impl<'a> Knock<'a> {
    /// One record of now.
    #[must_use]
    pub fn with(key: &'a str, project: &'a str) -> Self {
        Self { key, project, records: 1, days_old: 0 }
    }
}

impl Doors {
    /// Those of a pipeline's ready ingest pods.
    pub async fn of(space: &Space, pipeline: &str) -> Self {
        let label = format!("spillway.dev/pipeline={pipeline},app.kubernetes.io/component=ingest");
        let mut doors = Vec::new();
        for pod in space.pods(&label).await.iter().filter(|pod| pods::is_ready(pod)) {
            let name = pod.name_any();
            let forward = Forward::open(space, &format!("pod/{name}"), 8080).await;
            doors.push((name, forward));
        }
        assert!(!doors.is_empty(), "no ingest pod of {pipeline} is ready");
        Self { doors, client: spillway_tests::http::client() }
    }

    /// What each says. The records' service is the pod's name.
    pub async fn ask(&self, knock: Knock<'_>) -> Vec<Answer> {
        futures::future::join_all(self.doors.iter().map(|(pod, forward)| self.one(pod, forward, knock))).await
    }

    /// Asks until every pod answers so, and says how long that took.
    pub async fn until(&self, what: &str, knock: Knock<'_>, is_so: impl Fn(&Answer) -> bool) -> Duration {
        let since = Instant::now();
        loop {
            let answers = self.ask(knock).await;
            if answers.iter().all(&is_so) {
                return since.elapsed();
            }
            assert!(since.elapsed() < PATIENCE, "{what} is not so after {PATIENCE:?}: {answers:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn one(&self, pod: &str, forward: &Forward, knock: Knock<'_>) -> Answer {
        let Knock { key, project, records, days_old } = knock;
        let time = (Timestamp::now() - SignedDuration::from_hours(24 * days_old)).to_string();
        let record = json!({
            "project_id": project, "timestamp": time, "level": "info", "service": pod, "message": "knock",
        });
        let body = json!({"logs": vec![record; records]}).to_string();
        let request = self.client.post(format!("{}/v1/drain", forward.url())).bearer_auth(key);
        let request = request.header("Content-Type", "application/json").timeout(Duration::from_secs(30));
        let answer = request.body(body).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{pod} does not answer: {error:?}"));
        let status = answer.status().as_u16();
        let retry_after =
            answer.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.parse().ok());
        Answer { status, retry_after, body: answer.text().await.expect("a body") }
    }
}
