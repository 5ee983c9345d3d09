//! Streams that share an object because the PUT budget is short.

use std::time::Duration;

use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::traffic::Workload;
use spillway_tests::verdict::Verdict;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for step in ["list-written", "inserting", "deleting"] {
        cases.push(case(format!("packed objects, syncer killed at {step}"), async move |servers, name| {
            packed(servers, name, step).await
        }));
    }
    cases
}

async fn packed(servers: &mut Servers, name: &str, step: &'static str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.ingest_settings.max_puts_per_second = 3;
    pipeline.start_ingest().await;
    pipeline.send(Workload { producers: 8, records: Some(800), ..Workload::default() }).finish().await;
    let keys = pipeline.backlog().await;
    assert!(keys.iter().any(|key| key.starts_with("_packed/")), "nothing was packed: {keys:?}");
    let syncer = pipeline.start_syncer_with(Some(step));
    syncer.wait(Duration::from_secs(40)).await;
    pipeline.start_syncer();
    pipeline.conclude().await
}
