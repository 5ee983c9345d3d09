//! Traffic from a pod: `spillway send`, which remembers what was acknowledged and compares it with the table.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, LogParams};
use serde_json::json;
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::wait::until;

use crate::pods;
use crate::space::{KEY, PATIENCE, Space};

/// Where pods that send see the ConfigMap `authority`.
pub const AUTHORITY: &str = "/etc/authority";

/// What is sent.
pub struct Load {
    /// Name of the pod.
    pub name: &'static str,
    /// Seconds for which it is sent.
    pub seconds: u32,
    /// Records per second in all.
    pub rate: u32,
    /// `PROJECT=KEY`.
    pub keys: Vec<String>,
    /// Further arguments of `spillway send`; a `--url=` takes the place of the usual pipeline's. The ConfigMap
    /// `authority`, if there is one, is at [`AUTHORITY`].
    pub more: Vec<String>,
}

impl Load {
    /// Of the project `shop`.
    #[must_use]
    pub fn of(seconds: u32, rate: u32) -> Self {
        Self { name: "send", seconds, rate, keys: vec![format!("shop={KEY}")], more: Vec::new() }
    }
}

/// A pod that sends.
pub struct Traffic<'a> {
    space: &'a Space,
    name: &'static str,
    seconds: u32,
}

/// What became of what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub sent: u64,
    pub acknowledged: u64,
    pub rows: u64,
    pub missing: u64,
    pub duplicated: u64,
    /// Rows that were refused or never sent.
    pub unexpected: u64,
    /// Sent without an answer that says what became of them.
    pub unclear: u64,
}

impl<'a> Traffic<'a> {
    /// Starts the pod and waits until its first records are in the table.
    pub async fn start(space: &'a Space, load: Load) -> Self {
        let before = space.rows().await;
        let traffic = Self::start_blindly(space, load).await;
        let flows = async || {
            space.try_sql("SELECT count() FROM spillway.logs").await.ok()?.trim().parse::<u64>().ok()
        };
        until(&format!("traffic to flow ({})", space.namespace), PATIENCE, async || {
            flows().await.filter(|rows| *rows > before)
        })
        .await;
        traffic
    }

    /// Starts the pod and waits for nothing.
    pub async fn start_blindly(space: &'a Space, load: Load) -> Self {
        let projects: Vec<_> = load.keys.iter().filter_map(|key| key.split('=').next()).collect();
        let mut arguments = vec![
            "send".to_owned(),
            format!("--key={}", load.keys.join(",")),
            format!("--projects={}", projects.join(",")),
            "--clickhouse=http://clickhouse:8123".to_owned(),
            format!("--duration={}s", load.seconds),
            format!("--rate={}", load.rate),
            // Longer than any fault that the tests make.
            "--give-up=300s".to_owned(),
            "--patience=240s".to_owned(),
            "--json".to_owned(),
        ];
        if !load.more.iter().any(|argument| argument.starts_with("--url=")) {
            arguments.push(format!("--url=http://{NAME}-ingest:8080"));
        }
        arguments.extend(load.more);
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": load.name, "labels": {"app": "send"}},
            "spec": {
                "restartPolicy": "Never",
                "nodeSelector": {"kubernetes.io/hostname": space.home().await},
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "send",
                    "image": space.cluster.images.spillway,
                    "command": ["spillway"],
                    "args": arguments,
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "authority", "mountPath": AUTHORITY}],
                }],
                "volumes": [{"name": "authority", "configMap": {"name": "authority", "optional": true}}],
            },
        });
        space.create(&serde_json::from_value::<Pod>(pod).expect("a pod")).await;
        Self { space, name: load.name, seconds: load.seconds }
    }

    /// Stops sending, so that traffic lasts just as long as what is done meanwhile.
    pub async fn enough(&self) {
        let pod: Pod = self.space.get(self.name).await;
        assert_eq!(pods::phase(&pod), "Running", "traffic ended before its time");
        self.space.cluster.nodes.signal(&pod, "TERM").await;
    }

    /// Stops sending and judges what was sent.
    pub async fn stop(self) -> Verdict {
        self.enough().await;
        self.verdict().await
    }

    /// Waits for the end, prints the verdict line and fails unless every acknowledged record is there exactly once.
    pub async fn verdict(self) -> Verdict {
        let (verdict, log) = self.finish().await;
        let Verdict { sent, acknowledged, rows, missing, duplicated, unclear, unexpected } = verdict;
        println!(
            "verdict: test={} sent={sent} acknowledged={acknowledged} rows={rows} missing={missing} \
             duplicated={duplicated} unclear={unclear}",
            self.space.test
        );
        if unclear > 0 {
            // Why, in case a test allows none.
            println!("{log}");
        }
        assert!(acknowledged > 0, "nothing was acknowledged:\n{log}");
        assert_eq!((missing, duplicated, unexpected), (0, 0, 0), "{log}");
        self.space
            .api::<Pod>()
            .delete(self.name, &DeleteParams::default())
            .await
            .expect("the pod is deleted");
        self.space.goes::<Pod>(self.name).await;
        verdict
    }

    /// Waits for the end; the verdict and all that the pod said.
    async fn finish(&self) -> (Verdict, String) {
        let patience = Duration::from_secs(u64::from(self.seconds) + 300);
        let api = self.space.api::<Pod>();
        let what = format!("the end of the pod {} ({})", self.name, self.space.namespace);
        until(&what, patience, async || {
            // Not a burden for the API server while minutes pass.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let pod = api.get(self.name).await.ok()?;
            matches!(pods::phase(&pod), "Succeeded" | "Failed").then_some(())
        })
        .await;
        let log = api.logs(self.name, &LogParams::default()).await.expect("the pod's log");
        let line = log.lines().find(|line| line.contains("verdict: "));
        let line = line.unwrap_or_else(|| panic!("{} came to no verdict:\n{log}", self.name));
        (Verdict::parse(line), log)
    }
}

impl Verdict {
    /// Of `sent=1 acknowledged=1 ...`.
    fn parse(line: &str) -> Self {
        let number = |name: &str| {
            let pair = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            pair.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line:?}"))
        };
        Self {
            sent: number("sent"),
            acknowledged: number("acknowledged"),
            rows: number("rows"),
            missing: number("missing"),
            duplicated: number("duplicated"),
            unexpected: number("unexpected"),
            unclear: number("unclear"),
        }
    }
}
