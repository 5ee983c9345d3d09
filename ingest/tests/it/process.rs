//! The program itself: a directory as bucket, real signals, exit codes.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use spillway_model::{ObjectKey, codec, read_row};

use crate::child::free_port;

const KEY: &str = "secret-key";

struct Place {
    dir: tempfile::TempDir,
    http: u16,
    admin: u16,
}

impl Place {
    fn new(more: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), http: free_port(), admin: free_port() };
        let bucket = place.dir.path().join("bucket");
        let drain = if more.contains("drain:") { "" } else { "drain: {readinessDelay: 0ms}\n" };
        let settings = format!(
            "version: 1\n{drain}bucket: {{directory: {}}}\nhttp: 127.0.0.1:{}\nadmin: 127.0.0.1:{}\n{more}",
            bucket.display(),
            place.http,
            place.admin
        );
        std::fs::write(place.dir.path().join("settings.yaml"), settings).unwrap();
        let digest = serde_json::to_string(&spillway_ingest::key_digest(KEY)).unwrap();
        let tenants = format!("version: 1\ntenants: [{{name: acme, keys: [{digest}], projects: [shop]}}]\n");
        std::fs::write(place.dir.path().join("tenants.yaml"), tenants).unwrap();
        place
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway-ingest"));
        command.arg("--settings").arg(self.dir.path().join("settings.yaml"));
        command.arg("--tenants").arg(self.dir.path().join("tenants.yaml"));
        command.stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Process {
        let child = self.command().spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", self.http)).is_err() {
            assert!(Instant::now() < deadline, "the process does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Process(child)
    }

    /// 200, another status, or None when there was no answer.
    fn send(&self, message: &str, ack: &str) -> Option<u16> {
        use std::io::Read as _;
        let body = serde_json::json!({"logs": [{
            "project_id": "shop", "service": "api", "level": "info", "message": message,
            "timestamp": spillway_model::UnixNanos::now().to_string(),
        }]})
        .to_string();
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(
            stream,
            "POST /v1/drain HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nx-spillway-ack: {ack}\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    fn messages(&self) -> Vec<String> {
        let mut messages = Vec::new();
        let dir = self.dir.path().join("bucket/shop/api");
        let Ok(entries) = std::fs::read_dir(dir) else { return messages };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Ok(key) = ObjectKey::parse(&format!("shop/api/{name}")) else { continue };
            let rows = codec::decode(key.version, &std::fs::read(path).unwrap(), usize::MAX).unwrap();
            for line in rows.split_inclusive(|b| *b == b'\n') {
                messages.push(read_row(line).unwrap().message.into_owned());
            }
        }
        messages.sort();
        messages
    }
}

struct Process(Child);

