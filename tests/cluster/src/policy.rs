//! NetworkPolicies made real, because the plugins that connect pods here enforce none: what the policies speak of is
//! watched, and rules for it are kept in the kernel.
//!
//! What it leaves out: IPv6, and connections that were open before a policy came.

mod nft;
mod rules;
#[cfg(test)]
mod rules_tests;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodStatus};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ObjectMeta;
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::net::{self, NODES};

/// Changes come in bursts: a Deployment's pods, a namespace's policies.
const BURST: Duration = Duration::from_millis(20);

/// Watches and enforces until the process is ended.
///
/// # Errors
/// When nothing can be watched; what fails later is tried again.
pub async fn enforce(client: Client) -> Result<std::convert::Infallible> {
    let changed = Arc::new(Notify::new());
    let pods: Store<Pod> = watch(client.clone(), &changed);
    let namespaces: Store<Namespace> = watch(client.clone(), &changed);
    let policies: Store<NetworkPolicy> = watch(client, &changed);
    pods.wait_until_ready().await?;
    namespaces.wait_until_ready().await?;
    policies.wait_until_ready().await?;

    let dns = Arc::new(dns());
    let mut enforced = String::new();
    loop {
        let mut pods = pods.state();
        pods.push(dns.clone());
        let rules = rules::compile(&pods, &namespaces.state(), &policies.state());
        let script = nft::script(&rules);
        if script != enforced {
            match apply(&script).await {
                Ok(()) => {
                    let (into, out) = (rules.ingress.len(), rules.egress.len());
                    writeln!(io::stderr(), "enforced: ingress of {into} pods, egress of {out}").ok();
                    enforced = script;
                }
                Err(error) => {
                    writeln!(io::stderr(), "{error:#}\n{script}").ok();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            }
        }
        changed.notified().await;
        tokio::time::sleep(BURST).await;
    }
}

/// What there is of a kind, kept up to date.
fn watch<K>(client: Client, changed: &Arc<Notify>) -> Store<K>
where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let changed = changed.clone();
    let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff().reflect(writer);
    tokio::spawn(events.for_each(move |event| {
        if let Err(error) = event {
            writeln!(io::stderr(), "{error}").ok();
        }
        changed.notify_one();
        std::future::ready(())
    }));
    store
}

/// CoreDNS is a process here and no pod, but policies select it as one.
fn dns() -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("coredns".to_owned()),
            namespace: Some("kube-system".to_owned()),
            labels: Some(BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())])),
            ..ObjectMeta::default()
        },
        status: Some(PodStatus { pod_ip: Some(net::DNS_SERVER.to_owned()), ..PodStatus::default() }),
        ..Pod::default()
    }
}

/// The whole of it on both nodes, each time, in one transaction per node.
async fn apply(script: &str) -> Result<()> {
    use tokio::io::AsyncWriteExt as _;
    for node in NODES {
        let mut command = net::enter(node, "nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).spawn().context("nft can't be started")?;
        child.stdin.take().context("nft's input")?.write_all(script.as_bytes()).await?;
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!("nft on {}: {}", node.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}
