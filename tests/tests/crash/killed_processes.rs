//! SIGKILL at every step of ingest and of the syncer.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use hyper::Method;
use spillway_model::settings::Span;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::process::Process;
use spillway_tests::proxy::{Action, Gate, Rule};
use spillway_tests::traffic::Workload;
use spillway_tests::verdict::Verdict;

use crate::{Case, case};

/// In the order in which a batch passes them.
const SYNCER_STEPS: [&str; 10] = [
    "listed",
    "planned",
    "list-written",
    "encoded",
    "inserting",
    "inserted",
    "marked",
    "deleting",
    "deleted",
    "swapped-out",
];

const KILLED: i32 = 9;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for store in [Store::Minio, Store::Directory] {
        for step in SYNCER_STEPS {
            cases.push(case(format!("syncer killed at {step} ({store:?})"), async move |servers, name| {
                syncer_killed(servers, name, store, step, 1).await
            }));
        }
        cases.push(case(
            format!("ingest killed with records received and not staged ({store:?})"),
            async move |servers, name| ingest_killed_before_staging(servers, name, store).await,
        ));
        cases.push(case(
            format!("ingest killed at random, under load ({store:?})"),
            async move |servers, name| ingest_killed_at_random(servers, name, store).await,
        ));
    }
    cases.push(case("ingest killed with its PUT under way, which lands later", async |servers, name| {
        ingest_killed_at_put(servers, name, Action::HoldRequest).await
    }));
    cases.push(case("ingest killed with records staged and not answered", async |servers, name| {
        ingest_killed_at_put(servers, name, Action::HoldAnswer).await
    }));
    for step in ["list-written", "inserting", "inserted", "deleting"] {
        cases.push(case(format!("syncer killed at the fourth {step}"), async move |servers, name| {
            syncer_killed(servers, name, Store::Minio, step, 4).await
        }));
    }
    cases.push(case("syncer killed at inserting, again and again", killed_again_and_again));
    cases.push(case("syncer killed at random, under load", killed_at_random));
    cases.push(case("syncer killed at inserting, over many partitions", killed_over_many_partitions));
    cases
}

async fn assert_killed(process: &mut Process, step: &str) {
    let status = process.wait(Duration::from_secs(40)).await;
    assert_eq!(
        status.signal(),
        Some(KILLED),
        "at {step} it should have been killed; its log ends with\n{}",
        process.log()
    );
}

async fn syncer_killed(
    servers: &mut Servers,
    name: &str,
    store: Store,
    step: &'static str,
    nth: u32,
) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, store).await;
    pipeline.syncer_settings.batch.max_rows = 150;
    pipeline.start_ingest().await;
    pipeline.send_all(300).await;
    let traffic = pipeline.send(Workload { records: Some(600), ..Workload::default() });
    let syncer = pipeline.start_syncer_with(Some(&format!("{step}:{nth}")));
    assert_killed(syncer, step).await;
    pipeline.start_syncer();
    traffic.finish().await;
    pipeline.conclude().await
}

async fn ingest_killed_before_staging(servers: &mut Servers, name: &str, store: Store) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, store).await;
    let quick = pipeline.ingest_settings.flush.clone();
    pipeline.ingest_settings.flush.max_age = Span::secs(60);
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload::default());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(pipeline.sent().count(), 0, "nothing is acknowledged that is not staged");
    pipeline.ingest().kill();
    assert!(pipeline.backlog().await.is_empty());
    pipeline.ingest_settings.flush = quick;
    pipeline.start_ingest().await;
    pipeline.send_all(200).await;
    traffic.stop().await;
    pipeline.conclude().await
}

async fn ingest_killed_at_put(servers: &mut Servers, name: &str, action: fn(Gate) -> Action) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    let gate = Gate::default();
    let put = Rule::new(action(gate.clone())).method(Method::PUT).target_has(".json.gz").skip(5).times(2);
    pipeline.ingest_s3.add(put);
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload::default());
    gate.reached().await;
    pipeline.ingest().kill();
    gate.open();
    pipeline.start_ingest().await;
    pipeline.send_all(200).await;
    traffic.stop().await;
    pipeline.conclude().await
}

async fn ingest_killed_at_random(servers: &mut Servers, name: &str, store: Store) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, store).await;
    pipeline.start_syncer();
    pipeline.start_ingest().await;
    let traffic = pipeline.send(Workload::default());
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(100 + rand::random_range(0..400))).await;
        pipeline.ingest().kill();
        pipeline.start_ingest().await;
    }
    pipeline.send_all(100).await;
    traffic.stop().await;
    pipeline.conclude().await
}

async fn killed_again_and_again(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.send_all(300).await;
    for step in ["inserting", "inserting", "inserted", "list-written", "inserting"] {
        let syncer = pipeline.start_syncer_with(Some(step));
        assert_killed(syncer, step).await;
        pipeline.send_all(50).await;
    }
    pipeline.start_syncer();
    pipeline.conclude().await
}

async fn killed_at_random(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 100;
    pipeline.start_ingest().await;
    let traffic = pipeline.send(Workload { pause: Duration::from_millis(10), ..Workload::default() });
    for _ in 0..10 {
        let syncer = pipeline.start_syncer();
        let wait = 100 + rand::random_range(0..900);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        syncer.kill();
    }
    traffic.stop().await;
    pipeline.start_syncer();
    pipeline.conclude().await
}

async fn killed_over_many_partitions(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.send(Workload { records: Some(500), days: 20, ..Workload::default() }).finish().await;
    let syncer = pipeline.start_syncer_with(Some("inserting:2"));
    assert_killed(syncer, "inserting").await;
    pipeline.start_syncer();
    pipeline.conclude().await
}
