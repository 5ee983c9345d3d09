//! CoreDNS, metrics-server and our own keeper: processes beside the first node, the first two behind Services
//! that name their address.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::control_plane::part;
use crate::net::{self, NODES};
use crate::{State, record};

const METRICS_PORT: u16 = 4443;

/// # Errors
/// When a process can't be started or the API server refuses an object.
pub fn start(state: &State) -> Result<()> {
    let kubeconfig = state.kubeconfig();
    let corefile = format!(
        ".:53 {{\n  bind {}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {}\n  }}\n  cache 5\n}}\n",
        net::DNS_SERVER,
        kubeconfig.display()
    );
    let corefile = state.write("Corefile", corefile)?;
    record::start(state, "coredns", part("coredns")?.arg("-conf").arg(corefile))?;

    let mut metrics = part("metrics-server")?;
    for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
        metrics.arg(flag).arg(&kubeconfig);
    }
    metrics.arg("--cert-dir").arg(state.path("metrics-server")?);
    metrics.args(["--secure-port", &METRICS_PORT.to_string()]);
    // The first must be below the second.
    metrics.args(["--kubelet-request-timeout", "5s", "--metric-resolution", "10s"]);
    record::start(state, "metrics-server", &mut metrics)?;

    let mut keeper = net::enter(NODES[0], std::env::current_exe()?);
    keeper.arg("--dir").arg(state.dir()).arg("keep");
    record::start(state, "keeper", &mut keeper)?;

    let names = [("dns", "UDP", 53, 53), ("dns-tcp", "TCP", 53, 53)];
    let mut objects = service("kube-dns", Some(net::DNS), net::DNS_SERVER, &names);
    objects.extend(service("metrics-server", None, net::MASTER, &[("https", "TCP", 443, METRICS_PORT)]));
    objects.push(json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
            "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"name": "metrics-server", "namespace": "kube-system"},
        },
    }));
    create(state, &objects)
}

/// A Service without a selector and the address behind it.
fn service(name: &str, address: Option<&str>, behind: &str, ports: &[(&str, &str, u16, u16)]) -> Vec<Value> {
    let metadata = json!({"name": name, "namespace": "kube-system"});
    let outside: Vec<_> = ports
        .iter()
        .map(|(name, protocol, port, target)| {
            json!({"name": name, "protocol": protocol, "port": port, "targetPort": target})
        })
        .collect();
    let inside: Vec<_> = ports
        .iter()
        .map(|(name, protocol, _, target)| json!({"name": name, "protocol": protocol, "port": target}))
        .collect();
    let mut spec = json!({"ports": outside});
    if let Some(address) = address {
        spec["clusterIP"] = json!(address);
    }
    vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "kube-system", "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": inside,
            "endpoints": [{"addresses": [behind], "conditions": {"ready": true}}],
        }),
    ]
}

/// `kubectl create`: half the requests of `apply`, and the cluster is new.
///
/// # Errors
/// When the API server refuses an object.
pub fn create(state: &State, objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut child = kubectl(state)?
        .args(["create", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("kubectl's input")?.write_all(list.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("kubectl create: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// `kubectl` as the administrator.
///
/// # Errors
/// When the binary is missing.
pub fn kubectl(state: &State) -> Result<Command> {
    let mut command = part("kubectl")?;
    command.arg("--kubeconfig").arg(state.kubeconfig());
    Ok(command)
}
