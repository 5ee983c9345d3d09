//! One test's place: a namespace that admits only restricted pods, a bucket and a database.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use spillway_bucket::Bucket;
use spillway_crds::LogPipeline;
use spillway_model::settings::{BucketSettings, Place, S3Settings};
use spillway_schema::ClickHouse;

use super::at_rest;
use super::namespaced::Namespaced;
use super::operator::{Operator, Options};
use super::pipelines;
use super::world::World;
use crate::minio;

/// For what takes the operator, its servers and the hollow kubelet some steps on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Key of the manifest.
pub const MANIFEST: &str = "_spillway/manifest.json";

pub struct Space {
    pub world: Arc<World>,
    place: Namespaced,
    pub bucket: String,
    pub database: String,
    /// Reasons of events that this test brings about by design.
    expected: BTreeSet<String>,
}

impl Deref for Space {
    type Target = Namespaced;

    fn deref(&self) -> &Namespaced {
        &self.place
    }
}

impl Space {
    pub(super) async fn open(world: Arc<World>, namespace: String) -> Self {
        let (bucket, database) = (namespace.clone(), namespace.replace('-', "_"));
        let place = Namespaced { client: world.admin.clone(), namespace, patience: PATIENCE };
        place.make().await;
        let space = Self { world, place, bucket, database, expected: BTreeSet::new() };
        for secret in pipelines::secrets() {
            space.create(&secret).await;
        }
        space
    }

    /// Replaces the entries of a Secret.
    pub async fn write_secret(&self, name: &str, entries: &[(&str, &str)]) {
        let mut secret: Secret = pipelines::secret(name, entries);
        let secrets: Api<Secret> = self.api();
        secret.metadata.resource_version = secrets.get(name).await.expect("the Secret").resource_version();
        secrets.replace(name, &PostParams::default(), &secret).await.expect("the Secret is replaced");
    }

    pub async fn operator(&self) -> Operator {
        Operator::start(self, Options::default()).await
    }

    /// Creates [`pipelines::pipeline`], starts an operator and waits until all is ready.
    pub async fn ready_pipeline(&self) -> Operator {
        self.ready_with(json!({}), Options::default()).await
    }

    /// The same with `change` merged into the pipeline's spec, and an operator of these options.
    pub async fn ready_with(&self, change: Value, options: Options) -> Operator {
        self.create(&pipelines::with(self, change)).await;
        let operator = Operator::start(self, options).await;
        self.is_ready().await;
        operator
    }

    /// Asks for the end of a pipeline, as `kubectl delete` does without waiting.
    pub async fn delete_pipeline(&self, name: &str) {
        let deleted = self.api::<LogPipeline>().delete(name, &DeleteParams::default()).await;
        deleted.unwrap_or_else(|error| panic!("{name} is not deleted: {error}"));
    }

    /// What `kubectl` says, in the test's namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = self.world.control_plane.kubectl();
        command.args(arguments).args(["--namespace", &self.namespace]);
        let asked = tokio::task::spawn_blocking(move || command.output().expect("kubectl starts"));
        let output = asked.await.expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Names the reason of an event that this test brings about.
    pub fn expect_event(&mut self, reason: &str) {
        self.expected.insert(reason.to_owned());
    }

    /// What every test ends with: nothing writes any more, and nothing was said that should not have been.
    pub async fn is_at_rest(&self) {
        at_rest::stands_still(self).await;
        at_rest::no_unexpected_events(self, &self.expected).await;
    }

    /// The test's bucket, past the operator.
    pub async fn open_bucket(&self) -> Bucket {
        let settings = BucketSettings {
            place: Place::S3(S3Settings {
                endpoint: Some(self.world.minio.endpoint()),
                region: minio::REGION.to_owned(),
                bucket: self.bucket.clone(),
                path_style: true,
                credentials_dir: Some(self.world.minio.credentials_dir()),
                ca_file: None,
            }),
            prefix: String::new(),
        };
        Bucket::open(&settings).await.expect("the bucket opens")
    }

    /// Keys of everything in the test's bucket.
    pub async fn keys(&self) -> Vec<String> {
        let page = self.open_bucket().await.list("", None, 1000).await.expect("the bucket can be listed");
        page.objects.into_iter().map(|object| object.key).collect()
    }

    pub async fn manifest(&self) -> Option<Vec<u8>> {
        let found = self.open_bucket().await.get(MANIFEST).await.expect("the bucket answers");
        found.map(|(bytes, _)| bytes.to_vec())
    }

    /// Tables and views of the test's database, sorted.
    pub async fn tables(&self) -> Vec<String> {
        let query =
            format!("SELECT name FROM system.tables WHERE database = '{}' ORDER BY name", self.database);
        self.ask(&query).await.lines().map(str::to_owned).collect()
    }

    /// What ClickHouse answers to a query, in tab-separated lines.
    pub async fn ask(&self, query: &str) -> String {
        let request = crate::http::client().post(self.world.front.url()).body(query.to_owned());
        let answer = request.send().await.expect("ClickHouse answers");
        let good = answer.status().is_success();
        let text = answer.text().await.expect("a text");
        assert!(good, "{query}: {text}");
        text
    }

    /// The test's database, past the operator.
    pub fn clickhouse(&self) -> ClickHouse {
        ClickHouse::connect(&self.world.front.settings(&self.database)).expect("the client is made")
    }
}
