//! ClickHouse or MinIO away for a while: who sends is told the truth, and nothing is lost.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use spillway_crds::LogPipeline;
use spillway_e2e::cases;
use spillway_e2e::faults::scale_server;
use spillway_e2e::forward::Forward;
use spillway_e2e::metrics::{INGEST, Metrics};
use spillway_e2e::pods;
use spillway_e2e::space::{KEY, Space};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_model::UnixNanos;
use spillway_tests::kubernetes::pipelines::{NAME, secret, tenant};
use spillway_tests::wait::until;

cases![
    without_clickhouse_ingest_goes_on_and_the_backlog_is_loaded_later,
    without_minio_senders_are_answered_503_in_time_and_nothing_is_lost,
];

const LONG: u32 = 280;
const BLOG: &str = "a-key-of-the-blog-that-is-long-enough";
const RATE: u32 = 300;

/// `Ready` tells of an outage within about a minute. The syncer's status is written every 10 s, the operator reads it every
/// 60 s, give or take a tenth, and asks the server for 5 s at most.
const TOLD: Duration = Duration::from_secs(10 + 66 + 5 + 9);
/// An answer of ingest that waits for nothing, by way of `kubectl port-forward`.
const AT_ONCE: Duration = Duration::from_secs(3);
/// How long ingest waits for the bucket before it says that a request is not durable yet.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

async fn without_clickhouse_ingest_goes_on_and_the_backlog_is_loaded_later(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    let ingest = Forward::open(space, &format!("service/{NAME}-ingest"), 8080).await;

    scale_server(space, "clickhouse", 0).await;
    let before = Staged::now(space).await;
    says(space, "Ready", "Unreachable").await;
    let message = says(space, "SchemaReady", "Unreachable").await;
    assert!(message.contains("check the URL"), "{message}");
    let told = before.at.elapsed();
    println!("outage: clickhouse: the conditions say so after {:.0} s", told.as_secs_f64());
    assert!(told <= TOLD, "{told:?}");
    let (rows, lag) = space
        .sees("backlog and lag in the status", NAME, |pipeline: &LogPipeline| {
            let status = pipeline.status.as_ref()?;
            let backlog =
                status.backlog.as_ref().filter(|backlog| backlog.objects > 0 && backlog.bytes > 0)?;
            let lag = status.lag.clone().filter(|lag| seconds(lag) >= 60)?;
            (backlog.rows > 0).then_some((backlog.rows, lag))
        })
        .await;
    println!("outage: clickhouse: the status says backlog={rows} lag={lag}");
    // Once records have waited for a minute.
    let stands = says(space, "SyncerAvailable", "NotLoading").await;
    assert!(stands.contains("cannot be reached"), "{stands}");

    // What is sent meanwhile is taken as if nothing were the matter.
    let answer = Answer::of(&ingest, "outage", 1, "durable").await;
    assert_eq!((answer.status, answer.took < AT_ONCE), (200, true), "{answer:?}");
    let after = Staged::now(space).await;
    let rate = (after.records - before.records) / (after.at - before.at).as_secs_f64();
    println!("outage: clickhouse: {rate:.0} records/s staged meanwhile of {RATE} sent");
    assert!(rate > 0.9 * f64::from(RATE), "{rate} records per second");
    assert_eq!((after.turned_away, after.bad_answers), (0.0, 0.0));

    scale_server(space, "clickhouse", 1).await;
    traffic.stop().await;
    space.is_ready().await;
    space
        .sees("an empty backlog in the status", NAME, |pipeline: &LogPipeline| {
            let status = pipeline.status.as_ref()?;
            (status.backlog.as_ref()?.objects == 0 && seconds(status.lag.as_ref()?) <= 10).then_some(())
        })
        .await;

    let rows = space.rows().await;
    assert!(rows > 0);
    let old = space.pods("app=clickhouse").await;
    let old = old.first().expect("a ClickHouse").name_any();
    space.api::<Pod>().delete(&old, &DeleteParams::default()).await.expect("the pod is deleted");
    space.goes::<Pod>(&old).await;
    space.is_available("clickhouse").await;
    assert_eq!(space.rows().await, rows, "of the rows that were there before the pod was replaced");
}

