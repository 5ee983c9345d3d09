//! A namespace, and what every test asks of one: objects made, changed, read and waited for.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use spillway_crds::LogPipeline;

use super::pipelines::NAME;
use crate::wait::until;

pub struct Namespaced {
    pub client: Client,
    pub namespace: String,
    /// How long it is waited for what must come.
    pub patience: Duration,
}

impl Namespaced {
    /// Makes the namespace, which admits only restricted pods.
    pub async fn make(&self) {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let metadata = json!({"name": self.namespace, "labels": labels});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        let namespace: Namespace = serde_json::from_value(namespace).expect("a namespace");
        let namespaces = Api::all(self.client.clone());
        namespaces.create(&PostParams::default(), &namespace).await.expect("the namespace is created");
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
        until(&format!("{what} ({})", self.namespace), self.patience, seen).await
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
        until(&format!("the end of {name} ({})", self.namespace), self.patience, async || {
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
        let since = Instant::now();
        loop {
            // A server that is away for a moment is asked again.
            let pipeline = api.get_opt(NAME).await.ok().map(|found| found.expect("the pipeline"));
            let generation = pipeline.as_ref().and_then(|pipeline| pipeline.metadata.generation);
            let conditions = pipeline.and_then(|pipeline| pipeline.status).map(|status| status.conditions);
            let conditions = conditions.unwrap_or_default();
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
                since.elapsed() < self.patience,
                "{type_}={status} {reason:?} did not come in {} (generation {generation:?}): {}",
                self.namespace,
                serde_json::to_string_pretty(&conditions).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for an event about the named object, and returns its note.
    pub async fn told(&self, reason: &str, about: &str) -> String {
        self.told_times(1, reason, about).await
    }

    /// Waits until an event about the named object was published this many times, and returns its note, which is the
    /// first one's: what is said again soon is counted.
    pub async fn told_times(&self, times: i32, reason: &str, about: &str) -> String {
        let events: Api<Event> = self.api();
        let what = format!("the event {reason} of {about}, {times} in all ({})", self.namespace);
        until(&what, self.patience, async || {
            let all = events.list(&ListParams::default()).await.ok()?;
            let found: Vec<_> = all
                .into_iter()
                .filter(|event| {
                    let name = event.regarding.as_ref().and_then(|object| object.name.as_deref());
                    event.reason.as_deref() == Some(reason) && name == Some(about)
                })
                .collect();
            let count: i32 =
                found.iter().map(|event| event.series.as_ref().map_or(1, |series| series.count)).sum();
            let first = found.into_iter().next()?;
            (count >= times).then(|| first.note.unwrap_or_default())
        })
        .await
    }
}
