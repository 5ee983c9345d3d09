//! The cluster that `KUBECONFIG` names, with the chart installed in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kube::Client;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use spillway_tests::tools::tool;
use tokio::sync::RwLock;

use crate::artefacts;
use crate::nodes::Nodes;

/// Namespace and release of the operator.
pub const SYSTEM: &str = "spillway-system";
pub const RELEASE: &str = "spillway";
/// The operator's Deployment.
pub const OPERATOR: &str = "spillway-operator";

/// Images that the pods run; all have to be on the nodes or where they can be pulled from.
#[derive(Clone, Debug)]
pub struct Images {
    pub spillway: String,
    /// Spillway's image under another tag, for rollouts.
    pub next: Option<String>,
    pub minio: String,
    pub clickhouse: String,
}

pub struct Cluster {
    pub client: Client,
    pub images: Images,
    pub nodes: Nodes,
    kubeconfig: PathBuf,
    /// Held for reading by tests that run side by side, for writing by those that need the cluster for themselves.
    pub(crate) turn: RwLock<()>,
}

impl Images {
    /// `None` when there is no cluster to run on: a `KUBECONFIG` alone might be anybody's.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        std::env::var_os("KUBECONFIG")?;
        Some(Self {
            spillway: named("SPILLWAY_E2E_IMAGE")?,
            next: named("SPILLWAY_E2E_NEXT_IMAGE"),
            minio: named("SPILLWAY_E2E_MINIO_IMAGE")?,
            clickhouse: named("SPILLWAY_E2E_CLICKHOUSE_IMAGE")?,
        })
    }
}

impl Cluster {
    /// Connects and installs the chart, or upgrades it to what it is here.
    pub async fn open(images: Images) -> Arc<Self> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG").expect("KUBECONFIG is set"));
        let client = Client::try_from(config(&kubeconfig).await).expect("a client");
        let nodes = Nodes::from_env();
        let cluster = Arc::new(Self { client, images, nodes, kubeconfig, turn: RwLock::new(()) });
        artefacts::start_afresh();
        cluster.install(&[]).await;
        cluster
    }

    /// `helm upgrade --install` of the chart as it is in this repository, for all namespaces.
    pub async fn install(&self, settings: &[&str]) {
        self.install_from(&chart(), settings).await;
    }

    /// The same of a chart that lies elsewhere.
    pub async fn install_from(&self, chart: &Path, settings: &[&str]) {
        let mut helm = self.helm();
        helm.args(["upgrade", "--install", RELEASE]).arg(chart);
        helm.args(["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "120s"]);
        let (repository, tag) = self.images.spillway.rsplit_once(':').expect("an image with a tag");
        helm.args(["--set", &format!("image.repository={repository}")]);
        helm.args(["--set", &format!("image.tag={tag}")]);
        // Deletions that are held up are part of the tests.
        helm.args(["--set", "cleanupTimeout=90s"]);
        for setting in settings {
            helm.args(["--set", setting]);
        }
        run(helm).await;
    }

    /// A client that is nobody but whom this token names.
    pub async fn client_of(&self, token: String) -> Client {
        let mut config = config(&self.kubeconfig).await;
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        Client::try_from(config).expect("a client")
    }

    /// A client that shows every answer: the other one repeats what is refused with 429 or 503.
    pub async fn blunt_client(&self) -> Client {
        let mut config = config(&self.kubeconfig).await;
        config.default_retry = false;
        Client::try_from(config).expect("a client")
    }

    /// `helm uninstall`.
    pub async fn uninstall(&self) {
        let mut helm = self.helm();
        helm.args(["uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "120s"]);
        run(helm).await;
    }

    /// `helm` with this cluster's kubeconfig and nothing of the user's own configuration.
    #[must_use]
    pub fn helm(&self) -> Command {
        let mut helm = Command::new(tool("helm", "helm.sh/helm/v3").expect("helm is built"));
        helm.env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_PLUGINS", "/nonexistent")
            .env_remove("HELM_NAMESPACE");
        helm
    }

    /// `kubectl` with this cluster's kubeconfig.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut kubectl = Command::new(tool("kubernetes", "k8s.io/kubernetes").expect("Kubernetes is built"));
        kubectl.arg("kubectl").arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        kubectl
    }
}

async fn config(kubeconfig: &Path) -> kube::Config {
    let read = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig can be read");
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    config.expect("the kubeconfig names a cluster")
}

#[must_use]
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/spillway")
}

/// Runs a program to its end; fails with what it said. The result is what it wrote.
pub async fn run(command: Command) -> String {
    let what = format!("{command:?}");
    let output = tokio::process::Command::from(command).output().await.expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
