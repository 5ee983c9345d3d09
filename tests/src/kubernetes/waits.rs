//! What tests of the operator wait for in their place.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use spillway_crds::LogPipeline;

use super::owned;
use super::pipelines::NAME;
use super::space::{PATIENCE, Space};
use crate::wait::until;

impl Space {
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

    /// Waits until the pipeline and everything that it owned are gone.
    pub async fn everything_goes(&self) {
        self.goes::<LogPipeline>(NAME).await;
        until(&format!("the owned objects to go ({})", self.namespace), PATIENCE, async || {
            owned::names(self).await.is_empty().then_some(())
        })
        .await;
    }

    /// Waits until somebody wants so many pods of a Deployment.
    pub async fn wants(&self, deployment: &str, replicas: i32) {
        self.sees(&format!("{deployment} to want {replicas} pods"), deployment, |now: &Deployment| {
            (now.spec.as_ref()?.replicas == Some(replicas)).then_some(())
        })
        .await;
    }

    /// Waits until a Lease is held by this pod.
    pub async fn leads(&self, lease: &str, pod: &str) {
        self.sees(&format!("{pod} to lead"), lease, |now: &Lease| {
            now.spec.as_ref()?.holder_identity.as_ref()?.starts_with(pod).then_some(())
        })
        .await;
    }

    /// Waits for an event that this test brings about, and returns its note.
    pub async fn told(&mut self, reason: &str, about: &str) -> String {
        self.expect_event(reason);
        let events: Api<Event> = self.api();
        until(&format!("the event {reason} of {about} ({})", self.namespace), PATIENCE, async || {
            let all = events.list(&ListParams::default()).await.ok()?;
            let found = all.into_iter().find(|event| {
                let name = event.regarding.as_ref().and_then(|object| object.name.as_deref());
                event.reason.as_deref() == Some(reason) && name == Some(about)
            })?;
            Some(found.note.unwrap_or_default())
        })
        .await
    }
}
