//! The pipeline that is being reconciled.

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, Resource, api::ListParams, core::ApiResource};
use serde::{Serialize, de::DeserializeOwned};
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
    pub(crate) rebuilds_manifest: Option<Asked>,
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
            adopts_bucket: asked(metadata, ADOPT_ANNOTATION).is_some(),
            rebuilds_manifest: asked(metadata, REBUILD_ANNOTATION),
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

/// When an annotation was set, by the API server's clock, for each manager that holds it: who takes it off and sets it
/// again asks anew, also where nobody looked in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Asked(Vec<String>);

/// Whether an annotation says `"true"`.
fn asked(metadata: &ObjectMeta, annotation: &str) -> Option<Asked> {
    metadata.annotations.as_ref()?.get(annotation).filter(|value| *value == "true")?;
    let field = format!("f:{annotation}");
    let holders = metadata.managed_fields.iter().flatten().filter(|entry| {
        let annotations =
            entry.fields_v1.as_ref().and_then(|fields| fields.0.pointer("/f:metadata/f:annotations"));
        annotations.is_some_and(|annotations| annotations.get(&field).is_some())
    });
    Some(Asked(holders.filter_map(|entry| entry.time.as_ref()).map(|time| time.0.to_string()).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(value: &str, managed: Value) -> Option<Asked> {
        let metadata = json!({"annotations": {REBUILD_ANNOTATION: value}, "managedFields": managed});
        asked(&serde_json::from_value(metadata).unwrap(), REBUILD_ANNOTATION)
    }

    fn entry(annotation: &str, time: &str) -> Value {
        let fields = json!({"f:metadata": {"f:annotations": {format!("f:{annotation}"): {}}}});
        json!({"manager": "kubectl-annotate", "operation": "Update", "time": time, "fieldsV1": fields})
    }

    #[test]
    fn who_sets_an_annotation_again_asks_anew() {
        const AT: &str = "2026-01-01T00:00:00Z";
        const LATER: &str = "2026-01-01T00:00:09Z";
        let first = of("true", json!([entry(REBUILD_ANNOTATION, AT), entry("other", AT)]));
        assert!(first.is_some());
        for (what, value, managed, same) in [
            ("as it was", "true", json!([entry(REBUILD_ANNOTATION, AT)]), true),
            (
                "another annotation",
                "true",
                json!([entry(REBUILD_ANNOTATION, AT), entry("other", LATER)]),
                true,
            ),
            ("set again", "true", json!([entry(REBUILD_ANNOTATION, LATER)]), false),
            (
                "by somebody else, too",
                "true",
                json!([entry(REBUILD_ANNOTATION, AT), entry(REBUILD_ANNOTATION, LATER)]),
                false,
            ),
            ("no longer", "false", json!([entry(REBUILD_ANNOTATION, AT)]), false),
        ] {
            assert_eq!(of(value, managed) == first, same, "{what}");
        }
        assert_eq!(of("false", json!([])), None);
        assert!(of("true", json!([])).is_some());
    }
}
