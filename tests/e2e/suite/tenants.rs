//! Tenants that come, change and go while others send, and mistakes that nobody else notices.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use spillway_crds::LogPipeline;
use spillway_e2e::cases;
use spillway_e2e::doors::{Doors, Knock};
use spillway_e2e::space::{PATIENCE, Space};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::kubernetes::pipelines::{NAME, merge, secret, tenant};
use spillway_tests::wait::until;

cases![
    changes_of_a_tenant_take_effect_at_once_and_disturb_no_other,
    what_is_broken_is_named_and_the_others_go_on,
];

const OLD: &str = "the-first-key-of-the-blog-long-enough";
const NEW: &str = "the-second-key-of-the-blog-long-enough";

/// Kubelet alone takes 60 to 90 s to bring what changed.
const AT_ONCE: Duration = Duration::from_secs(30);

/// The tenant `blog` with something changed.
fn blog(change: Value) -> Value {
    let mut blog = tenant("blog", "blog-keys");
    merge(&mut blog, change);
    blog
}

/// Takes the place of all tenants but `shop`.
async fn put(space: &Space, others: &[Value]) {
    let mut tenants = vec![tenant("shop", "shop-keys")];
    tenants.extend(others.iter().cloned());
    space.change_spec(json!({"tenants": tenants})).await;
}

async fn changes_of_a_tenant_take_effect_at_once_and_disturb_no_other(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(600, 500)).await;
    let before = space.who_runs(NAME).await;
    let doors = Doors::of(space, NAME).await;
    let (old, new) = (Knock::with(OLD, "blog"), Knock::with(NEW, "blog"));
    let mut took = Vec::new();

    assert!(doors.ask(old).await.iter().all(|answer| answer.status == 401));
    space.create(&secret("blog-keys", &[("first", OLD)])).await;
    put(space, &[blog(json!({}))]).await;
    took.push(("added", doors.until("a tenant added", old, |answer| answer.status == 200).await));

    space.change::<Secret>("blog-keys", json!({"stringData": {"second": NEW}})).await;
    took.push(("key_added", doors.until("a second key", new, |answer| answer.status == 200).await));
    assert!(doors.ask(old).await.iter().all(|answer| answer.status == 200), "both are keys");
    space.change::<Secret>("blog-keys", json!({"data": {"first": null}})).await;
    took.push(("key_gone", doors.until("a key taken away", old, |answer| answer.status == 401).await));
    assert!(doors.ask(new).await.iter().all(|answer| answer.status == 200), "its successor is left");

    // So much that waiting for the debt would take longer than any test waits.
    let many = Knock { records: 300, ..new };
    put(space, &[blog(json!({"limits": {"recordsPerSecond": 1}}))]).await;
    let limited = doors.until("a limit", many, |answer| {
        assert_eq!(answer.status == 429, answer.retry_after.is_some_and(|seconds| seconds > 0), "{answer:?}");
        answer.status == 429
    });
    took.push(("limited", limited.await));
    put(space, &[blog(json!({}))]).await;
    took.push(("unlimited", doors.until("no limit", new, |answer| answer.status == 200).await));

    let old_record = Knock { days_old: 8, ..new };
    assert!(
        doors.ask(old_record).await.iter().all(|answer| answer.status == 200),
        "the pipeline keeps 30 days"
    );
    put(space, &[blog(json!({"retentionDays": 7}))]).await;
    let past = |body: &str| body.contains("past_retention");
    took.push(("retention", doors.until("a retention", old_record, |answer| past(&answer.body)).await));
    doors.ask(new).await;
    let rows = "SELECT count() FROM spillway.logs WHERE project_id = 'blog' AND retention_days = 7";
    until("rows of the new retention", PATIENCE, async || {
        (space.try_sql(rows).await.ok()?.trim().parse::<u64>().ok()? >= 2).then_some(())
    })
    .await;
    let lives = "SELECT DISTINCT toDate(delete_ttl_info_max) - toDate(extract(partition, '\\\\d+-\\\\d+-\\\\d+')) \
                 FROM system.parts WHERE database = 'spillway' AND table = 'logs' AND active \
                 AND partition LIKE '%,7)'";
    assert_eq!(space.sql(lives).await.trim(), "7");

    put(space, &[blog(json!({"projects": ["diary"]}))]).await;
    took.push((
        "project_gone",
        doors.until("a project taken away", new, |answer| answer.status == 403).await,
    ));
    put(space, &[]).await;
    took.push(("removed", doors.until("a tenant removed", new, |answer| answer.status == 401).await));

    let said: Vec<_> = took.iter().map(|(what, time)| format!("{what}={:.1}s", time.as_secs_f32())).collect();
    println!("tenants: {}", said.join(" "));
    assert!(took.iter().all(|(_, time)| *time < AT_ONCE), "{took:?}");
    let verdict = traffic.stop().await;
    assert_eq!(verdict.unclear, 0);
    assert_eq!(space.who_runs(NAME).await, before, "nothing of it restarts a pod");
}

