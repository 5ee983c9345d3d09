//! What runs beside the nodes for as long as the cluster does, in one process of ours.

use anyhow::Result;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::{State, disks, policy};

/// Enforces policies and empties volumes until the process is ended.
///
/// # Errors
/// When there is no way to ask the API server; what fails later is tried again.
pub fn run(state: &State) -> Result<()> {
    // Fails when it was done before, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let kubeconfig = Kubeconfig::read_from(state.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        tokio::try_join!(policy::enforce(client.clone()), disks::recycle(client, state)).map(drop)
    })
}
