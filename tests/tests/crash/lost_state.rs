//! State that is lost, and clocks that are wrong: the syncer stops and says so, it never begins again by itself. What an
//! administrator has made anew of a lost manifest costs no record and doubles none.

use std::time::Duration;

use bytes::Bytes;
use spillway_bucket::PutMeta;
use spillway_model::settings::Span;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::process::Process;
use spillway_tests::proxy::{Action, Reply, Rule};
use spillway_tests::traffic::Workload;
use spillway_tests::verdict::Verdict;
use spillway_tests::wait::until;

use crate::answers::inserts;
use crate::loaded_before::of_days;
use crate::{Case, case};

const MANIFEST: &str = "_spillway/manifest.json";
const BATCHES: &str = "_spillway/batches/";
pub(crate) const INCORRECT_DATA: i32 = 117;
/// Could not start.
const EXIT_NOT_STARTED: i32 = 3;

/// Where a batch can be when the manifest is lost; the second one, so that another is behind it.
const STEPS: [(&str, Store); 8] = [
    ("list-written", Store::Minio),
    ("planned", Store::Minio),
    ("inserting", Store::Minio),
    ("inserted", Store::Directory),
    ("marked", Store::Minio),
    ("deleting", Store::Directory),
    ("deleted", Store::Minio),
    ("swapped-out", Store::Minio),
];

pub(crate) fn cases() -> Vec<Case> {
    let rebuilt = STEPS.map(|(step, store)| {
        case(
            format!("a lost manifest made anew, syncer killed at {step} ({store:?})"),
            async move |servers, name| lost_at(servers, name, store, step).await,
        )
    });
    let mut cases = vec![
        case("a lost manifest, with objects left (Minio)", async |servers, name| {
            lost_manifest(servers, name, Store::Minio, true).await
        }),
        case("a lost manifest, with only loaded rows (Directory)", async |servers, name| {
            lost_manifest(servers, name, Store::Directory, false).await
        }),
        case("a lost manifest made anew under a running syncer, again and again", lost_under_load),
        case("a lost manifest made anew beside an orphaned list", lost_beside_an_orphan),
        case("a lost manifest, made anew by two at once after one was killed", made_anew_by_two),
        case("a lost manifest beside lists that are damaged or lost as well", lost_with_lists),
        case(
            "a lost manifest beside the lost list of a batch that was half inserted",
            lost_with_half_a_batch,
        ),
        case("a clock that is ten minutes off", skewed_clock),
    ];
    cases.extend(rebuilt);
    cases
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

/// With small batches, and little time for what was under way to end.
pub(crate) async fn pipeline(servers: &Servers, name: &str, store: Store) -> Pipeline {
    let mut pipeline = Pipeline::new(servers, name, store).await;
    pipeline.syncer_settings.batch.max_rows = 150;
    pipeline.syncer_settings.insert_timeout = Span::secs(1);
    pipeline
}

pub(crate) async fn lose(pipeline: &Pipeline) {
    pipeline.bucket.delete_many(&[MANIFEST.to_owned()]).await.unwrap();
}

pub(crate) async fn is_killed(process: &mut Process) {
    let status = process.wait(Duration::from_secs(40)).await;
    assert_eq!(status.code(), None, "it should have been killed:\n{}", process.log());
}

/// Control objects of batches with what is in them.
pub(crate) async fn lists(pipeline: &Pipeline) -> Vec<(String, Bytes)> {
    let mut lists = Vec::new();
    for object in pipeline.bucket.list(BATCHES, None, 10_000).await.unwrap().objects {
        let (body, _) = pipeline.bucket.get(&object.key).await.unwrap().expect("a control object");
        lists.push((object.key, body));
    }
    lists
}

async fn put_back(pipeline: &Pipeline, objects: Vec<(String, Bytes)>) {
    for (key, body) in objects {
        pipeline.bucket.put_if_absent(&key, body, &PutMeta::default()).await.unwrap();
    }
}

async fn lost_at(servers: &mut Servers, name: &str, store: Store, step: &'static str) -> Verdict {
    let mut pipeline = pipeline(servers, name, store).await;
    pipeline.start_ingest().await;
    pipeline.send_all(300).await;
    let traffic = pipeline.send(Workload { records: Some(600), ..Workload::default() });
    is_killed(pipeline.start_syncer_with(Some(&format!("{step}:2")))).await;
    lose(&pipeline).await;
    pipeline.rebuild().await;
    pipeline.start_syncer();
    traffic.finish().await;
    pipeline.conclude().await
}

async fn lost_under_load(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    let traffic = pipeline.send(Workload { pause: Duration::from_millis(10), ..Workload::default() });
    for _ in 0..4 {
        pipeline.start_syncer();
        // Only one that has taken over can notice.
        until("the syncer to take over", Duration::from_secs(40), async || {
            (pipeline.manifest().await?["released"] == false).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..1_500))).await;
        lose(&pipeline).await;
        pipeline.rebuild().await;
        // It notices by itself, whether it saw that there was none or finds another's.
        let old = pipeline.syncer();
        let status = old.wait(Duration::from_secs(20)).await;
        assert!(!status.success(), "the old syncer went on:\n{}", old.log());
    }
    traffic.stop().await;
    pipeline.start_syncer();
    pipeline.conclude().await
}