impl Process {
    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    fn exit_code(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exits_with(place: &Place, code: i32, says: &str) {
    let output = place.command().output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "{text}");
    assert!(!text.contains(KEY));
}

#[test]
fn stopping_under_load_loses_nothing_and_stores_nothing_twice() {
    let place = Place::new("flush: {maxAge: 100ms}\n");
    let mut accepted = Vec::new();
    for round in 0..4 {
        let process = place.start();
        let stop_at = Instant::now() + Duration::from_millis(400);
        let senders = (0..4).map(|sender| {
            let place = &place;
            move || {
                let mut sent = Vec::new();
                for n in 0..10_000 {
                    let message = format!("{round}-{sender}-{n}");
                    let ack = if n % 2 == 0 { "durable" } else { "memory" };
                    match place.send(&message, ack) {
                        Some(200) => sent.push(message),
                        _ if Instant::now() > stop_at => break,
                        other => panic!("{other:?}"),
                    }
                }
                sent
            }
        });
        let sent: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = senders.map(|sender| scope.spawn(sender)).collect();
            std::thread::sleep(stop_at - Instant::now());
            process.signal("TERM");
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(process.exit_code(), Some(0));
        assert!(sent.len() > 8, "{}", sent.len());
        accepted.extend(sent);
    }
    accepted.sort();
    let stored = place.messages();
    // A request whose answer the stop cut off may be stored all the same: at most one per sender and round.
    let unanswered: Vec<_> = stored.iter().filter(|m| accepted.binary_search(m).is_err()).collect();
    assert!(unanswered.len() <= 16, "{unanswered:?}");
    let mut once = stored.clone();
    once.dedup();
    assert_eq!(once.len(), stored.len(), "stored twice");
    assert!(accepted.iter().all(|m| stored.binary_search(m).is_ok()), "accepted and not stored");
}

#[test]
fn what_keeps_it_from_starting_has_its_exit_code_and_is_said() {
    let place = Place::new("flush: {maxBytes: 0}\n");
    exits_with(&place, 2, "flush.maxBytes");
    let place = Place::new("");
    std::fs::write(place.dir.path().join("tenants.yaml"), "version: 9\ntenants: []\n").unwrap();
    exits_with(&place, 2, "version 9");
    let place = Place::new("");
    std::fs::remove_file(place.dir.path().join("settings.yaml")).unwrap();
    exits_with(&place, 2, "settings.yaml");
    let place = Place::new("tls: {certFile: /nowhere/tls.crt, keyFile: /nowhere/tls.key}\n");
    exits_with(&place, 2, "/nowhere/tls.crt can't be read");
    let place = Place::new("");
    let _taken = std::net::TcpListener::bind(("127.0.0.1", place.http)).unwrap();
    exits_with(&place, 3, &place.http.to_string());
}

#[test]
fn records_lost_at_the_deadline_make_it_fail_and_a_second_signal_ends_it() {
    let place = Place::new("flush: {maxAge: 1h}\ndrain: {readinessDelay: 0ms, flushTimeout: 500ms}\n");
    let blocked = place.dir.path().join("bucket/shop");
    let process = place.start();
    // A file where the project's directory would be: no object can be written.
    std::fs::write(&blocked, "in the way").unwrap();
    assert_eq!(place.send("lost", "memory"), Some(200));
    process.signal("TERM");
    assert_eq!(process.exit_code(), Some(4));
    assert!(Path::new(&blocked).is_file());

    let place = Place::new("flush: {maxAge: 1h}\ndrain: {readinessDelay: 0ms, flushTimeout: 60s}\n");
    let process = place.start();
    std::fs::write(place.dir.path().join("bucket/shop"), "in the way").unwrap();
    assert_eq!(place.send("lost", "memory"), Some(200));
    process.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    process.signal("INT");
    assert_eq!(process.exit_code(), Some(5));
}

fn drain(admin: u16) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway-ingest"));
    let output = command.args(["drain", "--admin", &format!("127.0.0.1:{admin}")]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The status of a GET from an address of this machine.
fn get(from: &str, port: u16, path: &str) -> u16 {
    use std::io::Read as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(([127, 0, 0, 1], port).into()).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    let mut stream = stream;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_drain_command_waits_for_the_process_and_ends_well_without_one() {
    let place = Place::new("drain: {readinessDelay: 1200ms}\n");
    let (code, log) = drain(place.admin);
    assert_eq!(code, Some(0), "nobody is there: {log}");
    let process = place.start();
    let started = Instant::now();
    let (code, log) = drain(place.admin);
    assert_eq!(code, Some(0), "{log}");
    assert!(started.elapsed() >= Duration::from_millis(1200), "{:?}", started.elapsed());
    assert_eq!(get("127.0.0.1", place.admin, "/readyz"), 503);
    assert_eq!(place.send("late", "durable"), Some(200), "requests are taken until SIGTERM");
    process.signal("TERM");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn nobody_else_may_drain() {
    let place = Place::new("drain: {readinessDelay: 10s}\n");
    let process = place.start();
    // As a service mesh's proxy hands on what somebody else has sent.
    assert_eq!(get("127.0.0.6", place.admin, "/drain"), 403);
    assert_eq!(
        get("127.0.0.6", place.admin, "/readyz"),
        200,
        "nothing happened, and probes come from elsewhere"
    );
    drop(process);
}

#[test]
fn without_a_bucket_or_tenants_at_the_start_it_waits_for_them() {
    let place = Place::new("ackTimeout: 300ms\ndrain: {readinessDelay: 0ms, flushTimeout: 300ms}\n");
    let path = place.dir.path().join("settings.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.starts_with("bucket:")).unwrap();
    let bucket =
        format!("bucket: {{s3: {{bucket: b, region: r, endpoint: \"http://127.0.0.1:{}\"}}}}", free_port());
    std::fs::write(&path, text.replace(line, &bucket)).unwrap();
    let tenants = place.dir.path().join("tenants.yaml");
    let later = std::fs::read(&tenants).unwrap();
    std::fs::remove_file(&tenants).unwrap();
    std::fs::create_dir(&tenants).unwrap();
    let process = place.start();
    assert_eq!(get("127.0.0.1", place.admin, "/readyz"), 200);
    assert_eq!(place.send("m", "durable"), Some(503), "no tenants yet");
    std::fs::write(tenants.join("tenants-0.json"), later).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while place.send("m", "memory") != Some(200) {
        assert!(Instant::now() < deadline, "the tenants are never known");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(place.send("m", "durable"), Some(503), "not yet durable");
    process.signal("TERM");
    assert_eq!(process.exit_code(), Some(4));
}
