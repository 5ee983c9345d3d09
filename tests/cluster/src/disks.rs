//! A stock of volumes, so that a test's claims are met here as they are on kind: by the default class `standard`, once a
//! pod wants them.

use std::os::unix::fs::chown;

use anyhow::{Context as _, Result};
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
        let path = state.path(&format!("disks/{number}/data"))?;
        std::fs::create_dir(&path).with_context(|| format!("{} can't be made", path.display()))?;
        chown(&path, Some(OWNER), Some(OWNER))?;
        objects.push(volume(number, &path.display().to_string()));
    }
    addons::create(state, &objects)
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
