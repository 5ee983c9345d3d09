//! What all tests of one run share: a control plane, a MinIO, a ClickHouse. Each test takes a place of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kube::Client;
use tokio::sync::OnceCell;

use super::control_plane::ControlPlane;
use super::helm;
use super::hollow_kubelet::HollowKubelet;
use super::space::Space;
use super::whole_cluster::WholeCluster;
use crate::front::Front;
use crate::minio::Minio;

/// Stands for the namespace in what helm rendered once.
const ANY_NAMESPACE: &str = "namespace-of-the-test";

pub struct World {
    pub minio: Arc<Minio>,
    pub front: Arc<Front>,
    pub admin: Client,
    // Before its own control plane.
    whole_cluster: OnceCell<WholeCluster>,
    _kubelet: HollowKubelet,
    pub control_plane: ControlPlane,
    /// The chart's ServiceAccount and roles for an operator that watches its own namespace alone.
    rights: String,
    /// So many places were given, in this world and those beside it: they share buckets and databases.
    spaces: Arc<AtomicU32>,
}

impl World {
    pub async fn start() -> Arc<Self> {
        let minio = tokio::task::spawn_blocking(Minio::start);
        let (control_plane, front) = tokio::join!(ControlPlane::start(), Front::start());
        let minio = minio.await.expect("MinIO starts");
        Self::over(control_plane, Arc::new(minio), Arc::new(front), Arc::default()).await
    }

    /// Another control plane, for what would change what others see in theirs. MinIO and ClickHouse are shared.
    pub async fn beside(&self) -> Arc<Self> {
        let (minio, front) = (Arc::clone(&self.minio), Arc::clone(&self.front));
        Self::over(ControlPlane::start().await, minio, front, Arc::clone(&self.spaces)).await
    }

    async fn over(
        control_plane: ControlPlane,
        minio: Arc<Minio>,
        front: Arc<Front>,
        spaces: Arc<AtomicU32>,
    ) -> Arc<Self> {
        let admin = control_plane.admin().await;
        let watched = format!("watchNamespaces={{{ANY_NAMESPACE}}}");
        let rights = helm::template(ANY_NAMESPACE, &[&watched], &["rbac.yaml", "serviceaccount.yaml"]);
        let kubelet = HollowKubelet::start(admin.clone());
        let whole_cluster = OnceCell::new();
        Arc::new(Self {
            minio,
            front,
            admin,
            whole_cluster,
            _kubelet: kubelet,
            control_plane,
            rights,
            spaces,
        })
    }

    /// A control plane beside this one, and in it one operator for all namespaces. Started when first asked for.
    pub async fn whole_cluster(&self) -> &WholeCluster {
        self.whole_cluster.get_or_init(async || WholeCluster::start(self.beside().await).await).await
    }

    /// A namespace, a bucket's and a database's name that nothing else uses, and the rights of an operator that
    /// watches that namespace.
    pub async fn space(self: &Arc<Self>, test: &str) -> Space {
        let space = self.bare_space(test).await;
        helm::apply(&self.admin, &self.rights(&space.namespace)).await;
        space
    }

    /// The same, without any operator's rights.
    pub async fn bare_space(self: &Arc<Self>, test: &str) -> Space {
        let number = self.spaces.fetch_add(1, Ordering::Relaxed);
        let words: String = test
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let name = format!("t{number}-{}", &words[..words.len().min(40)]);
        Space::open(Arc::clone(self), name.trim_end_matches('-').to_owned()).await
    }

    /// The objects that give the operator its rights in `namespace`.
    fn rights(&self, namespace: &str) -> Vec<kube::api::DynamicObject> {
        helm::objects(&self.rights.replace(ANY_NAMESPACE, namespace))
    }
}
