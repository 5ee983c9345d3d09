//! The end of a pod, seen from all sides: by the API server, by who routes to it, by who asks it, by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::LogParams;
use kube::runtime::watcher;
use serde_json::{Value, json};
use spillway_e2e::forward::Forward;
use spillway_e2e::pods;
use spillway_e2e::space::{KEY, PATIENCE, Space};
use spillway_e2e::watched::Watched;
use spillway_tests::wait::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Service of the record in [`HalfSent`].
pub(super) const SERVICE: &str = "half-sent";
const PORT: u16 = 8080;

/// Seconds that the pod may take to end.
pub(super) fn grace(pod: &Pod) -> i32 {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    seconds.and_then(|seconds| seconds.try_into().ok()).expect("a grace period")
}

/// What the API server says.
pub(super) struct Ending(Watched<State>);

#[derive(Clone, Debug, PartialEq)]
struct State {
    exit: Option<i32>,
    is_gone: bool,
}

impl Ending {
    pub(super) async fn watch(space: &Space, name: &str) -> Self {
        let state = |pod: &Pod, is_gone| {
            let state = pods::container(pod)?.state.as_ref()?;
            Some(State { exit: state.terminated.as_ref().map(|ended| ended.exit_code), is_gone })
        };
        Self(Watched::start(space, only(name), state).await)
    }

    /// When its container had ended and with which exit code, and when the pod was gone.
    pub(super) async fn end(&self) -> ((Timestamp, i32), Timestamp) {
        let (gone, _) = self.0.waits_for("the end of the pod", |state| state.is_gone).await;
        let (ended, state) = self.0.waits_for("its exit code", |state| state.exit.is_some()).await;
        ((ended, state.exit.expect("an exit code")), gone)
    }
}

/// Whether the Service sends requests to it.
pub(super) struct Endpoint(Watched<bool>);

impl Endpoint {
    pub(super) async fn watch(space: &Space, name: &str) -> Self {
        let pod = name.to_owned();
        let slices = watcher::Config::default().labels("kubernetes.io/service-name=logs-ingest");
        let is_ready = move |slice: &EndpointSlice, _| {
            let of_pod = |target: &str| target == pod;
            let endpoint = slice.endpoints.iter().find(|endpoint| {
                endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()).is_some_and(of_pod)
            });
            let ready = endpoint.and_then(|endpoint| endpoint.conditions.as_ref()?.ready);
            Some(ready == Some(true))
        };
        let watched = Watched::start(space, slices, is_ready).await;
        watched.waits_for("the pod to be in the Service", |ready| *ready).await;
        Self(watched)
    }

    /// When it was taken out.
    pub(super) async fn left(&self) -> Timestamp {
        self.0.waits_for("the pod to leave the Service", |ready| !ready).await.0
    }
}

/// What the pod writes, with its own times.
pub(super) struct Log {
    lines: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Log {
    pub(super) async fn follow(space: &Space, name: &str) -> Self {
        let follow = LogParams { follow: true, ..LogParams::default() };
        let stream = space.api::<Pod>().log_stream(name, &follow).await.expect("the pod's log");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream.lines());
            while let Some(Ok(line)) = stream.next().await {
                let line = serde_json::from_str(&line).unwrap_or_default();
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { lines, task }
    }

    /// When it said so.
    pub(super) async fn says(&self, message: &str) -> Timestamp {
        let what = format!("the pod to say {message:?}");
        let time = until(&what, PATIENCE, async || {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let line = lines.iter().find(|line| line["fields"]["message"] == message)?;
            Some(line["timestamp"].as_str()?.to_owned())
        });
        time.await.parse().expect("a time")
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the pod's port says to somebody who connects anew each time.
pub(super) struct Probe {
    seen: Arc<Mutex<Vec<(Timestamp, Seen)>>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Seen {
    Ready,
    Draining,
    Closed,
}

impl Probe {
    pub(super) async fn start(space: &Space, name: &str) -> Self {
        let forward = Forward::open(space, &format!("pod/{name}"), PORT).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let found = ask(&forward).await;
                noted.lock().unwrap_or_else(PoisonError::into_inner).push((Timestamp::now(), found));
                if found == Seen::Closed {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let probe = Self { seen, task };
        until("the pod to be ready", PATIENCE, async || probe.first(Seen::Ready)).await;
        probe
    }

    /// When it first was no longer ready.
    pub(super) fn unready(&self) -> Timestamp {
        self.first(Seen::Draining).expect("it was never seen to be unready and open")
    }

    /// When a connection first was refused.
    pub(super) async fn refused(&self) -> Timestamp {
        until("the listener to be closed", PATIENCE, async || self.first(Seen::Closed)).await
    }

    fn first(&self, what: Seen) -> Option<Timestamp> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().find(|(_, seen)| *seen == what).map(|(at, _)| *at)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(forward: &Forward) -> Seen {
    let request = "GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
    match say(forward, request.as_bytes()).await.as_deref() {
        Some(answer) if answer.starts_with("HTTP/1.1 200") => Seen::Ready,
        Some(answer) if answer.starts_with("HTTP/1.1 503") => Seen::Draining,
        Some(answer) if !answer.is_empty() => panic!("/readyz answers {answer}"),
        _ => Seen::Closed,
    }
}

async fn say(forward: &Forward, request: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", forward.port)).await.ok()?;
    stream.write_all(request).await.ok()?;
    // Its end comes through the forward a second after its beginning.
    let mut answer = vec![0; 1024];
    let bytes = stream.read(&mut answer).await.ok()?;
    Some(String::from_utf8_lossy(&answer[..bytes]).into_owned())
}

/// A request whose body is not complete when the pod is told to end.
pub(super) struct HalfSent {
    stream: TcpStream,
    rest: Vec<u8>,
    _forward: Forward,
}

impl HalfSent {
    pub(super) async fn begin(space: &Space, name: &str) -> Self {
        // One of its own: kubectl ends at the first connection that is refused.
        let forward = Forward::open(space, &format!("pod/{name}"), PORT).await;
        let mut stream = TcpStream::connect(("127.0.0.1", forward.port)).await.expect("a connection");
        let record = json!({
            "project_id": "shop", "timestamp": Timestamp::now().to_string(), "level": "info",
            "service": SERVICE, "message": "begun before the end",
        });
        let body = json!({"logs": [record]}).to_string();
        let head = format!(
            "POST /v1/drain HTTP/1.1\r\nHost: pod\r\nAuthorization: Bearer {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (first, rest) = body.split_at(body.len() / 2);
        stream.write_all(head.as_bytes()).await.expect("the head is sent");
        stream.write_all(first.as_bytes()).await.expect("one half is sent");
        Self { stream, rest: rest.as_bytes().to_vec(), _forward: forward }
    }

    /// Sends the other half; when the answer came, which says that the record is stored.
    pub(super) async fn complete(mut self) -> Timestamp {
        self.stream.write_all(&self.rest).await.expect("the other half is sent");
        let mut answer = vec![0; 4096];
        let bytes = self.stream.read(&mut answer).await.expect("an answer");
        let (at, answer) = (Timestamp::now(), String::from_utf8_lossy(&answer[..bytes]).into_owned());
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("x-spillway-ack: durable"),
            "{answer:?}"
        );
        at
    }
}

fn only(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}
