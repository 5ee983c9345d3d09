//! The pipeline that is being reconciled.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, Client, Resource, api::ListParams, core::ApiResource};
use serde::de::DeserializeOwned;
use spillway_crds::LogPipeline;

use crate::{
    errors::{ApiError, call},
    inventory::PipelineRef,
    outside::REBUILD_ANNOTATION,
    owner::ADOPT_ANNOTATION,
};

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// It may take over a bucket that another one owned, see [`crate::owner`].
    pub(crate) adopts_bucket: bool,
    /// Its owner has a lost manifest made anew, see [`crate::outside`].
    pub(crate) rebuilds_manifest: bool,
    /// For events.
    pub(crate) reference: ObjectReference,
}

impl Target {
    /// `None`: not an object of a cluster.
    pub(crate) fn of<K: Resource<DynamicType = ()>>(object: &K) -> Option<Self> {
        let metadata = object.meta();
        let asks = |name: &str| {
            let value = metadata.annotations.as_ref().and_then(|all| all.get(name));
            value.is_some_and(|value| value == "true")
        };
        Some(Self {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            adopts_bucket: asks(ADOPT_ANNOTATION),
            rebuilds_manifest: asks(REBUILD_ANNOTATION),
            reference: object.object_ref(&()),
        })
    }

    pub(crate) fn pipelines(&self, client: &Client) -> Api<LogPipeline> {
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// The object as the API server has it, and not a watch: somebody may have changed their mind. Listed, because that
    /// is a right which the operator has anyway. `None`: it is gone, or another one has its name.
    ///
    /// # Errors
    /// When the API server doesn't say.
    pub(crate) async fn live<K>(&self, api: &Api<K>) -> Result<Option<K>, ApiError>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let parameters = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let found = call("read the pipeline", api.list(&parameters)).await?;
        Ok(found.items.into_iter().find(|found| found.meta().uid.as_ref() == Some(&self.uid)))
    }

    pub(crate) fn objects(&self, client: &Client, resource: &ApiResource) -> Api<kube::core::DynamicObject> {
        Api::namespaced_with(client.clone(), &self.namespace, resource)
    }

    pub(crate) fn place(&self) -> PipelineRef {
        PipelineRef { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}
