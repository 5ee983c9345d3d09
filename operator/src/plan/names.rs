//! What a pipeline's objects are called and marked with.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource as _;
use spillway_crds::{LogPipeline, ValidatedPipeline};

/// Field manager of everything that is applied.
pub const FIELD_MANAGER: &str = "spillway-operator";
/// Field manager that holds `spec.replicas` of ingest while it passes to the autoscaler.
pub const REPLICAS_MANAGER: &str = "spillway-operator-replicas";
/// Annotation of pods: see [`super::Touch`].
pub const TOUCHED: &str = "spillway.dev/secrets-touched";
/// Annotation of pod templates: digest of the certificate authorities, which programs read at their start only.
pub const CA_HASH: &str = "spillway.dev/ca-hash";
/// Label of everything that belongs to a pipeline.
pub const PIPELINE: &str = "spillway.dev/pipeline";

const NAME: &str = "app.kubernetes.io/name";
const INSTANCE: &str = "app.kubernetes.io/instance";
const COMPONENT: &str = "app.kubernetes.io/component";

/// A part of a pipeline that runs in pods of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Ingest,
    Syncer,
}

impl Component {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Syncer => "syncer",
        }
    }
}

/// Where a pipeline's objects are and whose they are.
#[derive(Clone, Debug)]
pub struct Scope {
    pipeline: String,
    namespace: String,
    owner: Option<OwnerReference>,
}

impl Scope {
    /// A pipeline without a namespace is taken to be in `default`; one without a uid is not in a cluster and owns nothing.
    #[must_use]
    pub fn of(pipeline: &ValidatedPipeline) -> Self {
        let owner = pipeline.uid.as_ref().map(|uid| OwnerReference {
            api_version: LogPipeline::api_version(&()).into_owned(),
            kind: LogPipeline::kind(&()).into_owned(),
            name: pipeline.name.clone(),
            uid: uid.clone(),
            controller: Some(true),
            // It would need the right to update the pipeline's finalizers, and nothing waits for its objects.
            block_owner_deletion: None,
        });
        let namespace = pipeline.namespace.clone().unwrap_or_else(|| "default".to_owned());
        Self { pipeline: pipeline.name.clone(), namespace, owner }
    }

    #[must_use]
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Name of a component's objects.
    #[must_use]
    pub fn name(&self, component: Component) -> String {
        format!("{}-{}", self.pipeline, component.name())
    }

    #[must_use]
    pub fn ingest(&self) -> String {
        self.name(Component::Ingest)
    }

    #[must_use]
    pub fn syncer(&self) -> String {
        self.name(Component::Syncer)
    }

    /// Name of a Secret of tenants.
    #[must_use]
    pub fn tenants(&self, part: usize) -> String {
        format!("{}-tenants-{part}", self.pipeline)
    }

    /// Metadata of an object that belongs to the pipeline.
    #[must_use]
    pub fn meta(&self, name: &str, component: Component) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels(component)),
            owner_references: self.owner.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    /// Labels of a component's objects and pods.
    #[must_use]
    pub fn labels(&self, component: Component) -> BTreeMap<String, String> {
        let mut labels = self.pod_labels(component);
        for (key, value) in [
            ("app.kubernetes.io/part-of", "spillway"),
            ("app.kubernetes.io/managed-by", "spillway-operator"),
            (PIPELINE, &self.pipeline),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        labels
    }

    /// Labels that tell a component's pods from all others.
    #[must_use]
    pub fn pod_labels(&self, component: Component) -> BTreeMap<String, String> {
        [(NAME, "spillway"), (INSTANCE, &self.pipeline), (COMPONENT, component.name())]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// Selects a component's pods.
    #[must_use]
    pub fn selector(&self, component: Component) -> LabelSelector {
        LabelSelector { match_labels: Some(self.pod_labels(component)), match_expressions: None }
    }

    /// The same as text, for `status.selector` and for listing pods.
    #[must_use]
    pub fn selector_text(&self, component: Component) -> String {
        let labels = self.pod_labels(component);
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    }
}
