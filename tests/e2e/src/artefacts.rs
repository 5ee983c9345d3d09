//! What is left of a failed test: logs, events, descriptions, objects and the bucket's manifest, in one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::cluster::{OPERATOR, SYSTEM};
use crate::space::{Space, keys};

/// `target/e2e`, or `SPILLWAY_E2E_ARTEFACTS`.
#[must_use]
pub fn root() -> PathBuf {
    let named = std::env::var_os("SPILLWAY_E2E_ARTEFACTS").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/e2e"))
}

/// Removes what an earlier run left.
pub fn start_afresh() {
    fs::remove_dir_all(root()).ok();
}

/// Writes what there is to `<root>/<namespace>/`; never fails, since it runs when something else did.
pub async fn collect(space: &Space) -> PathBuf {
    let folder = root().join(&space.namespace);
    fs::create_dir_all(&folder).ok();
    let namespace = space.namespace.as_str();
    let whole = [
        ("events.txt", vec!["get", "events", "--sort-by=.lastTimestamp", "-o", "wide"]),
        (
            "describe.txt",
            vec!["describe", "logpipelines,deployments,pods,hpa,pdb,leases,pvc,networkpolicies"],
        ),
        (
            "objects.yaml",
            vec![
                "get",
                "logpipelines,deployments,replicasets,pods,services,endpointslices,configmaps,hpa,pdb,leases,pvc,networkpolicies",
                "-o",
                "yaml",
            ],
        ),
    ];
    for (file, arguments) in whole {
        keep(space, namespace, &arguments, &folder.join(file)).await;
    }
    for pod in space.pods("").await.iter().map(Pod::name_any) {
        for (file, previous) in [("log", "--previous=false"), ("previous.log", "--previous=true")] {
            let arguments = ["logs", &pod, "--all-containers", "--timestamps", previous];
            keep(space, namespace, &arguments, &folder.join(format!("{pod}.{file}"))).await;
        }
    }
    let deployment = format!("deployment/{OPERATOR}");
    let arguments = ["logs", &deployment, "--all-pods", "--timestamps", "--tail=5000"];
    keep(space, SYSTEM, &arguments, &folder.join("operator.log")).await;
    keep_bucket(space, &folder).await;
    folder
}

/// Manifest, status and the keys of everything staged.
async fn keep_bucket(space: &Space, folder: &Path) {
    let work = async {
        let (bucket, _forward) = space.bucket().await;
        let keys = keys(&bucket).await.unwrap_or_default();
        fs::write(folder.join("bucket.txt"), keys.join("\n")).ok();
        for key in keys.iter().filter(|key| is_state(key)) {
            if let Ok(Some((found, _))) = bucket.get(key).await {
                fs::write(folder.join(key.replace('/', "_")), &found).ok();
            }
        }
    };
    let work = std::panic::AssertUnwindSafe(tokio::time::timeout(std::time::Duration::from_secs(30), work));
    futures::FutureExt::catch_unwind(work).await.ok();
}

async fn keep(space: &Space, namespace: &str, arguments: &[&str], file: &Path) {
    let mut all = vec!["--namespace", namespace, "--request-timeout=20s"];
    all.extend(arguments);
    let command: Command = space.cluster.kubectl(&all);
    if let Ok(output) = tokio::process::Command::from(command).output().await
        && !output.stdout.is_empty()
    {
        fs::write(file, output.stdout).ok();
    }
}

/// Manifest, status and owner; of batches there can be thousands.
fn is_state(key: &str) -> bool {
    key.starts_with("_spillway/") && key.ends_with(".json") && !key.starts_with("_spillway/batches/")
}
