//! The network: a namespace per node, joined by a veth pair. Nothing of it is on the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::tools::run;

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(pub u8);

/// Both.
pub const NODES: [Node; 2] = [Node(0), Node(1)];
/// Where the control plane answers, and everything else that runs beside the nodes.
pub const MASTER: &str = "10.250.0.1";
/// Cluster addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// Cluster address of the DNS server.
pub const DNS: &str = "10.96.0.10";
/// Where that server answers: an address of its own, so that policies can speak of it as of a pod.
pub const DNS_SERVER: &str = "10.250.0.53";
/// Addresses of pods on all nodes.
pub const PODS: &str = "10.244.0.0/16";

impl Node {
    /// Its name as a Kubernetes node.
    #[must_use]
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// Its namespace, bridge and cgroup.
    #[must_use]
    pub fn namespace(self) -> String {
        format!("spillway-node{}", self.0)
    }

    #[must_use]
    pub fn address(self) -> String {
        format!("10.250.0.{}", self.0 + 1)
    }

    /// Addresses of its pods.
    #[must_use]
    pub fn pods(self) -> &'static str {
        if self.0 == 0 { "10.244.0.0/17" } else { "10.244.128.0/17" }
    }
}

/// A command that runs inside of a node's network. `ip netns exec` would mount /sys anew, and kubelet would find no
/// cgroups.
#[must_use]
pub fn enter(node: Node, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", file(node).display())).arg("--").arg(program);
    command
}

/// The namespace's name in the file system.
#[must_use]
pub fn file(node: Node) -> PathBuf {
    PathBuf::from("/var/run/netns").join(node.namespace())
}

/// # Errors
/// When a namespace or a link can't be made.
pub fn create() -> Result<()> {
    for node in NODES {
        if !file(node).exists() {
            run(Command::new("ip").args(["netns", "add", &node.namespace()]))?;
        }
        ip(node, "link set lo up")?;
        run(enter(node, "sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))?;
    }
    let [first, second] = NODES;
    // Some kernels know no dummy link: a bridge is the first node's interface, with the other node behind it.
    ip(first, "link add nodes type bridge")?;
    ip(first, &format!("addr add {}/24 dev nodes", first.address()))?;
    ip(first, &format!("addr add {DNS_SERVER}/32 dev nodes"))?;
    ip(first, "link set nodes up")?;
    ip(first, &format!("link add to-node1 type veth peer name nodes netns {}", second.namespace()))?;
    ip(first, "link set to-node1 master nodes up")?;
    ip(second, &format!("addr add {}/24 dev nodes", second.address()))?;
    ip(second, "link set nodes up")?;
    // Kubelet and the API server want a default route to choose an address by; it leads nowhere.
    ip(first, &format!("route add default via {}", first.address()))
        .or_else(|_| ip(first, "route add default dev nodes"))?;
    ip(second, &format!("route add default via {}", first.address()))?;
    ip(first, &format!("route add {} via {}", second.pods(), second.address()))?;
    ip(second, &format!("route add {} via {}", first.pods(), first.address()))?;
    // Every pod's address has a route of its own; the others must not go round in circles.
    for node in NODES {
        ip(node, &format!("route add unreachable {}", node.pods()))?;
    }
    Ok(())
}

/// Removes the namespaces and with them every link, address and rule inside.
pub fn remove() {
    for node in NODES {
        if file(node).exists() {
            run(Command::new("ip").args(["netns", "del", &node.namespace()])).ok();
            // One that was being made is a file and no namespace yet.
            std::fs::remove_file(file(node)).ok();
        }
    }
}

/// What tells a network namespace from others.
#[must_use]
pub fn identity(file: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn ip(node: Node, arguments: &str) -> Result<()> {
    run(Command::new("ip").args(["-n", &node.namespace()]).args(arguments.split(' '))).map(drop)
}
