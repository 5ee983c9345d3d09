//! What tests of the operator wait for in their place.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use spillway_crds::LogPipeline;

use super::namespaced::Namespaced;
use super::owned;
use super::pipelines::NAME;
use super::space::{PATIENCE, Space};
use crate::wait::until;

impl Space {
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
        Namespaced::told(self, reason, about).await
    }
}
