//! A stock of volumes, so that a test's claims are met here as they are on kind: by the default class `standard`, once a
//! pod wants them.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::net::{NODES, Node};
use crate::{State, addons};

/// User of the pods that write to them.
const OWNER: u32 = 65532;
const VOLUMES: u32 = 80;
/// All are on it: a pod that comes back finds its data.
const NODE: Node = NODES[0];

/// # Errors
/// When a folder can't be made or the API server refuses an object.
pub fn create(state: &State) -> Result<()> {
    let mut objects = vec![class()];
    for number in 0..VOLUMES {
        let path = state.path(&format!("disks/{number}"))?;
        make_empty(&path)?;
        objects.push(volume(number, &path.display().to_string()));
    }
    addons::create(state, &objects)
}

/// Empties a volume whose claim is gone and lets it be claimed again, as a provisioner would delete it and make another.
///
/// # Errors
/// When nothing can be watched.
pub async fn recycle(client: Client, state: &State) -> Result<Infallible> {
    let volumes = Api::<PersistentVolume>::all(client);
    let mut changes = std::pin::pin!(
        watcher(volumes.clone(), watcher::Config::default()).default_backoff().applied_objects()
    );
    loop {
        let volume = match changes.try_next().await {
            Ok(Some(volume)) => volume,
            Ok(None) => bail!("volumes are no longer watched"),
            // It goes on by itself.
            Err(error) => {
                writeln!(io::stderr(), "{error}").ok();
                continue;
            }
        };
        if let Err(error) = release(&volumes, &volume, state).await {
            writeln!(io::stderr(), "{} is not emptied: {error:#}", volume.name_any()).ok();
        }
    }
}

async fn release(volumes: &Api<PersistentVolume>, volume: &PersistentVolume, state: &State) -> Result<()> {
    let is_released =
        volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Released"));
    let path = volume.spec.as_ref().and_then(|spec| Some(Path::new(&spec.local.as_ref()?.path)));
    let Some(path) = path.filter(|path| is_released && path.starts_with(state.dir())) else { return Ok(()) };
    make_empty(path)?;
    let freed =
        json!({"metadata": {"resourceVersion": volume.resource_version()}, "spec": {"claimRef": null}});
    match volumes.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(freed)).await {
        // The change that it is at odds with comes as the next.
        Err(kube::Error::Api(refused)) if refused.code == 409 => Ok(()),
        done => Ok(done.map(drop)?),
    }
}

/// A folder as a pod first finds it.
fn make_empty(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} can't be emptied", path.display()));
        }
        _ => {}
    }
    std::fs::create_dir(path).with_context(|| format!("{} can't be made", path.display()))?;
    chown(path, Some(OWNER), Some(OWNER))?;
    Ok(())
}

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

fn volume(number: u32, path: &str) -> Value {
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE.name()]});
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": format!("disk-{number}")},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "standard",
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    })
}
