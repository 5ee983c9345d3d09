//! What those who look after nodes do: pods are evicted, nodes are emptied.

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, run};
use crate::undo::undone;

/// Asks for the eviction of a pod. `client` must not repeat what is refused with 429.
///
/// # Errors
/// When a budget forbids it.
pub async fn evict(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let (name, namespace) = (pod.name_any(), pod.namespace().expect("a namespace"));
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
    let request = http::Request::post(path).header("Content-Type", "application/json");
    client
        .request::<Value>(request.body(eviction.to_string().into_bytes()).expect("a request"))
        .await
        .map(drop)
}

/// Empties a node of the pods with a label as `kubectl drain` does, then does `work` while nothing can be scheduled on
/// it. It can be used again afterwards, whatever happened.
pub async fn with_emptied<T>(cluster: &Cluster, node: &str, label: &str, work: impl Future<Output = T>) -> T {
    let selector = format!("--pod-selector={label}");
    let emptied = async {
        let said = run(cluster.kubectl(&["drain", node, &selector, "--timeout=180s"])).await;
        println!("{}", said.trim());
        work.await
    };
    let usable = async {
        run(cluster.kubectl(&["uncordon", node])).await;
    };
    undone(emptied, usable).await
}
