//! Rows that are past their retention when they are loaded: the server drops them at once, so counting them
//! proves nothing, and they must not keep their batch open for ever.

use std::time::Duration;

use spillway_model::time::UnixNanos;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::stage::Object;
use spillway_tests::verdict::Verdict;
use spillway_tests::wait::until;

use crate::{Case, case};

const DAY: i64 = 86_400_000_000_000;

pub(crate) fn cases() -> Vec<Case> {
    ["", "inserting", "inserted"]
        .into_iter()
        .map(|step| {
            let name = if step.is_empty() { String::new() } else { format!(", syncer killed at {step}") };
            case(format!("rows past their retention{name}"), async move |servers, name| {
                expired(servers, name, step).await
            })
        })
        .collect()
}

async fn expired(servers: &mut Servers, name: &str, step: &'static str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    let UnixNanos(now) = UnixNanos::now();
    let mut object = Object::default();
    for age in 0..10 {
        // Far beyond the 30 days that they are kept.
        object.record(UnixNanos(now - (60 + age) * DAY), "");
    }
    pipeline.stage_unjudged(&object).await;
    pipeline.sent().unknown(object.ids);
    pipeline.stage(&Object::http_requests(100)).await;
    if !step.is_empty() {
        let syncer = pipeline.start_syncer_with(Some(step));
        syncer.wait(Duration::from_secs(40)).await;
    }
    pipeline.start_syncer();
    pipeline.settle().await;
    // Merges drop them from the table and from the views, each in its own time.
    until("the expired rows to be gone everywhere", Duration::from_secs(60), async || {
        let verdict = pipeline.verdict().await;
        (verdict.is_exact() && verdict.rows == 100).then_some(())
    })
    .await;
    pipeline.conclude().await
}
