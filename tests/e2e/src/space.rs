//! One test's namespace: it admits only restricted pods and has a MinIO and a ClickHouse of its own.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use spillway_bucket::{Bucket, BucketError};
use spillway_crds::LogPipeline;
use spillway_model::settings::{BucketSettings, Place, S3Settings};
use spillway_tests::kubernetes::namespaced::Namespaced;
use spillway_tests::kubernetes::pipelines::{self, NAME, merge};
use spillway_tests::minio;
use spillway_tests::wait::until;

use crate::cluster::Cluster;
use crate::forward::Forward;
use crate::pods;

/// For what takes kubelets, controllers and the operator some steps on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// API key of the tenant `shop`.
pub const KEY: &str = "a-key-of-the-shop-that-is-long-enough";

const MINIO: &str = include_str!("../manifests/minio.yaml");
const CLICKHOUSE: &str = include_str!("../manifests/clickhouse.yaml");

pub struct Space {
    pub cluster: Arc<Cluster>,
    /// Name of the test.
    pub test: String,
    place: Namespaced,
}

impl Deref for Space {
    type Target = Namespaced;

    fn deref(&self) -> &Namespaced {
        &self.place
    }
}

impl Space {
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, test: &str) -> Self {
        let name: String = test
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let name = format!("e2e-{}", name.replace("--", "-"));
        let namespace = name[..name.len().min(60)].trim_end_matches('-').to_owned();
        let place = Namespaced { client: cluster.client.clone(), namespace, patience: PATIENCE };
        Self { cluster, test: test.to_owned(), place }
    }

    /// Makes the namespace and waits for its servers.
    pub async fn open(&self) {
        self.open_empty().await;
        self.apply_yaml(MINIO).await;
        self.apply_yaml(&clickhouse()).await;
        for server in ["minio", "clickhouse"] {
            self.is_available(server).await;
        }
    }

    /// Makes the namespace with the Secrets that pipelines name, and no servers.
    pub async fn open_empty(&self) {
        self.clear().await;
        self.make().await;
        for secret in pipelines::secrets() {
            self.create(&secret).await;
        }
    }

    /// Begins to remove the namespace. Its end needs nobody to wait for it.
    pub async fn close(&self) -> bool {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.is_ok()
    }

    /// Removes what an earlier run left under this name.
    async fn clear(&self) {
        if !self.close().await {
            return;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        until(&format!("the end of an earlier {}", self.namespace), PATIENCE, async || {
            namespaces.get_opt(&self.namespace).await.ok().filter(Option::is_none).map(drop)
        })
        .await;
    }

    /// `kubectl apply -f -` in this namespace, with the images of this run.
    pub async fn apply_yaml(&self, yaml: &str) -> String {
        let images = &self.cluster.images;
        let yaml = yaml
            .replace("localhost/spillway/minio:test", &images.minio)
            .replace("localhost/spillway/clickhouse:test", &images.clickhouse)
            .replace("localhost/spillway/spillway:test", &images.spillway);
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), yaml).expect("the file is written");
        self.kubectl(&["apply", "-f", &file.path().to_string_lossy()]).await
    }

    /// What `kubectl` says in this namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        let all: Vec<_> =
            ["--namespace", &self.namespace].into_iter().chain(arguments.iter().copied()).collect();
        crate::cluster::run(self.cluster.kubectl(&all)).await
    }

    /// The pipeline that most tests make, with `change` merged into its spec: two ingest pods, two syncers, one tenant
    /// `shop` with a project of that name.
    #[must_use]
    pub fn pipeline(&self, change: Value) -> LogPipeline {
        let small = json!({"requests": {"cpu": "50m", "memory": "64Mi"}});
        let mut spec = json!({
            "storage": {
                "s3": {
                    "endpoint": "http://minio:9000", "region": minio::REGION, "bucket": minio::BUCKET,
                    "credentialsSecretRef": {"name": "bucket"},
                },
                "bucketPolicy": {"create": true},
            },
            "clickhouse": {"url": "http://clickhouse:8123"},
            "ingest": {"replicas": 2, "resources": small},
            "syncer": {"resources": small},
            "tenants": [pipelines::tenant("shop", "shop-keys")],
        });
        merge(&mut spec, change);
        LogPipeline::new(NAME, serde_json::from_value(spec).expect("a spec"))
    }

    /// Creates [`Space::pipeline`] and waits until it is ready, with all its pods: one of each kind is enough for Ready.
    pub async fn ready_pipeline(&self, change: Value) {
        self.create(&self.pipeline(change)).await;
        self.is_ready().await;
        for component in ["ingest", "syncer"] {
            self.is_available(&format!("{NAME}-{component}")).await;
        }
    }

    /// Waits until a Deployment has rolled out: all its pods are of its present template, and ready.
    pub async fn is_available(&self, deployment: &str) {
        self.sees(&format!("{deployment} to be available"), deployment, |object: &Deployment| {
            let status = object.status.as_ref()?;
            let wanted = object.spec.as_ref()?.replicas.unwrap_or(1);
            let is_seen = status.observed_generation == object.metadata.generation;
            let all = [status.replicas, status.updated_replicas, status.ready_replicas]
                .iter()
                .all(|count| count.unwrap_or(0) == wanted);
            (is_seen && all).then_some(())
        })
        .await;
    }

    /// Pods of this namespace with a label, those that are being deleted as well.
    pub async fn pods(&self, label: &str) -> Vec<Pod> {
        let list = self.api::<Pod>().list(&ListParams::default().labels(label)).await;
        list.expect("pods can be listed").items
    }

    /// Which pods a pipeline has: their names, uids and how often their containers were started again.
    pub async fn who_runs(&self, pipeline: &str) -> BTreeSet<(String, String, i32)> {
        let pods = self.pods(&format!("spillway.dev/pipeline={pipeline}")).await;
        pods.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default(), pods::restarts(pod))).collect()
    }

    /// The pipeline's pods: `ingest` or `syncer`.
    pub async fn component(&self, component: &str) -> Vec<Pod> {
        self.pods(&format!("spillway.dev/pipeline={NAME},app.kubernetes.io/component={component}")).await
    }

    /// The pod of the syncer that holds the Lease.
    pub async fn leader(&self) -> Pod {
        use k8s_openapi::api::coordination::v1::Lease;
        let holder = self
            .sees("a leading syncer", &format!("{NAME}-syncer"), |lease: &Lease| {
                let holder = lease.spec.as_ref()?.holder_identity.clone()?;
                (!holder.is_empty()).then_some(holder)
            })
            .await;
        // The identity begins with the pod's name.
        let pods = self.component("syncer").await;
        let leader = pods.into_iter().find(|pod| holder.starts_with(&pod.name_any()));
        leader.unwrap_or_else(|| panic!("{holder} is no pod of {}", self.namespace))
    }

    /// Where the servers' volumes are; traffic comes from there, so that the other node can be emptied.
    pub async fn home(&self) -> String {
        pods::node(self.pods("app=clickhouse").await.first().expect("a ClickHouse")).to_owned()
    }

    /// What ClickHouse answers to a query, in tab-separated lines.
    ///
    /// # Errors
    /// When it can't be reached or refuses the query.
    pub async fn try_sql(&self, query: &str) -> Result<String, String> {
        let path = format!("/api/v1/namespaces/{}/services/clickhouse:8123/proxy/", self.namespace);
        let request = http::Request::post(path).body(query.as_bytes().to_vec()).map_err(|e| e.to_string())?;
        self.client.request_text(request).await.map_err(|error| error.to_string())
    }

    /// The same; fails when there is no answer.
    pub async fn sql(&self, query: &str) -> String {
        self.try_sql(query).await.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Rows of the table.
    pub async fn rows(&self) -> u64 {
        self.sql("SELECT count() FROM spillway.logs").await.trim().parse().expect("a number")
    }

    /// The test's bucket. The forward has to be kept while it is used.
    pub async fn bucket(&self) -> (Bucket, Forward) {
        let forward = Forward::open(self, "service/minio", 9000).await;
        let credentials = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(credentials.path().join("access_key_id"), minio::ACCESS_KEY).expect("a file");
        std::fs::write(credentials.path().join("secret_access_key"), minio::SECRET_KEY).expect("a file");
        let settings = BucketSettings {
            place: Place::S3(S3Settings {
                endpoint: Some(forward.url()),
                region: minio::REGION.to_owned(),
                bucket: minio::BUCKET.to_owned(),
                path_style: true,
                credentials_dir: Some(credentials.keep()),
                ca_file: None,
            }),
            prefix: String::new(),
        };
        (Bucket::open(&settings).await.expect("the bucket opens"), forward)
    }
}

/// ClickHouse's manifest. Its own image has another user, folder and arguments than that of the engine behind our front.
fn clickhouse() -> String {
    match std::env::var("SPILLWAY_E2E_CLICKHOUSE_MANIFEST") {
        Ok(path) if !path.is_empty() => {
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        }
        _ => CLICKHOUSE.to_owned(),
    }
}

/// Everything in a bucket.
///
/// # Errors
/// When it can't be listed.
pub async fn keys(bucket: &Bucket) -> Result<Vec<String>, BucketError> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = bucket.list("", after.as_deref(), 1000).await?;
        keys.extend(page.objects.into_iter().map(|object| object.key));
        after = page.next;
        if after.is_none() {
            return Ok(keys);
        }
    }
}
