//! etcd, kube-apiserver and kube-controller-manager on free loopback ports, over a temporary folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{conditions, wait};
use kube::{Api, Client, Config, ResourceExt};
use rcgen::KeyPair;
use serde_json::json;

use crate::child::free_port;
use crate::process::Process;
use crate::tools::tool;
use crate::wait::until;

const CRD: &str = include_str!("../../../crds/logpipelines.yaml");

/// Those that the operator's objects need, and no more: no scheduler and no kubelet stand behind them.
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,garbage-collector-controller,\
    namespace-controller,serviceaccount-controller,horizontal-pod-autoscaler-controller,disruption-controller";

pub struct ControlPlane {
    // Dropped in this order: what depends on the next one first.
    _controllers: Process,
    api: Process,
    _etcd: Process,
    port: u16,
    etcd_port: u16,
    admin_token: String,
    certificate: String,
    dir: tempfile::TempDir,
}

impl ControlPlane {
    /// Starts all three and installs the CRD.
    pub async fn start() -> Self {
        // Fails when it was done before, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir =
            tempfile::Builder::new().prefix("spillway-control-plane-").tempdir().expect("a temporary folder");
        let certificate = write_keys(dir.path());
        let token = |user: &str| format!("{user}-{:032x}", rand::random::<u128>());
        let (admin_token, controllers_token) = (token("admin"), token("controllers"));
        let users = format!(
            "{admin_token},admin,admin,\"system:masters\"\n{controllers_token},controllers,controllers,\"system:masters\"\n"
        );
        std::fs::write(dir.path().join("tokens.csv"), users).expect("the tokens");
        let etcd_port = free_port();
        let etcd = start_etcd(dir.path(), etcd_port);
        let port = free_port();
        let mut api = start_api_server(dir.path(), etcd_port, port);

        let kubeconfig = dir.path().join("controllers.json");
        std::fs::write(&kubeconfig, kubeconfig_json(port, &certificate, &controllers_token).to_string())
            .expect("the controllers' kubeconfig");
        let admin = client(port, &certificate, &admin_token).await;
        until("the API server to be ready", Duration::from_secs(120), async || {
            assert!(api.is_running(), "the API server ended at once:\n{}", api.log());
            let readyz = http::Request::get("/readyz").body(Vec::new()).expect("a request");
            admin.request_text(readyz).await.ok()
        })
        .await;
        // Before the controllers start: the garbage collector looks for new kinds every half a minute.
        install_crd(&admin, CRD).await;
        let controllers = start_controllers(dir.path(), &kubeconfig);
        Self { _controllers: controllers, api, _etcd: etcd, port, etcd_port, admin_token, certificate, dir }
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> Client {
        self.client(&self.admin_token).await
    }

    /// A client that shows `token`.
    pub async fn client(&self, token: &str) -> Client {
        client(self.port, &self.certificate, token).await
    }

    /// Writes a kubeconfig for a process that shows `token`.
    pub fn kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.kubeconfig.json"));
        let config = kubeconfig_json(self.port, &self.certificate, token);
        std::fs::write(&path, config.to_string()).expect("the kubeconfig");
        path
    }

    /// `kubectl` of the same version as the server, as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("kubectl").env("KUBECONFIG", self.kubeconfig("admin", &self.admin_token));
        // Its cache of what the server offers, which differs between two runs on one port.
        command.env("HOME", self.dir.path());
        command
    }

    /// The API server's, as processes on this machine reach it.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// By which the API server shows who it is: its own authority.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Puts an object into etcd as it is: what a server of another version, without today's rules, may have stored.
    pub async fn write_past_the_api_server(&self, key: &str, object: &serde_json::Value) {
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let put = json!({"key": base64(key.as_bytes()), "value": base64(object.to_string().as_bytes())});
        let url = format!("http://127.0.0.1:{}/v3/kv/put", self.etcd_port);
        let answer = crate::http::client().post(url).json(&put).send().await.expect("etcd answers");
        assert!(answer.status().is_success(), "etcd refuses: {answer:?}");
    }

    pub fn pause_api_server(&self) {
        self.api.pause();
    }

    pub fn resume_api_server(&self) {
        self.api.resume();
    }
}

