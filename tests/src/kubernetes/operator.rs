//! `spillway-operator` as a process, under its own ServiceAccount's token.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;

use super::space::Space;
use crate::child::free_port;
use crate::process::{Process, built};
use crate::wait::until;

/// The chart's name for the ServiceAccount, in the release `spillway`.
pub const SERVICE_ACCOUNT: &str = "spillway-operator";
/// Image of pipelines that name none.
pub const IMAGE: &str = "registry.example/spillway:1.0.0";

/// How to start an operator.
#[derive(Clone, Debug)]
pub struct Options {
    pub pod: String,
    pub image: String,
    pub cleanup_timeout: Duration,
    /// Where to kill itself: `name` or `name:nth`.
    pub failpoint: Option<String>,
    /// Work only while it holds the Lease, which takes its successor 15 s after a kill.
    pub elect: bool,
    /// In place of AWS's own.
    pub sts_endpoint: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pod: "operator-0".into(),
            image: IMAGE.into(),
            cleanup_timeout: Duration::from_secs(600),
            failpoint: None,
            elect: false,
            sts_endpoint: None,
        }
    }
}

pub struct Operator {
    pub process: Process,
    pub metrics_port: u16,
}

impl Operator {
    /// Starts one that lives in the test's namespace and watches it alone.
    pub async fn start(space: &Space, options: Options) -> Self {
        Self::launch(space, Some(&space.namespace), options).await
    }

    /// Starts one that lives in the namespace of `home` and watches all.
    pub async fn start_for_all(home: &Space, options: Options) -> Self {
        Self::launch(home, None, options).await
    }

    async fn launch(home: &Space, watched: Option<&str>, options: Options) -> Self {
        let token = token(home, SERVICE_ACCOUNT, None).await;
        let control_plane = &home.world.control_plane;
        let name = format!("{}-{}", home.namespace, options.pod);
        let kubeconfig = control_plane.kubeconfig(&name, &token);
        let metrics_port = free_port();
        let mut command = built("spillway-operator");
        command
            .arg(format!("--image={}", options.image))
            .args(watched.map(|namespace| format!("--watch-namespace={namespace}")))
            .args(options.sts_endpoint.map(|url| format!("--sts-endpoint={url}")))
            .arg(format!("--metrics-addr=127.0.0.1:{metrics_port}"))
            .arg(format!("--cleanup-timeout={}s", options.cleanup_timeout.as_secs()))
            // The Lease of the syncer is polled that often.
            .arg("--status-interval=2s")
            .arg("--log=text")
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAME", &options.pod)
            .env("POD_NAMESPACE", &home.namespace)
            .env("SPILLWAY_LOG", "info,spillway_operator=debug")
            // Whatever the machine has of its own must not lend it rights.
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        if !options.elect {
            command.arg("--no-leader-election");
        }
        if let Some(failpoint) = options.failpoint {
            command.env("SPILLWAY_FAILPOINT", failpoint);
        }
        let process = Process::start(&name, control_plane.dir(), &mut command);
        Self { process, metrics_port }
    }

    /// Waits for it to end by itself, as by a failpoint.
    pub async fn ends(&mut self, why: &str) {
        until(why, Duration::from_secs(60), async || (!self.process.is_running()).then_some(())).await;
    }

    /// What it says of itself.
    pub async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics_port);
        let answer = crate::http::client().get(url).send().await.expect("the operator answers");
        answer.text().await.expect("its metrics")
    }
}

/// A token of a ServiceAccount in the test's namespace, as a pod under it has.
pub async fn token(space: &Space, account: &str, audience: Option<&str>) -> String {
    let accounts: Api<ServiceAccount> = space.api();
    let spec = TokenRequestSpec {
        audiences: audience.into_iter().map(str::to_owned).collect(),
        expiration_seconds: Some(3600),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
    made.expect("a token").status.expect("a token").token
}
