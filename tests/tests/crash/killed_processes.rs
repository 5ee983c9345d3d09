//! SIGKILL at every step of ingest and of the syncer.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::process::Process;
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
const INGEST_STEPS: [&str; 3] = ["received", "staging", "staged"];

const KILLED: i32 = 9;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for store in [Store::Minio, Store::Directory] {
        for step in SYNCER_STEPS {
            cases.push(case(format!("syncer killed at {step} ({store:?})"), async move |servers, name| {
                syncer_killed(servers, name, store, step, 1).await
            }));
        }
        for step in INGEST_STEPS {
            cases.push(case(format!("ingest killed at {step} ({store:?})"), async move |servers, name| {
                ingest_killed(servers, name, store, step).await
            }));
        }
    }
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

async fn ingest_killed(servers: &mut Servers, name: &str, store: Store, step: &'static str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, store).await;
    pipeline.start_ingest_with(Some(&format!("{step}:8"))).await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload::default());
    assert_killed(pipeline.ingest(), step).await;
    pipeline.start_ingest().await;
    pipeline.send_all(200).await;
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
