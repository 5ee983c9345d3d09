//! Reaches processes on the nodes, as an operating system does: signals that no API of Kubernetes sends.

use std::process::Command;

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::run;

/// How a node's shell is reached.
pub enum Nodes {
    /// The nodes' processes are this machine's, as those of tests/cluster.
    Local,
    /// Each node is a container of its name, as kind's.
    Docker,
}

/// Sends a signal to every process of a container. cgroup paths hold the container's id with every cgroup driver.
const SIGNAL: &str = r#"
found=1
for process in /proc/[0-9]*; do
  if grep -qs "$1" "$process/cgroup"; then kill -s "$2" "${process#/proc/}" && found=0; fi
done
exit $found
"#;

impl Nodes {
    /// `SPILLWAY_E2E_NODES`: `local` (the default) or `docker`.
    #[must_use]
    pub fn from_env() -> Self {
        match std::env::var("SPILLWAY_E2E_NODES").as_deref() {
            Ok("docker") => Self::Docker,
            _ => Self::Local,
        }
    }

    /// Sends `signal` (`KILL`, `STOP`, `CONT`, ...) to the processes of a pod's only container.
    pub async fn signal(&self, pod: &Pod, signal: &str) {
        let container = crate::pods::container_id(pod);
        let mut command = match self {
            Self::Local => Command::new("sh"),
            Self::Docker => {
                let mut docker = Command::new("docker");
                docker.args(["exec", crate::pods::node(pod), "sh"]);
                docker
            }
        };
        command.args(["-c", SIGNAL, "signal", &container, signal]);
        run(command).await;
    }
}
