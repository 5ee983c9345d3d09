//! The chart, rendered by helm and applied object by object.

use std::path::{Path, PathBuf};
use std::process::Command;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

use crate::tools::tool;

pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/spillway")
}

/// `helm`, with nothing of the user's own configuration.
pub fn helm() -> Command {
    let mut command = Command::new(tool("helm", "helm.sh/helm/v3").expect("helm is built"));
    command.env("HELM_PLUGINS", "/nonexistent").env_remove("HELM_NAMESPACE").env_remove("KUBECONFIG");
    command
}

/// What `helm template` makes of the chart's files `templates/<only>`, in the release `spillway`.
pub fn template(namespace: &str, settings: &[&str], only: &[&str]) -> String {
    let mut command = helm();
    command.args(["template", "spillway"]).arg(chart()).args(["--namespace", namespace]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    for file in only {
        command.args(["--show-only", &format!("templates/{file}")]);
    }
    let output = command.output().expect("helm starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "helm template failed: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The objects of several YAML documents.
pub fn objects(yaml: &str) -> Vec<DynamicObject> {
    let documents = yaml.split("\n---").map(|part| part.trim_start_matches("---"));
    let not_empty =
        documents.filter(|part| part.lines().any(|line| !line.is_empty() && !line.starts_with('#')));
    not_empty
        .map(|part| {
            serde_saphyr::from_str(part).unwrap_or_else(|error| panic!("no object ({error}):\n{part}"))
        })
        .collect()
}

/// Applies `objects` in their order.
pub async fn apply(client: &Client, objects: &[DynamicObject]) {
    for object in objects {
        let types = object.types.as_ref().expect("kind and apiVersion");
        let kind = GroupVersionKind::try_from(types).expect("a kind");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let manager = PatchParams::apply("helm").force();
        let applied = api.patch(&object.name_any(), &manager, &Patch::Apply(object)).await;
        applied.unwrap_or_else(|error| panic!("{} {}: {error}", kind.kind, object.name_any()));
    }
}
