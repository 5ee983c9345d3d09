//! The objects that a pipeline owns.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, ResourceExt};

use super::pipelines::NAME;
use super::space::Space;

/// One kind of object, and the names that the pipeline `logs` has of it.
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Without the parts that carry a digest.
    pub names: &'static [&'static str],
}

/// Where the cluster has them.
pub const POD_MONITOR: Kind = Kind {
    group: "monitoring.coreos.com",
    version: "v1",
    kind: "PodMonitor",
    names: &["logs-ingest", "logs-syncer"],
};

/// What the pipeline of [`super::pipelines::pipeline`] has, with autoscaling in addition.
pub const KINDS: [Kind; 11] = [
    Kind { group: "", version: "v1", kind: "ConfigMap", names: &[] },
    Kind { group: "", version: "v1", kind: "Secret", names: &["logs-tenants-0"] },
    Kind { group: "", version: "v1", kind: "Service", names: &["logs-ingest"] },
    Kind { group: "", version: "v1", kind: "ServiceAccount", names: &["logs-ingest", "logs-syncer"] },
    Kind { group: "apps", version: "v1", kind: "Deployment", names: &["logs-ingest", "logs-syncer"] },
    Kind { group: "autoscaling", version: "v2", kind: "HorizontalPodAutoscaler", names: &[] },
    Kind { group: "coordination.k8s.io", version: "v1", kind: "Lease", names: &["logs-syncer"] },
    Kind {
        group: "networking.k8s.io",
        version: "v1",
        kind: "NetworkPolicy",
        names: &["logs-ingest", "logs-syncer"],
    },
    Kind {
        group: "policy",
        version: "v1",
        kind: "PodDisruptionBudget",
        names: &["logs-ingest", "logs-syncer"],
    },
    Kind { group: "rbac.authorization.k8s.io", version: "v1", kind: "Role", names: &["logs-syncer"] },
    Kind { group: "rbac.authorization.k8s.io", version: "v1", kind: "RoleBinding", names: &["logs-syncer"] },
];

impl Kind {
    pub fn named(kind: &str) -> &'static Self {
        KINDS
            .iter()
            .find(|known| known.kind == kind)
            .unwrap_or_else(|| panic!("{kind} is none of the pipeline's"))
    }

    pub fn resource(&self) -> ApiResource {
        ApiResource::from_gvk(&GroupVersionKind::gvk(self.group, self.version, self.kind))
    }

    pub fn api(&self, space: &Space) -> Api<DynamicObject> {
        Api::namespaced_with(space.client.clone(), &space.namespace, &self.resource())
    }

    /// The pipeline's objects of this kind, by its label.
    pub async fn list(&self, space: &Space) -> Vec<DynamicObject> {
        let mine = ListParams::default().labels(&format!("spillway.dev/pipeline={NAME}"));
        let listed = self.api(space).list(&mine).await;
        listed.unwrap_or_else(|error| panic!("{} can't be listed: {error}", self.kind)).items
    }
}

/// `Kind name` of everything that the pipeline owns, sorted.
pub async fn names(space: &Space) -> Vec<String> {
    let mut names = Vec::new();
    for kind in &KINDS {
        names.extend(
            kind.list(space).await.iter().map(|object| format!("{} {}", kind.kind, object.name_any())),
        );
    }
    names.sort();
    names
}

/// A Deployment's pod template as text, to be compared.
pub fn template(deployment: &Deployment) -> String {
    let template = &deployment.spec.as_ref().expect("a spec").template;
    serde_json::to_string(template).expect("a template")
}

/// Names of ConfigMaps with a component's settings, sorted.
pub async fn settings(space: &Space, component: &str) -> Vec<String> {
    let prefix = format!("{NAME}-{component}-");
    let maps = Kind::named("ConfigMap").list(space).await;
    let mut names: Vec<_> =
        maps.iter().map(ResourceExt::name_any).filter(|name| name.starts_with(&prefix)).collect();
    names.sort();
    names
}
