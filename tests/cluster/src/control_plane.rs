//! etcd, API server, controllers and scheduler, beside the first node.

use std::process::Command;

use anyhow::Result;

use crate::net::{self, NODES};
use crate::{State, record, tools};

/// A part of Kubernetes that runs in the first node's network.
///
/// # Errors
/// When the binary is missing.
pub fn part(name: &str) -> Result<Command> {
    let mut command = net::enter(NODES[0], tools::kubernetes()?);
    command.arg(name);
    Ok(command)
}

/// # Errors
/// When a process can't be started.
pub fn start(state: &State) -> Result<()> {
    let key = |name: &str| state.path(&format!("keys/{name}")).map(|path| path.display().to_string());
    let config =
        |name: &str| state.path(&format!("{name}.kubeconfig")).map(|path| path.display().to_string());

    let mut etcd = part("etcd")?;
    etcd.args(["--name", "cluster", "--log-level", "warn", "--unsafe-no-fsync"]);
    etcd.args([
        "--listen-client-urls",
        "http://127.0.0.1:2379",
        "--advertise-client-urls",
        "http://127.0.0.1:2379",
    ]);
    etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
    etcd.args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"]);
    etcd.args(["--initial-cluster", "cluster=http://127.0.0.1:2380"]);
    etcd.arg("--data-dir").arg(state.path("etcd")?);
    record::start(state, "etcd", &mut etcd)?;

    let mut api = part("kube-apiserver")?;
    api.args(["--etcd-servers", "http://127.0.0.1:2379", "--allow-privileged", "--profiling=false"]);
    api.args(["--bind-address", net::MASTER, "--advertise-address", net::MASTER, "--secure-port", "6443"]);
    api.args(["--service-cluster-ip-range", net::SERVICES]);
    api.args(["--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"]);
    api.args(["--token-auth-file", &key("tokens.csv")?]);
    api.args(["--tls-cert-file", &key("apiserver.crt")?, "--tls-private-key-file", &key("apiserver.key")?]);
    api.args(["--client-ca-file", &key("ca.crt")?]);
    // Logs and exec go through here to the kubelets.
    api.args(["--kubelet-client-certificate", &key("kubelet-client.crt")?]);
    api.args(["--kubelet-client-key", &key("kubelet-client.key")?]);
    api.args(["--kubelet-preferred-address-types", "InternalIP"]);
    api.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
    api.args(["--service-account-signing-key-file", &key("accounts.key")?]);
    api.args(["--service-account-key-file", &key("accounts.pub")?]);
    // The aggregation layer, for metrics-server.
    api.args(["--enable-aggregator-routing=true", "--requestheader-client-ca-file", &key("front-ca.crt")?]);
    api.args(["--requestheader-allowed-names", "front-proxy-client"]);
    api.args(["--requestheader-username-headers", "X-Remote-User"]);
    api.args(["--requestheader-group-headers", "X-Remote-Group"]);
    api.args(["--requestheader-extra-headers-prefix", "X-Remote-Extra-"]);
    api.args(["--proxy-client-cert-file", &key("front.crt")?, "--proxy-client-key-file", &key("front.key")?]);
    record::start(state, "kube-apiserver", &mut api)?;

    let mut controllers = part("kube-controller-manager")?;
    controllers.args(["--kubeconfig", &config("kube-controller-manager")?, "--leader-elect=false"]);
    controllers.args(["--service-account-private-key-file", &key("accounts.key")?]);
    controllers.args(["--root-ca-file", &key("ca.crt")?, "--cluster-cidr", net::PODS]);
    // Five times as quick as usual, so that a test of scaling takes a minute and not five.
    controllers.args(["--horizontal-pod-autoscaler-sync-period", "3s", "--kube-api-qps", "100"]);
    controllers.args(["--kube-api-burst", "200", "--node-monitor-grace-period", "20s"]);
    record::start(state, "kube-controller-manager", &mut controllers)?;

    let mut scheduler = part("kube-scheduler")?;
    scheduler.args(["--kubeconfig", &config("kube-scheduler")?, "--leader-elect=false"]);
    record::start(state, "kube-scheduler", &mut scheduler)?;
    Ok(())
}
