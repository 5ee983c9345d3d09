//! Stands in for scheduler and kubelet: binds pods, calls them ready, ends deleted ones. No container runs; a Lease
//! that no syncer holds is taken in the name of one that is ready.
//!
//! As a real kubelet it waits for what a pod's volumes name, and never makes an image ready that can't be
//! pulled: any whose name holds `broken`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Binding, ContainerStatus, ObjectReference, PodCondition, PodStatus, Volume,
};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, ContainerStateRunning, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinHandle;

/// Names of the nodes that pods are spread over.
const NODES: [&str; 2] = ["hollow-a", "hollow-b"];
/// Between two looks at what a pod waits for.
const RETRY: Duration = Duration::from_millis(300);

pub struct HollowKubelet([JoinHandle<()>; 2]);

impl HollowKubelet {
    pub fn start(client: Client) -> Self {
        Self([tokio::spawn(run(client.clone())), tokio::spawn(lead(client))])
    }
}

impl Drop for HollowKubelet {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// What a pod needs next.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Node,
    Start,
    End,
}

fn need(pod: &Pod) -> Need {
    let ready = || {
        let status = pod.status.as_ref()?;
        let conditions = status.conditions.as_ref()?;
        Some(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return Need::End;
    }
    if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
        return Need::Node;
    }
    if ready().unwrap_or(false) { Need::Nothing } else { Need::Start }
}

async fn run(client: Client) {
    let pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff();
    let waiting: Arc<parking_lot::Mutex<BTreeSet<String>>> = Arc::default();
    let mut changes = std::pin::pin!(pods.applied_objects());
    loop {
        match changes.try_next().await {
            Ok(Some(pod)) => {
                let (client, waiting) = (client.clone(), Arc::clone(&waiting));
                tokio::spawn(async move { serve(&client, &waiting, pod).await });
            }
            Ok(None) => return,
            // It begins again by itself.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Does what the pod needs now; its next change brings it here again. Each call can meet a pod that is gone or
/// has changed meanwhile, which the next event tells.
async fn serve(client: &Client, waiting: &parking_lot::Mutex<BTreeSet<String>>, pod: Pod) {
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let name = pod.name_any();
    match need(&pod) {
        Need::Nothing => {}
        Need::Node => bind(&pods, &pod).await,
        Need::End => {
            pods.delete(&name, &DeleteParams::default().grace_period(0)).await.ok();
        }
        Need::Start => {
            let uid = pod.uid().unwrap_or_default();
            if !waiting.lock().insert(uid.clone()) {
                return;
            }
            while !can_start(client, &namespace, &pod).await {
                tokio::time::sleep(RETRY).await;
                let gone =
                    pods.get_opt(&name).await.ok().flatten().is_none_or(|now| need(&now) != Need::Start);
                if gone {
                    waiting.lock().remove(&uid);
                    return;
                }
            }
            let status = Patch::Merge(serde_json::json!({"status": running(&pod)}));
            pods.patch_status(&name, &PatchParams::default(), &status).await.ok();
            waiting.lock().remove(&uid);
        }
    }
}

/// Holds the Leases of syncers.
async fn lead(client: Client) {
    let all = Api::<Lease>::all(client.clone());
    let config = watcher::Config::default().labels("app.kubernetes.io/component=syncer");
    let mut changes = std::pin::pin!(watcher(all, config).default_backoff().applied_objects());
    loop {
        match changes.try_next().await {
            Ok(Some(lease)) => {
                let client = client.clone();
                tokio::spawn(async move { take(&client, &lease).await });
            }
            Ok(None) => return,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Waits for a ready pod, and holds the Lease in its name unless somebody else does by then.
async fn take(client: &Client, lease: &Lease) {
    let holder = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    let free = |lease: &Lease| holder(lease).unwrap_or_default().is_empty();
    let namespace = lease.namespace().unwrap_or_default();
    let instance = lease.labels().get("app.kubernetes.io/instance").cloned().unwrap_or_default();
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let mine = format!("app.kubernetes.io/component=syncer,app.kubernetes.io/instance={instance}");
    while let Ok(Some(now)) = leases.get_opt(&lease.name_any()).await {
        if !free(&now) || now.uid() != lease.uid() {
            return;
        }
        let found = pods.list(&ListParams::default().labels(&mine)).await;
        if let Some(pod) = found.ok().and_then(|list| list.into_iter().find(|pod| need(pod) == Need::Nothing))
        {
            let version = now.resource_version();
            let spec = serde_json::json!({"holderIdentity": pod.name_any(), "leaseDurationSeconds": 15});
            let patch = serde_json::json!({"metadata": {"resourceVersion": version}, "spec": spec});
            leases.patch(&lease.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.ok();
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn bind(pods: &Api<Pod>, pod: &Pod) {
    let name = pod.name_any();
    let node = NODES[name.bytes().map(usize::from).sum::<usize>() % NODES.len()];
    let binding = Binding {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.into()),
            ..ObjectReference::default()
        },
    };
    let _: Result<serde_json::Value, _> =
        pods.create_subresource("binding", &name, &PostParams::default(), &binding).await;
}

/// Whether its image can be pulled and everything is there that its volumes can't do without.
async fn can_start(client: &Client, namespace: &str, pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let broken = |image: &Option<String>| image.as_ref().is_none_or(|image| image.contains("broken"));
    if spec.containers.iter().any(|container| broken(&container.image)) {
        return false;
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    for volume in spec.volumes.iter().flatten() {
        let needed = needed(volume);
        for name in needed.secrets {
            if !secrets.get_metadata_opt(&name).await.is_ok_and(|found| found.is_some()) {
                return false;
            }
        }
        for name in needed.config_maps {
            if !config_maps.get_metadata_opt(&name).await.is_ok_and(|found| found.is_some()) {
                return false;
            }
        }
    }
    true
}

#[derive(Default)]
struct Needed {
    secrets: Vec<String>,
    config_maps: Vec<String>,
}

fn needed(volume: &Volume) -> Needed {
    let mut needed = Needed::default();
    let wanted = |optional: Option<bool>| !optional.unwrap_or(false);
    if let Some(secret) = volume.secret.as_ref().filter(|secret| wanted(secret.optional)) {
        needed.secrets.extend(secret.secret_name.clone());
    }
    if let Some(map) = volume.config_map.as_ref().filter(|map| wanted(map.optional)) {
        needed.config_maps.push(map.name.clone());
    }
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        if let Some(secret) = source.secret.as_ref().filter(|secret| wanted(secret.optional)) {
            needed.secrets.push(secret.name.clone());
        }
        // Every namespace has it in a real cluster; its publisher doesn't run here.
        let map = source.config_map.as_ref().filter(|map| wanted(map.optional));
        needed.config_maps.extend(map.map(|map| map.name.clone()).filter(|name| name != "kube-root-ca.crt"));
    }
    needed
}

fn running(pod: &Pod) -> PodStatus {
    let now = || Some(Time(jiff::Timestamp::now()));
    let condition = |type_: &str| PodCondition {
        type_: type_.into(),
        status: "True".into(),
        last_transition_time: now(),
        ..PodCondition::default()
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        ready: true,
        started: Some(true),
        state: Some(ContainerState {
            running: Some(ContainerStateRunning { started_at: now() }),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    });
    PodStatus {
        phase: Some("Running".into()),
        conditions: Some(["Initialized", "ContainersReady", "Ready"].map(condition).to_vec()),
        container_statuses: Some(containers.collect()),
        start_time: now(),
        ..PodStatus::default()
    }
}