async fn lost_beside_an_orphan(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.send_all(300).await;
    is_killed(pipeline.start_syncer_with(Some("list-written"))).await;
    let orphans = lists(&pipeline).await;
    assert!(!orphans.is_empty());
    // Its objects are planned anew by the next one, which sweeps it.
    is_killed(pipeline.start_syncer_with(Some("inserted"))).await;
    put_back(&pipeline, orphans).await;
    lose(&pipeline).await;
    let said = pipeline.rebuild().await;
    assert!(said.contains("it has no rows, and batch"), "no orphan was dropped:\n{said}");
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.conclude().await
}

async fn made_anew_by_two(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.send_all(300).await;
    is_killed(pipeline.start_syncer_with(Some("inserted:2"))).await;
    lose(&pipeline).await;
    is_killed(&mut pipeline.start_rebuild(Some("rebuilding"))).await;
    assert!(pipeline.manifest().await.is_none());
    let mut both = [pipeline.start_rebuild(None), pipeline.start_rebuild(None)];
    let mut made = 0;
    for process in &mut both {
        let status = process.wait(Duration::from_secs(60)).await;
        made += usize::from(status.success());
        assert!(status.success() || process.log().contains("only a missing one"), "{}", process.log());
    }
    assert_eq!(made, 1);
    let before = pipeline.manifest().await;
    let mut late = pipeline.start_rebuild(None);
    assert_eq!(late.wait(Duration::from_secs(60)).await.code(), Some(EXIT_NOT_STARTED));
    assert_eq!(pipeline.manifest().await, before, "a manifest that is there may not be touched");
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.conclude().await
}

async fn lost_with_lists(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.send_all(300).await;
    // Loaded, and still staged.
    is_killed(pipeline.start_syncer_with(Some("deleting"))).await;
    lose(&pipeline).await;
    let lists = lists(&pipeline).await;
    let keys: Vec<String> = lists.iter().map(|(key, _)| key.clone()).collect();
    pipeline.bucket.delete_many(&keys).await.unwrap();
    is_refused(&mut pipeline, "in the table already").await;
    let damaged = keys[0].clone();
    put_back(&pipeline, vec![(damaged.clone(), Bytes::from_static(b"{"))]).await;
    is_refused(&mut pipeline, &damaged).await;
    pipeline.bucket.delete_many(&[damaged]).await.unwrap();
    put_back(&pipeline, lists).await;
    pipeline.rebuild().await;
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.conclude().await
}

async fn lost_with_half_a_batch(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_partitions = 1;
    // One partition, and in it rows of the last object only, is what will be in the table.
    for _ in 0..4 {
        pipeline.stage(&of_days(&[1])).await;
    }
    pipeline.stage(&of_days(&[1, 0])).await;
    let refusal = Action::AnswerBefore(Reply::clickhouse_exception(INCORRECT_DATA));
    pipeline.clickhouse_proxy.add(inserts(refusal).times(1));
    is_killed(pipeline.start_syncer_with(Some("inserted:2"))).await;
    assert_eq!(pipeline.rows().await, 10);
    lose(&pipeline).await;
    let lists = lists(&pipeline).await;
    let keys: Vec<String> = lists.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys.len(), 1, "one batch holds them all");
    pipeline.bucket.delete_many(&keys).await.unwrap();
    is_refused(&mut pipeline, "in the table already").await;
    put_back(&pipeline, lists).await;
    pipeline.rebuild().await;
    pipeline.start_syncer();
    pipeline.conclude().await
}

pub(crate) async fn is_refused(pipeline: &mut Pipeline, cause: &str) {
    let mut process = pipeline.start_rebuild(None);
    assert_eq!(
        process.wait(Duration::from_secs(120)).await.code(),
        Some(EXIT_NOT_STARTED),
        "{}",
        process.log()
    );
    assert!(process.log().contains(cause), "the log does not name {cause}:\n{}", process.log());
    assert!(pipeline.manifest().await.is_none(), "no manifest may be made");
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
