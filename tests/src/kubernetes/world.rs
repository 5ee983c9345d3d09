//! What all tests of one run share: a control plane, a MinIO, a ClickHouse. Each test takes a place of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kube::Client;

use super::control_plane::ControlPlane;
use super::helm;
use super::hollow_kubelet::HollowKubelet;
use super::space::Space;
use crate::front::Front;
use crate::minio::Minio;

/// Stands for the namespace in what helm rendered once.
const ANY_NAMESPACE: &str = "namespace-of-the-test";

pub struct World {
    pub minio: Minio,
    pub front: Front,
    pub admin: Client,
    _kubelet: HollowKubelet,
    pub control_plane: ControlPlane,
    /// The chart's ServiceAccount and roles for an operator that watches its own namespace alone.
    rights: String,
    spaces: AtomicU32,
}

impl World {
    pub async fn start() -> Arc<Self> {
        let minio = tokio::task::spawn_blocking(Minio::start);
        let (control_plane, front) = tokio::join!(ControlPlane::start(), Front::start());
        let admin = control_plane.admin().await;
        let kubelet = HollowKubelet::start(admin.clone());
        let watched = format!("watchNamespaces={{{ANY_NAMESPACE}}}");
        let rights = helm::template(ANY_NAMESPACE, &[&watched], &["rbac.yaml", "serviceaccount.yaml"]);
        Arc::new(Self {
            minio: minio.await.expect("MinIO starts"),
            front,
            admin,
            _kubelet: kubelet,
            control_plane,
            rights,
            spaces: AtomicU32::new(0),
        })
    }

    /// A namespace, a bucket's and a database's name that nothing else uses.
    pub async fn space(self: &Arc<Self>, test: &str) -> Space {
        let number = self.spaces.fetch_add(1, Ordering::Relaxed);
        let words: String = test
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let name = format!("t{number}-{}", &words[..words.len().min(40)]);
        Space::open(Arc::clone(self), name.trim_end_matches('-').to_owned()).await
    }

    /// The objects that give the operator its rights in `namespace`.
    pub fn rights(&self, namespace: &str) -> Vec<kube::api::DynamicObject> {
        helm::objects(&self.rights.replace(ANY_NAMESPACE, namespace))
    }
}
