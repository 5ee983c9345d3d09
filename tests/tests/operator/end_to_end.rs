//! The real ingest and syncer with what the operator gave them: settings, Secrets, Lease and ServiceAccount.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::container::Container;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::owned;
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

use crate::claim::claims;

claims![
    records_get_from_the_service_into_clickhouse_by_what_the_operator_made,
    a_standby_syncer_takes_the_lease_of_a_killed_one,
    a_renewed_certificate_is_shown_without_a_rollout,
];

async fn send(space: &Space, ingest: &Container, count: usize) {
    let url = format!("http://127.0.0.1:{}/v1/drain", ingest.http);
    send_to(space, &spillway_tests::http::client(), &url, count).await;
}

/// Until it is accepted: the first try may come before ingest listens.
async fn send_to(space: &Space, client: &reqwest::Client, url: &str, count: usize) {
    let now = jiff::Timestamp::now().to_string();
    let record =
        json!({"project_id": "shop", "timestamp": now, "level": "info", "service": "web", "message": "sold"});
    let body = json!({"logs": vec![record; count]});
    until(&format!("ingest to accept ({})", space.namespace), PATIENCE, async || {
        let request = client.post(url).json(&body);
        let answer = request.bearer_auth("a-key-of-the-shop-that-is-long-enough").send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
}

async fn loaded(space: &Space, count: usize) {
    let query = format!("SELECT count() FROM {}.logs", space.database);
    until(&format!("{count} rows ({})", space.namespace), PATIENCE, async || {
        (space.ask(&query).await.trim() == count.to_string()).then_some(())
    })
    .await;
}

async fn records_get_from_the_service_into_clickhouse_by_what_the_operator_made(
    space: &mut Space,
) -> Operator {
    let operator = space.ready_pipeline().await;
    let ingest = Container::start(space, "logs-ingest", "ingest-pod").await;
    let mut syncer = Container::start(space, "logs-syncer", "syncer-pod").await;
    send(space, &ingest, 100).await;
    loaded(space, 100).await;
    space.leads("logs-syncer", "syncer-pod").await;
    space
        .sees("the syncer's name and the lag in the status", NAME, |pipeline: &LogPipeline| {
            let status = pipeline.status.as_ref()?;
            let holder = status.syncer_holder.as_ref()?.starts_with("syncer-pod");
            (holder && status.lag.is_some() && status.backlog.is_some()).then_some(())
        })
        .await;
    space.is_ready().await;
    // Told to stop, it lets its Lease go.
    syncer.process.terminate();
    syncer.process.wait(Duration::from_secs(30)).await;
    let since = Instant::now();
    space
        .sees("the Lease to be released", "logs-syncer", |lease: &Lease| {
            let holder = lease.spec.as_ref()?.holder_identity.clone().unwrap_or_default();
            (!holder.starts_with("syncer-pod")).then_some(())
        })
        .await;
    // Long before it runs out.
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    operator
}

async fn a_standby_syncer_takes_the_lease_of_a_killed_one(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let ingest = Container::start(space, "logs-ingest", "ingest-pod").await;
    let mut first = Container::start(space, "logs-syncer", "first").await;
    space.leads("logs-syncer", "first").await;
    let mut second = Container::start(space, "logs-syncer", "second").await;
    send(space, &ingest, 10).await;
    loaded(space, 10).await;
    assert!(second.process.is_running(), "a standby waits");
    first.process.kill();
    send(space, &ingest, 10).await;
    space.leads("logs-syncer", "second").await;
    loaded(space, 20).await;
    second.process.kill();
    operator
}

struct Certificate {
    pem: String,
    key: String,
}

impl Certificate {
    /// Signed by itself, so that who trusts one trusts no other.
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        Self { pem: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn entries(&self) -> [(&str, &str); 2] {
        [("tls.crt", &self.pem), ("tls.key", &self.key)]
    }

    /// With connections of its own, which see what is shown now.
    fn client(&self) -> reqwest::Client {
        let trusted = reqwest::Certificate::from_pem(self.pem.as_bytes()).expect("a certificate");
        let client = reqwest::Client::builder().tls_certs_only([trusted]).pool_max_idle_per_host(0);
        client.retry(reqwest::retry::never()).build().expect("a client")
    }
}

async fn told_pods(space: &Space) -> BTreeSet<Option<String>> {
    let ingest = ListParams::default().labels("app.kubernetes.io/component=ingest");
    let pods = space.api::<Pod>().list(&ingest).await.expect("pods");
    pods.iter().map(|pod| pod.annotations().get("spillway.dev/secrets-touched").cloned()).collect()
}

async fn a_renewed_certificate_is_shown_without_a_rollout(space: &mut Space) -> Operator {
    let (first, second) = (Certificate::new(), Certificate::new());
    space.create(&pipelines::secret("certificate", &first.entries())).await;
    let tls = json!({"ingest": {"tls": {"secretRef": {"name": "certificate"}}}});
    let operator = space.ready_with(tls, Options::default()).await;
    let ingest = Container::start(space, "logs-ingest", "ingest-pod").await;
    let mut syncer = Container::start(space, "logs-syncer", "syncer-pod").await;
    let url = format!("https://127.0.0.1:{}/v1/drain", ingest.http);
    send_to(space, &first.client(), &url, 10).await;
    assert!(second.client().get(&url).send().await.is_err(), "another certificate than that of the Secret");
    let template = owned::template(&space.get::<Deployment>("logs-ingest").await);

    let before = told_pods(space).await;
    space.write_secret("certificate", &second.entries()).await;
    until("the pods to be touched", PATIENCE, async || {
        let now = told_pods(space).await;
        (now.len() == 1 && now != before).then_some(())
    })
    .await;
    // Upon that, kubelet brings it.
    ingest.sync(space).await;
    send_to(space, &second.client(), &url, 10).await;
    assert!(first.client().get(&url).send().await.is_err(), "the old certificate is still shown");
    loaded(space, 20).await;
    assert_eq!(owned::template(&space.get::<Deployment>("logs-ingest").await), template);
    syncer.process.kill();
    operator
}
