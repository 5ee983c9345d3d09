//! The pipeline that is being reconciled.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, Client, Resource, core::ApiResource};
use spillway_crds::LogPipeline;

use crate::{inventory::PipelineRef, owner::ADOPT_ANNOTATION};

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// It may take over a bucket that another one owned, see [`crate::owner`].
    pub(crate) adopts_bucket: bool,
    /// For events.
    pub(crate) reference: ObjectReference,
}

impl Target {
    /// `None`: not an object of a cluster.
    pub(crate) fn of<K: Resource<DynamicType = ()>>(object: &K) -> Option<Self> {
        let metadata = object.meta();
        let adopt = metadata.annotations.as_ref().and_then(|all| all.get(ADOPT_ANNOTATION));
        Some(Self {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            adopts_bucket: adopt.is_some_and(|value| value == "true"),
            reference: object.object_ref(&()),
        })
    }

    pub(crate) fn pipelines(&self, client: &Client) -> Api<LogPipeline> {
        Api::namespaced(client.clone(), &self.namespace)
    }

    pub(crate) fn objects(&self, client: &Client, resource: &ApiResource) -> Api<kube::core::DynamicObject> {
        Api::namespaced_with(client.clone(), &self.namespace, resource)
    }

    pub(crate) fn place(&self) -> PipelineRef {
        PipelineRef { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}
