//! `kubectl port-forward`: a port of a pod or Service on this side's loopback.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::space::Space;

/// Open until it is dropped; it stays with the one pod that it began with.
pub struct Forward {
    _kubectl: Child,
    pub port: u16,
}

impl Forward {
    /// `to` is `pod/NAME` or `service/NAME`.
    pub async fn open(space: &Space, to: &str, port: u16) -> Self {
        let arguments = ["port-forward", "--namespace", &space.namespace, to, &format!(":{port}")];
        let mut kubectl = Command::from(space.cluster.kubectl(&arguments))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl starts");
        let mut lines = BufReader::new(kubectl.stdout.take().expect("its output")).lines();
        let first = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await;
        let line = first.ok().and_then(Result::ok).flatten();
        let line = line.unwrap_or_else(|| panic!("kubectl forwards no port of {to}"));
        // "Forwarding from 127.0.0.1:40611 -> 8123"
        let port = line.split(" -> ").next().and_then(|from| from.rsplit(':').next()?.parse().ok());
        let port = port.unwrap_or_else(|| panic!("kubectl says {line:?}"));
        // It blocks when nobody reads what it says.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { _kubectl: kubectl, port }
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