async fn without_minio_senders_are_answered_503_in_time_and_nothing_is_lost(space: &Space) {
    space.create(&secret("blog-keys", &[("first", BLOG)])).await;
    // So small that the traffic of two tenants fills it in half a minute.
    let queue = json!({"maxBytes": "1Mi", "tenantSharePercent": 90});
    space
        .ready_pipeline(json!({
            "ingest": {"queue": queue, "flush": {"maxBytes": "256Ki"}},
            "tenants": [tenant("shop", "shop-keys"), tenant("blog", "blog-keys")],
        }))
        .await;
    let keys = vec![format!("shop={KEY}"), format!("blog={BLOG}")];
    let traffic = Traffic::start(space, Load { keys, ..Load::of(LONG, RATE) }).await;
    let ingest = Forward::open(space, &format!("service/{NAME}-ingest"), 8080).await;
    assert_eq!(Answer::of(&ingest, "before", 1, "durable").await.status, 200);

    scale_server(space, "minio", 0).await;
    let since = Instant::now();
    // While there is room the records are kept, and the answer says that they aren't safe yet.
    let (mut taken, mut is_told) = (0, false);
    let full = loop {
        assert!(since.elapsed() < Duration::from_secs(90), "the queue does not fill up");
        let answer = Answer::of(&ingest, "outage", 100, "durable").await;
        assert_eq!((answer.status, answer.retry_after > Some(0)), (503, true), "{answer:?}");
        if answer.code != "not_yet_durable" {
            break answer;
        }
        let in_time = ACK_TIMEOUT..ACK_TIMEOUT + AT_ONCE;
        assert!(in_time.contains(&answer.took), "{answer:?}");
        taken += answer.accepted;
        is_told = true;
    };
    assert!(is_told, "the first answer was already {full:?}");
    // Then nothing is taken any more, and that is said at once.
    assert!(full.code == "queue_bytes" && full.accepted == 0 && full.took < AT_ONCE, "{full:?}");
    let message = says(space, "BucketReady", "Unavailable").await;
    assert!(message.contains("check endpoint"), "{message}");
    says(space, "Ready", "Unavailable").await;
    println!("outage: minio: the conditions say so after {:.0} s", since.elapsed().as_secs_f64());
    space.condition("IngestAvailable", "True", None).await;

    scale_server(space, "minio", 1).await;
    let again = async || (Answer::of(&ingest, "after", 1, "durable").await.status == 200).then_some(());
    until("a durable answer once MinIO is back", Duration::from_secs(60), again).await;
    let verdict = traffic.stop().await;
    // No pod ended, so what was not durable yet is or comes there as well.
    assert!(verdict.unclear > 0, "the sender was never told not_yet_durable");
    let expected = (taken, verdict.acknowledged + verdict.unclear);
    until(
        &format!("{expected:?} rows, also of what was not durable yet"),
        Duration::from_secs(60),
        async || {
            let ours = "service = 'outage'), countIf(service NOT IN ('before', 'outage', 'after'))";
            let counts = space.sql(&format!("SELECT countIf({ours} FROM spillway.logs")).await;
            let (ours, others) = counts.trim().split_once('\t')?;
            ((ours.parse(), others.parse()) == (Ok(expected.0), Ok(expected.1))).then_some(())
        },
    )
    .await;
    for pod in space.component("ingest").await {
        assert_eq!(pods::restarts(&pod), 0, "{}", pod.name_any());
    }
    space.is_ready().await;
}

/// Waits for a condition that isn't true, and returns what it says.
async fn says(space: &Space, type_: &str, reason: &str) -> String {
    until(&format!("{type_} to say {reason} ({})", space.namespace), TOLD, async || {
        let pipeline: LogPipeline = space.api().get(NAME).await.ok()?;
        let found = pipeline.status?.conditions.into_iter().find(|condition| condition.type_ == type_)?;
        (found.status == "False" && found.reason == reason).then_some(found.message)
    })
    .await
}

/// What the ingest pods say of their work.
struct Staged {
    at: Instant,
    records: f64,
    turned_away: f64,
    bad_answers: f64,
}

impl Staged {
    async fn now(space: &Space) -> Self {
        let mut now = Self { at: Instant::now(), records: 0.0, turned_away: 0.0, bad_answers: 0.0 };
        for pod in space.component("ingest").await {
            let metrics = Metrics::of(space, &pod, INGEST).await;
            let requests = |label: &str| metrics.sum_where("spillway_ingest_requests_total", label);
            now.records += metrics.sum("spillway_ingest_staged_records_total");
            now.turned_away += metrics.sum("spillway_ingest_overloads_total");
            now.bad_answers += requests("") - requests("code=\"200\"");
        }
        now
    }
}

/// What ingest says to one request.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Seconds.
    retry_after: Option<u64>,
    code: String,
    accepted: u64,
    took: Duration,
}

impl Answer {
    /// Sends some records of about a kilobyte.
    async fn of(ingest: &Forward, service: &str, records: u32, ack: &str) -> Self {
        let mut timestamp = Vec::new();
        UnixNanos::now().write_sql(&mut timestamp);
        let timestamp = String::from_utf8(timestamp).expect("a text");
        let message = "the shelf is full ".repeat(56);
        let log = json!({
            "project_id": "shop", "timestamp": timestamp, "level": "info", "service": service, "message": message,
        });
        let body = json!({"logs": vec![log; records as usize]}).to_string();
        let since = Instant::now();
        let request = spillway_tests::http::client()
            .post(format!("{}/v1/drain", ingest.url()))
            .timeout(Duration::from_secs(30))
            .bearer_auth(KEY)
            .header("content-type", "application/json")
            .header("x-spillway-ack", ack)
            .body(body);
        let response = request.send().await.unwrap_or_else(|error| panic!("no answer: {error:?}"));
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.text().await.unwrap_or_default();
        let took = since.elapsed();
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status} with {body:?}"));
        let code = body["error"]["code"].as_str().unwrap_or_default().to_owned();
        Self { status, retry_after, code, accepted: body["accepted"].as_u64().unwrap_or(0), took }
    }
}

/// At least, of a lag such as `<10s`, `75s`, `3m`.
fn seconds(lag: &str) -> u64 {
    let number: u64 = lag.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
    let unit = match lag.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        _ => 86_400,
    };
    number * unit
}