/// The API server's certificate and key, and the keys of service account tokens. Returns the certificate.
fn write_keys(dir: &Path) -> String {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let serving = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let accounts = KeyPair::generate().expect("a key");
    let certificate = serving.cert.pem();
    for (name, pem) in [
        ("tls.crt", certificate.clone()),
        ("tls.key", serving.signing_key.serialize_pem()),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
    ] {
        std::fs::write(dir.join(name), pem).expect("a key file");
    }
    certificate
}

fn start_etcd(dir: &Path, port: u16) -> Process {
    let clients = format!("http://127.0.0.1:{port}");
    let peers = format!("http://127.0.0.1:{}", free_port());
    let mut command = Command::new(binary());
    command.arg("etcd").args(["--name", "tests", "--log-level", "warn", "--unsafe-no-fsync"]);
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("tests={peers}")]);
    command.arg("--data-dir").arg(dir.join("etcd"));
    Process::start("etcd", dir, &mut command).owning(dir)
}

fn start_api_server(dir: &Path, etcd_port: u16, port: u16) -> Process {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut command = Command::new(binary());
    command.arg("kube-apiserver");
    command.args(["--etcd-servers", &format!("http://127.0.0.1:{etcd_port}")]);
    command.args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"]);
    command.args(["--secure-port", &port.to_string()]);
    command.args(["--tls-cert-file", &file("tls.crt"), "--tls-private-key-file", &file("tls.key")]);
    command.args(["--token-auth-file", &file("tokens.csv"), "--authorization-mode", "RBAC"]);
    command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
    // Where others find the keys to check its tokens with; by default an address of pods.
    command.args(["--service-account-jwks-uri", &format!("{}/openid/v1/jwks", url(port))]);
    command.args(["--service-account-signing-key-file", &file("accounts.key")]);
    command.args(["--service-account-key-file", &file("accounts.pub")]);
    command.args(["--service-cluster-ip-range", "10.0.0.0/16"]);
    // The server's own endpoint can't be a loopback address, and nothing here asks for it.
    command.args(["--endpoint-reconciler-type", "none", "--profiling=false"]);
    // A few hundred watches of tests share a server that two cores run: fairness would only queue them.
    command.arg("--enable-priority-and-fairness=false");
    command.arg("--cert-dir").arg(dir.join("generated"));
    Process::start("kube-apiserver", dir, &mut command)
}

fn start_controllers(dir: &Path, kubeconfig: &Path) -> Process {
    let mut command = Command::new(binary());
    command.arg("kube-controller-manager").arg("--kubeconfig").arg(kubeconfig);
    command.args(["--controllers", CONTROLLERS, "--secure-port", "0", "--leader-elect=false"]);
    command.args(["--kube-api-qps", "300", "--kube-api-burst", "600"]);
    command.args(["--horizontal-pod-autoscaler-sync-period", "1s"]);
    Process::start("kube-controller-manager", dir, &mut command)
}

/// Installs a CRD and waits until its kind is served.
pub async fn install_crd(admin: &Client, yaml: &str) {
    let crd: CustomResourceDefinition = serde_saphyr::from_str(yaml).expect("a CRD");
    let api: Api<CustomResourceDefinition> = Api::all(admin.clone());
    let name = crd.name_any();
    let applied = api.patch(&name, &PatchParams::apply("spillway-tests").force(), &Patch::Apply(&crd)).await;
    applied.unwrap_or_else(|error| panic!("the API server refuses {name}: {error}"));
    let established = wait::await_condition(api, &name, conditions::is_crd_established());
    tokio::time::timeout(Duration::from_secs(30), established)
        .await
        .expect("the CRD is established in time")
        .expect("the CRD can be watched");
}

fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn kubeconfig_json(port: u16, certificate: &str, token: &str) -> serde_json::Value {
    let certificate = base64::engine::general_purpose::STANDARD.encode(certificate);
    let cluster = json!({"server": url(port), "certificate-authority-data": certificate});
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    })
}

async fn client(port: u16, certificate: &str, token: &str) -> Client {
    let kubeconfig: Kubeconfig =
        serde_json::from_value(kubeconfig_json(port, certificate, token)).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a configuration");
    Client::try_from(config).expect("a client")
}

fn binary() -> PathBuf {
    tool("kubernetes", "k8s.io/kubernetes").expect("Kubernetes is built")
}
