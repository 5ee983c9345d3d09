//! State that is lost, and clocks that are wrong: the syncer stops and says so, it never begins again.

use std::time::Duration;

use spillway_bucket::PutMeta;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::proxy::{Action, Rule};
use spillway_tests::verdict::Verdict;
use spillway_tests::wait::until;

use crate::{Case, case};

const MANIFEST: &str = "_spillway/manifest.json";
/// Could not start.
const EXIT_NOT_STARTED: i32 = 3;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a lost manifest, with objects left (Minio)", async |servers, name| {
            lost_manifest(servers, name, Store::Minio, true).await
        }),
        case("a lost manifest, with only loaded rows (Directory)", async |servers, name| {
            lost_manifest(servers, name, Store::Directory, false).await
        }),
        case("a clock that is ten minutes off", skewed_clock),
    ]
}

async fn lost_manifest(servers: &mut Servers, name: &str, store: Store, objects_left: bool) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, store).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(200).await;
    pipeline.settle().await;
    pipeline.syncer().terminate();
    pipeline.syncer().wait(Duration::from_secs(40)).await;
    if objects_left {
        pipeline.send_all(100).await;
    }
    let (manifest, _) = pipeline.bucket.get(MANIFEST).await.unwrap().expect("a manifest");
    pipeline.bucket.delete_many(&[MANIFEST.to_owned()]).await.unwrap();
    let rows = pipeline.rows().await;
    let syncer = pipeline.start_syncer();
    refuses_to_start(syncer, "manifest").await;
    assert_eq!(pipeline.rows().await, rows, "nothing may be loaded without the manifest");
    assert!(pipeline.bucket.head(MANIFEST).await.unwrap().is_none(), "no new manifest may be begun");
    // The administrator restores it.
    pipeline.bucket.put_if_absent(MANIFEST, manifest, &PutMeta::default()).await.unwrap();
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.conclude().await
}

/// Ends by itself with the exit code for it, or stays up unready, and names the cause either way.
async fn refuses_to_start(process: &mut spillway_tests::process::Process, cause: &str) {
    until("the refusal", Duration::from_secs(30), async || {
        (!process.is_running() || process.log().to_lowercase().contains(cause)).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    if !process.is_running() {
        let status = process.wait(Duration::from_secs(1)).await;
        assert!(status.code().is_none_or(|code| code == EXIT_NOT_STARTED || code == 0), "exit code {status}");
    }
    assert!(
        process.log().to_lowercase().contains(cause),
        "the log does not name {cause}:\n{}",
        process.log()
    );
    process.kill();
}

async fn skewed_clock(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    let ahead = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(10);
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&ahead).unwrap();
    pipeline.syncer_s3.add(Rule::new(Action::ReplaceHeader("date", date)));
    let before = pipeline.manifest().await;
    let syncer = pipeline.start_syncer();
    refuses_to_start(syncer, "clock").await;
    assert_eq!(pipeline.manifest().await, before, "a syncer with a wrong clock must not become the writer");
    pipeline.syncer_s3.behave();
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.conclude().await
}
