//! The pipeline that is being reconciled.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, Client, Resource, core::ApiResource};
use spillway_crds::LogPipeline;

use crate::inventory::PipelineRef;

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// For events.
    pub(crate) reference: ObjectReference,
}

impl Target {
    /// `None`: not an object of a cluster.
    pub(crate) fn of<K: Resource<DynamicType = ()>>(object: &K) -> Option<Self> {
        let metadata = object.meta();
        Some(Self {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
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
