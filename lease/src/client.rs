//! A connection to the API server for a program that needs nothing there but its Lease.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// There is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not in a pod, or in one without a token.
    #[error(
        "this is no pod with a service account's token ({0}); outside of a cluster name a kubeconfig by --kubeconfig or KUBECONFIG"
    )]
    InCluster(String),
    /// The file.
    #[error("the kubeconfig can't be used: {0}")]
    Kubeconfig(String),
    /// Its certificates.
    #[error("no client can be made for the API server: {0}")]
    Client(String),
}

/// By this kubeconfig, else as the pod's service account, whose token is read anew when it is renewed.
///
/// # Errors
/// When there is neither. Nothing is asked of the API server yet.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let unusable = |error: kube::config::KubeconfigError| ConnectError::Kubeconfig(error.to_string());
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
        None => Config::incluster().map_err(|error| ConnectError::InCluster(error.to_string()))?,
    };
    // Who elects repeats requests at its own pace, and must know of each.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).map_err(|error| ConnectError::Client(error.to_string()))
}
