//! The commands that look at a pipeline from outside: against a whole one, and against servers that don't answer.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use spillway_model::{
    FormatVersion, Home, Incarnation, ObjectKey, ProjectId, Record, ServiceName, UnixMs, UnixNanos, codec,
    write_row,
};
use uuid::Uuid;

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.yaml");

fn spillway(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("SPILLWAY_KEY");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "{what} never happened");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id() as i32).unwrap(), signal).unwrap();
    }

    /// Its exit code, which must not be long in coming.
    fn ends(&mut self) -> Option<i32> {
        until("the end", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A whole pipeline: `spillway up` with ports of its own.
struct Pipeline {
    folder: tempfile::TempDir,
    http: String,
    admin: String,
    syncer_admin: String,
    clickhouse_port: String,
    up: Option<Running>,
}

impl Pipeline {
    fn start() -> Self {
        let listeners: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |at: usize| listeners[at].local_addr().unwrap();
        let mut pipeline = Self {
            folder: tempfile::tempdir().unwrap(),
            http: address(0).to_string(),
            admin: address(1).to_string(),
            syncer_admin: address(2).to_string(),
            clickhouse_port: address(3).port().to_string(),
            up: None,
        };
        drop(listeners);
        // Batches come and go fast, so that whoever looks sees them at all stages.
        let fast = "\nspec:\n  syncer: {interval: 100ms, deleteGrace: 100ms}\n";
        fs::write(pipeline.file(), fs::read_to_string(QUICKSTART).unwrap().replace("\nspec:\n", fast))
            .unwrap();
        let mut up = spillway(&["up", "-f", &pipeline.file(), "--http", &pipeline.http]);
        up.args(["--admin", &pipeline.admin, "--syncer-admin", &pipeline.syncer_admin]);
        up.args(["--clickhouse-port", &pipeline.clickhouse_port]).arg("--data").arg(pipeline.data());
        pipeline.up = Some(Running(up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
        until("there is a status", || pipeline.look(&["status"]).status.success().then_some(()));
        pipeline
    }

    fn file(&self) -> String {
        self.folder.path().join("pipeline.yaml").to_string_lossy().into_owned()
    }

    /// `spillway send` to it.
    fn send(&self, args: &[&str]) -> Command {
        let (url, clickhouse) =
            (format!("http://{}", self.http), format!("http://127.0.0.1:{}", self.clickhouse_port));
        let mut send =
            spillway(&["send", "--json", "-f", &self.file(), "--url", &url, "--clickhouse", &clickhouse]);
        send.args(args);
        send
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A command that looks at it.
    fn look(&self, args: &[&str]) -> Output {
        let data = self.data();
        let place = ["-f", &self.file(), "--clickhouse-port", &self.clickhouse_port, "--data"];
        spillway(args).args(place).arg(data).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.look(args);
        assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn audit(&self, admin: &str) -> (Option<i32>, Value) {
        let output = self.look(&["audit", "--json", "--metrics", &format!("http://{admin}")]);
        let audit = serde_json::from_slice(&output.stdout);
        (output.status.code(), audit.unwrap_or_else(|_| panic!("{}", text(&output.stderr))))
    }

    /// What `status` says of a project: rows loaded, and rows put aside.
    fn totals(&self, project: &str) -> (u64, u64) {
        let status = self.look(&["status", "--json", "--metrics", &format!("http://{}", self.admin)]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        let totals = &status["syncer"]["totals"][project];
        (totals["loaded"].as_u64().unwrap_or(0), totals["deadLettered"].as_u64().unwrap_or(0))
    }

    fn rows(&self, message: &str) -> String {
        let query = format!("SELECT count() FROM spillway.logs WHERE message = '{message}' FORMAT TSV");
        let mut stream = TcpStream::connect(format!("127.0.0.1:{}", self.clickhouse_port)).unwrap();
        let length = query.len();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{query}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let mut lines = body.lines().rev().map(str::trim).filter(|line| !line.is_empty());
        lines.next().unwrap_or_default().to_owned()
    }

    /// Puts an object of these lines into the bucket, as an ingest would.
    fn stage(&self, lines: &[Vec<u8>]) {
        let lines: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
        let key = ObjectKey {
            home: Home::Stream {
                project: ProjectId::parse("acme-shop").unwrap(),
                service: ServiceName::parse("web").unwrap(),
            },
            time: UnixMs::now(),
            incarnation: Incarnation::new("test", 1),
            number: 1,
            version: FormatVersion::V1,
            rows: lines.iter().filter(|byte| **byte == b'\n').count() as u64,
            raw_bytes: lines.len() as u64,
        };
        let path = self.data().join("bucket").join(key.to_string());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Under its name only when it is whole.
        let temporary = self.folder.path().join("object");
        fs::write(&temporary, codec::encode(FormatVersion::V1, &lines, 1).unwrap()).unwrap();
        fs::rename(temporary, path).unwrap();
    }
}

fn row(message: &str) -> Vec<u8> {
    let record = Record {
        id: Uuid::now_v7(),
        project_id: "acme-shop".into(),
        service: "web".into(),
        timestamp: UnixNanos::now(),
        received_at: UnixMs::now(),
        message: message.into(),
        retention_days: 30,
        ..Record::default()
    };
    let mut line = Vec::new();
    write_row(&mut line, &record);
    line.pop();
    line
}

fn results(audit: &Value) -> Vec<&str> {
    audit["checks"].as_array().unwrap().iter().map(|check| check["result"].as_str().unwrap()).collect()
}

#[test]
fn every_command_gives_the_figures_of_a_live_pipeline_and_a_replayed_dead_letter_is_there_once() {
    let pipeline = Pipeline::start();
    let (code, audit) = pipeline.audit(&pipeline.admin);
    assert_eq!((code, &audit["good"]), (Some(0), &Value::Bool(true)), "before anything was sent: {audit}");

    let output = pipeline.send(&["--records", "200"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let sent: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&sent["verdict"]["rows"], &sent["verdict"]["late"]), (&200.into(), &0.into()), "{sent}");

    pipeline.stage(&[row("whole"), b"{\"message\":\"broken\"".to_vec()]);
    until("the dead letter is counted", || (pipeline.totals("acme-shop") == (101, 1)).then_some(()));
    let list = pipeline.json(&["dead-letters", "list", "--json"]);
    let key = list[0]["key"].as_str().unwrap();
    assert_eq!(
        (list.as_array().unwrap().len(), &list[0]["rows"], &list[0]["replayed"]),
        (1, &1.into(), &false.into())
    );
    let letter = pipeline.json(&["dead-letters", "show", "--json", key]);
    assert_eq!(letter["line"], "{\"message\":\"broken\"", "{letter}");

    // As it is it would only be put aside again.
    assert_eq!(pipeline.look(&["dead-letters", "replay", key]).status.code(), Some(1));
    let repaired = pipeline.folder.path().join("repaired");
    fs::write(&repaired, row("repaired")).unwrap();
    let replay = ["dead-letters", "replay", "--json", key, "--rows", &repaired.to_string_lossy()];
    assert_eq!(pipeline.json(&replay)["rows"], 1);
    until("the replayed row is counted", || (pipeline.totals("acme-shop") == (102, 1)).then_some(()));
    let again = pipeline.json(&replay);
    assert_eq!((&again["rows"], &again["before"]), (&0.into(), &true.into()));
    assert_eq!(pipeline.json(&["dead-letters", "list", "--json"])[0]["replayed"], true);
    assert_eq!([pipeline.rows("repaired"), pipeline.rows("whole")], ["1", "1"]);

    let status = pipeline.json(&["status", "--json", "--metrics", &format!("http://{}", pipeline.admin)]);
    assert_eq!(status["ingest"][0]["stagedRecords"], 200, "{status}");
    assert_eq!(
        (&status["stale"], &status["syncer"]["backlogObjects"]),
        (&false.into(), &0.into()),
        "{status}"
    );
    let (code, audit) = pipeline.audit(&pipeline.admin);
    assert_eq!((code, &audit["good"]), (Some(0), &Value::Bool(true)), "{audit}");
    assert!(!results(&audit).contains(&"not-looked-at"), "{audit}");

    // Nobody answers there, and somebody else does here.
    let (code, audit) = pipeline.audit("127.0.0.1:1");
    assert_eq!((code, &audit["good"]), (Some(3), &Value::Bool(false)), "{audit}");
    assert_eq!(results(&audit).iter().filter(|result| **result == "not-looked-at").count(), 2, "{audit}");
    let (code, audit) = pipeline.audit(&pipeline.syncer_admin);
    assert_eq!((code, results(&audit)[0]), (Some(1), "failed"), "{audit}");
}

#[test]
fn an_audit_of_a_pipeline_at_work_finds_nothing_wrong() {
    let pipeline = Pipeline::start();
    let load = ["--duration", "5s", "--rate", "1000", "--batch", "20", "--no-verdict"];
    let mut send = Running(pipeline.send(&load).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let mut audits = 0;
    while send.0.try_wait().unwrap().is_none() {
        let (code, audit) = pipeline.audit(&pipeline.admin);
        assert_eq!(code, Some(0), "{audit}");
        audits += 1;
    }
    assert!(audits > 3, "{audits}");
    assert_eq!(send.ends(), Some(0));
}

/// Whoever connects is heard, and gets no answer.
struct Silent {
    address: String,
    heard: Arc<Mutex<Vec<TcpStream>>>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.lock().unwrap().push(stream);
            }
        });
        Self { address, heard }
    }

    fn wait(&self) {
        until("somebody connects", || (!self.heard.lock().unwrap().is_empty()).then_some(()));
    }
}

#[test]
fn a_second_signal_ends_send_at_once() {
    let ingest = Silent::start();
    let url = format!("http://{}", ingest.address);
    let send = ["send", "--url", &url, "--projects", "p", "--key", "k", "--no-verdict"];
    let mut send = Running(spillway(&send).spawn().unwrap());
    ingest.wait();
    send.signal(Signal::INT);
    let mut line = String::new();
    BufReader::new(send.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("second signal"), "{line}");
    let asked = Instant::now();
    send.signal(Signal::INT);
    assert_eq!(send.ends(), Some(5));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

fn pipeline_file(folder: &Path, spec: &str, secret: &str) -> String {
    let path = folder.join("pipeline.yaml");
    let text = format!(
        "apiVersion: spillway.dev/v1alpha1\nkind: LogPipeline\nmetadata: {{name: p}}\nspec: {spec}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: secret}}\nstringData: {secret}\n"
    );
    fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn an_interrupted_command_leaves_no_credentials_behind() {
    let (folder, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = Silent::start();
    let spec = format!(
        "{{storage: {{s3: {{endpoint: 'http://{}', bucket: logs, credentialsSecretRef: {{name: secret}}}}}}}}",
        storage.address
    );
    let file = pipeline_file(folder.path(), &spec, "{access_key_id: a, secret_access_key: b}");
    let mut list = spillway(&["dead-letters", "list", "-f", &file]);
    let mut list = Running(list.env("TMPDIR", temporary.path()).spawn().unwrap());
    storage.wait();
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    list.signal(Signal::TERM);
    assert_eq!(list.ends(), Some(5));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn the_verdict_asks_the_clickhouse_of_the_pipeline_with_its_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // A ClickHouse with an empty table and a password.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut headers = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut headers).is_ok_and(|read| read > 2) {}
            let headers = headers.to_lowercase();
            let length = headers.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            reader.read_exact(&mut body).unwrap();
            let knows =
                headers.contains("x-clickhouse-user: reader") && headers.contains("x-clickhouse-key: pass");
            let status = if knows { "200 OK" } else { "403 Forbidden" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let spec = format!("{{clickhouse: {{url: '{url}', credentialsSecretRef: {{name: secret}}}}}}");
    let file = pipeline_file(folder.path(), &spec, "{username: reader, password: pass}");
    let send = ["send", "-f", &file, "--projects", "p", "--key", "k", "--records", "0", "--patience", "5s"];
    let output = spillway(&send).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn bad_usage_ends_with_2_and_what_can_not_be_reached_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = "{storage: {s3: {endpoint: 'http://127.0.0.1:1', bucket: logs, \
                   credentialsSecretRef: {name: secret}}}}";
    let file = pipeline_file(folder.path(), nowhere, "{access_key_id: a, secret_access_key: b}");
    let data = folder.path().join("data").to_string_lossy().into_owned();
    for (args, code) in [
        (vec!["dead-letters", "show", "no-key", "-f", &file], 2),
        (vec!["dead-letters", "list", "--date", "yesterday", "-f", &file], 2),
        (vec!["dead-letters", "replay", "-f", &file], 2),
        (vec!["dead-letters", "list", "-f", &file], 3),
        (vec!["dead-letters", "show", "_dead-letter/2026-01-31/1-00000001.json.gz", "-f", &file], 3),
        (vec!["status", "-f", &file], 3),
        (vec!["audit", "-f", &file], 3),
        (vec!["dead-letters", "list", "-f", QUICKSTART, "--data", &data], 3),
        (vec!["send", "-f", QUICKSTART, "--rate", "0"], 2),
        (vec!["send", "-f", QUICKSTART, "--rate=-1"], 2),
    ] {
        let output = spillway(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    }
    assert!(!Path::new(&data).exists());
}
