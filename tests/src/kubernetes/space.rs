//! One test's place: a namespace that admits only restricted pods, a bucket, a database, and the operator's rights.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use spillway_bucket::Bucket;
use spillway_crds::LogPipeline;
use spillway_model::settings::{BucketSettings, Place, S3Settings};
use spillway_schema::ClickHouse;

use super::at_rest;
use super::helm;
use super::operator::{Operator, Options};
use super::pipelines::{self, NAME};
use super::world::World;
use crate::minio;
use crate::wait::until;

/// For what takes the operator, its servers and the hollow kubelet some steps on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Space {
    pub world: Arc<World>,
    pub client: Client,
    pub namespace: String,
    pub bucket: String,
    pub database: String,
    /// Reasons of events that this test brings about by design.
    expected: BTreeSet<String>,
}

impl Space {
    pub(super) async fn open(world: Arc<World>, namespace: String) -> Self {
        let client = world.admin.clone();
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
        let object: Namespace = serde_json::from_value(object).expect("a namespace");
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
            .expect("the namespace is created");
        helm::apply(&client, &world.rights(&namespace)).await;
        let (bucket, database) = (namespace.clone(), namespace.replace('-', "_"));
        let space = Self { world, client, namespace, bucket, database, expected: BTreeSet::new() };
        for secret in pipelines::secrets() {
            space.create(&secret).await;
        }
        space
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn create<K>(&self, object: &K) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let created = self.api().create(&PostParams::default(), object).await;
        created.unwrap_or_else(|error| panic!("{} is not created: {error}", object.name_any()))
    }

    /// Merges `change` into an object, as its owner would with `kubectl patch`.
    pub async fn change<K>(&self, name: &str, change: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let manager = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
        let changed = self.api().patch(name, &manager, &Patch::Merge(change)).await;
        changed.unwrap_or_else(|error| panic!("{name} is not changed: {error}"))
    }

    /// Changes the spec of the pipeline.
    pub async fn change_spec(&self, change: Value) -> LogPipeline {
        self.change(NAME, json!({"spec": change})).await
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
        self.create(&pipelines::pipeline(self)).await;
        let operator = self.operator().await;
        self.is_ready().await;
        operator
    }

    pub async fn get<K>(&self, name: &str) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().get(name).await.unwrap_or_else(|error| panic!("{name} can't be read: {error}"))
    }

    /// Waits until `look` finds what it looks for in the named object.
    pub async fn sees<K, T>(&self, what: &str, name: &str, look: impl Fn(&K) -> Option<T>) -> T
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = self.api();
        let seen = async || api.get_opt(name).await.ok().flatten().as_ref().and_then(&look);
        until(&format!("{what} ({})", self.namespace), PATIENCE, seen).await
    }

    /// Waits until the named object is there.
    pub async fn appears<K>(&self, name: &str) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.sees(&format!("{name} to appear"), name, |object: &K| Some(object.clone())).await
    }

    /// Waits until the named object is gone.
    pub async fn goes<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = self.api();
        until(&format!("the end of {name} ({})", self.namespace), PATIENCE, async || {
            api.get_opt(name).await.ok().filter(Option::is_none).map(drop)
        })
        .await;
    }

    /// Waits for `Ready=True` of the pipeline's present generation.
    pub async fn is_ready(&self) {
        self.condition("Ready", "True", None).await;
    }

    /// Waits for a condition that speaks of the present generation; says how it is now when it doesn't come.
    pub async fn condition(&self, type_: &str, status: &str, reason: Option<&str>) -> Condition {
        let api: Api<LogPipeline> = self.api();
        let since = std::time::Instant::now();
        loop {
            let pipeline = api.get(NAME).await.expect("the pipeline");
            let generation = pipeline.metadata.generation;
            let conditions = pipeline.status.map(|status| status.conditions).unwrap_or_default();
            let found = conditions.iter().find(|condition| {
                condition.type_ == type_
                    && condition.status == status
                    && condition.observed_generation == generation
                    && reason.is_none_or(|reason| condition.reason == reason)
            });
            if let Some(found) = found {
                return found.clone();
            }
            assert!(
                since.elapsed() < PATIENCE,
                "{type_}={status} {reason:?} did not come in {} (generation {generation:?}): {}",
                self.namespace,
                serde_json::to_string_pretty(&conditions).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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
