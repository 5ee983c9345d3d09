//! A node: containerd, kubelet and kube-proxy in the node's network, over folders and a cgroup of its own.

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::net::{self, Node};
use crate::{State, cgroup, record, tools};

/// The image that every pod's first container runs.
pub const PAUSE: &str = "localhost/spillway/pause:1";

/// containerd's socket.
///
/// # Errors
/// When its folder can't be made.
pub fn socket(state: &State, node: Node) -> Result<std::path::PathBuf> {
    state.path(&format!("{}/containerd.sock", node.name()))
}

/// # Errors
/// When a process can't be started.
pub fn start_containerd(state: &State, node: Node) -> Result<()> {
    let dir = state.path(&format!("{}/containerd", node.name()))?;
    let name = node.name();
    let dir = dir.parent().context("the node's folder")?.display();
    // Without CAP_SYS_RESOURCE runc can't give a pod the score that kubelet asks for.
    let config = format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/run"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE}"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{dir}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
"#
    );
    let config = state.write(&format!("{name}/containerd.toml"), config)?;
    // A name and a folder of leases of its own: host-local keeps them per name.
    let cni = json!({
        "cniVersion": "0.4.0",
        "name": node.namespace(),
        "plugins": [
            {
                // No bridge: what goes from pod to pod is routed, and meets the rules of policies on its way.
                "type": "ptp", "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": format!("{dir}/leases"),
                    "ranges": [[{"subnet": node.pods()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    state.write(&format!("{name}/cni/10-pods.conflist"), cni.to_string())?;
    let mut command = net::enter(node, "containerd");
    command.arg("--config").arg(config);
    record::start(state, &format!("containerd-{name}"), &mut command).map(drop)
}

/// # Errors
/// When a process can't be started.
pub fn start_kubelet(state: &State, node: Node) -> Result<()> {
    let name = node.name();
    cgroup::create(&node.namespace())?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": state.path("keys/ca.crt")?},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", node.namespace()),
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "clusterDNS": [net::DNS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{}", socket(state, node)?.display()),
        "podLogsDir": state.path(&format!("{name}/pod-logs"))?,
        "resolvConf": "",
        // A test's machine may be nearly full; what matters here is not the disk.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        // Nobody could pull again what is removed.
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": false,
        "nodeStatusUpdateFrequency": "5s",
        "maxPods": 200,
    });
    let config = state.write(&format!("{name}/kubelet.json"), config.to_string())?;
    let mut kubelet = net::enter(node, tools::kubernetes()?);
    kubelet.arg("kubelet").arg("--config").arg(config);
    kubelet.arg("--kubeconfig").arg(state.path(&format!("{name}.kubeconfig"))?);
    kubelet.arg("--root-dir").arg(state.path(&format!("{name}/kubelet/"))?);
    kubelet.arg("--cert-dir").arg(state.path(&format!("{name}/kubelet-keys"))?);
    kubelet.args(["--hostname-override", &name, "--node-ip", &node.address()]);
    // No zones, as on most machines of one's own; kind's nodes have some (tests/kind/kind-config.yaml).
    record::start(state, &format!("kubelet-{name}"), &mut kubelet)?;

    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": net::PODS,
        "clientConnection": {"kubeconfig": state.path("kube-proxy.kubeconfig")?},
        // It may not write the host's limits, and needn't.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    });
    let proxy = state.write(&format!("{name}/kube-proxy.json"), proxy.to_string())?;
    let mut command = net::enter(node, tools::kubernetes()?);
    command.arg("kube-proxy").arg("--config").arg(proxy).args(["--hostname-override", &name]);
    record::start(state, &format!("kube-proxy-{name}"), &mut command).map(drop)
}