/// Waits for a condition of any pipeline.
async fn is(space: &Space, pipeline: &str, type_: &str, status: &str) -> Condition {
    space
        .sees(&format!("{type_}={status} of {pipeline}"), pipeline, |pipeline: &LogPipeline| {
            let conditions = &pipeline.status.as_ref()?.conditions;
            let found = conditions.iter().find(|found| found.type_ == type_ && found.status == status)?;
            (found.observed_generation == pipeline.metadata.generation).then(|| found.clone())
        })
        .await
}

/// A small pipeline beside the usual one, with data of its own.
async fn beside(space: &Space, name: &str, change: Value) {
    let database = name.replace('-', "_");
    let own = json!({
        "storage": {"s3": {"prefix": format!("{name}/")}},
        "clickhouse": {"database": database},
        "ingest": {"replicas": 1},
        "syncer": {"replicas": 1},
    });
    let mut pipeline = space.pipeline(own);
    let mut spec = serde_json::to_value(&pipeline.spec).expect("a spec");
    merge(&mut spec, change);
    pipeline.spec = serde_json::from_value(spec).expect("a spec");
    pipeline.metadata.name = Some(name.to_owned());
    space.create(&pipeline).await;
}

async fn what_is_broken_is_named_and_the_others_go_on(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(600, 500)).await;
    let before = space.who_runs(NAME).await;
    let doors = Doors::of(space, NAME).await;

    // Two tenants with a mistake each, and one without behind them.
    let mut thief = tenant("thief", "thief-keys");
    thief["projects"] = json!(["shop", "loot"]);
    space.create(&secret("thief-keys", &[("first", "the-key-of-a-thief-that-is-long-enough")])).await;
    space.create(&secret("blog-keys", &[("first", OLD)])).await;
    put(space, &[tenant("absent", "absent-keys"), thief.clone(), blog(json!({}))]).await;
    let left_out = space.condition("TenantsValid", "False", Some("TenantsLeftOut")).await.message;
    for named in ["absent", "absent-keys", "thief", "\"shop\""] {
        assert!(left_out.contains(named), "{named} is missing: {left_out}");
    }
    space.is_ready().await;
    let good = Knock::with(OLD, "blog");
    doors.until("the good one", good, |answer| answer.status == 200).await;
    let stolen = Knock::with("the-key-of-a-thief-that-is-long-enough", "loot");
    assert!(doors.ask(stolen).await.iter().all(|answer| answer.status == 401));
    // The mistake is mended where it is, and the pipeline is not touched for it.
    let absent = "the-key-of-the-absent-that-is-long-enough";
    space.create(&secret("absent-keys", &[("first", absent)])).await;
    doors.until("the mended one", Knock::with(absent, "absent"), |answer| answer.status == 200).await;
    let mended = async || {
        let message = space.condition("TenantsValid", "False", None).await.message;
        (!message.contains("absent")).then_some(message)
    };
    let message = until("no more word of it", PATIENCE, mended).await;
    assert!(message.contains("thief"), "{message}");

    // Two pipelines with a mistake each.
    space
        .create(&secret("wrong", &[("access_key_id", "nobody"), ("secret_access_key", "nothing-at-all")]))
        .await;
    let wrong = json!({"storage": {"s3": {"credentialsSecretRef": {"name": "wrong"}}}});
    beside(space, "locked-out", wrong).await;
    beside(space, "mistaken", json!({"ingest": {"queue": {"maxBytes": "4Mi"}}})).await;
    let spec = is(space, "mistaken", "SpecValid", "False").await;
    assert_eq!(spec.reason, "Invalid");
    assert!(spec.message.contains("spec.ingest.flush.maxBytes"), "{}", spec.message);
    let bucket = is(space, "locked-out", "BucketReady", "False").await;
    assert_eq!(bucket.reason, "Denied", "{}", bucket.message);
    assert!(space.who_runs("locked-out").await.is_empty() && space.who_runs("mistaken").await.is_empty());

    // A change of the good one is not behind them in any queue.
    let since = Instant::now();
    put(space, &[]).await;
    doors.until("a tenant removed", good, |answer| answer.status == 401).await;
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    space.condition("TenantsValid", "True", None).await;
    space.is_ready().await;
    assert_eq!(space.who_runs(NAME).await, before);

    // Put right, they run.
    let right = json!({"stringData": {
        "access_key_id": spillway_tests::minio::ACCESS_KEY, "secret_access_key": spillway_tests::minio::SECRET_KEY,
    }});
    space.change::<Secret>("wrong", right).await;
    space.change::<LogPipeline>("mistaken", json!({"spec": {"ingest": {"queue": null}}})).await;
    is(space, "locked-out", "Ready", "True").await;
    is(space, "mistaken", "Ready", "True").await;
    let verdict = traffic.stop().await;
    assert_eq!(verdict.unclear, 0);
    assert_eq!(space.who_runs(NAME).await, before);
}
