//! The program itself, with the embedded ClickHouse.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.yaml");

/// `spillway up` with ports of its own.
struct Up {
    http: u16,
    admin: u16,
    syncer_admin: u16,
    clickhouse: u16,
    args: Vec<String>,
}

impl Up {
    fn new(data: &Path) -> Self {
        // Free now; whoever takes one in between makes the test fail loudly.
        let listeners: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let address = |port: u16| format!("127.0.0.1:{port}");
        let args = [
            ["--data".to_owned(), data.to_string_lossy().into_owned()],
            ["--http".to_owned(), address(ports[0])],
            ["--admin".to_owned(), address(ports[1])],
            ["--syncer-admin".to_owned(), address(ports[2])],
            ["--clickhouse-port".to_owned(), ports[3].to_string()],
        ];
        Self {
            http: ports[0],
            admin: ports[1],
            syncer_admin: ports[2],
            clickhouse: ports[3],
            args: args.concat(),
        }
    }

    fn command(&self, file: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command.arg("up").arg("-f").arg(file).args(&self.args).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, file: &Path, more: &[&str]) -> Output {
        self.command(file, more).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One request, whole; only for small answers.
fn ask(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn drain(port: u16, key: &str) -> String {
    let now = jiff::Timestamp::now();
    let body = format!(
        r#"{{"logs":[{{"project_id":"acme-shop","timestamp":"{now}","level":"info","service":"web","message":"hello"}}]}}"#
    );
    let length = body.len();
    ask(
        port,
        &format!(
            "POST /v1/drain HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
}

fn query(port: u16, sql: &str) -> String {
    let length = sql.len();
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}");
    let answer = ask(port, &format!("{head}\r\n\r\n{sql}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
}

fn rows(port: u16) -> String {
    let body = query(port, "SELECT count() FROM spillway.logs");
    // In chunks or not: the figure is the last line that is neither empty nor the length of the last chunk.
    body.lines().map(str::trim).rfind(|line| !line.is_empty() && *line != "0").unwrap_or("0").to_owned()
}

/// Names of the metrics that a process offers.
fn metrics(port: u16) -> Vec<String> {
    let answer = ask(port, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let types = answer.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} never happened");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn the_demo_shows_its_logs_coming_back_and_ends_well() {
    let data = tempfile::tempdir().unwrap();
    let output = Up::new(data.path()).run(Path::new(QUICKSTART), &["--demo", "--once"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    for shown in ["acme-shop", "globex-mobile", "checkout", "catalog", "accounts", "300 records", "/v1/drain"]
    {
        assert!(stdout.contains(shown), "{shown} is not in:\n{stdout}");
    }
}

#[test]
fn a_record_is_still_there_after_a_drain_and_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let up = Up::new(data.path());
    for expected in ["1", "2"] {
        let mut child = up.command(Path::new(QUICKSTART), &["--log", "text"]).spawn().unwrap();
        until("the port opens", || TcpStream::connect(("127.0.0.1", up.http)).is_ok());
        assert!(drain(up.http, "acme-quickstart-key").contains("accepted"));
        until("the row is there", || rows(up.clickhouse) == expected);
        signal(&child, rustix::process::Signal::TERM);
        let status = child.wait().unwrap();
        let mut logs = String::new();
        child.stderr.take().unwrap().read_to_string(&mut logs).unwrap();
        assert_eq!(status.code(), Some(0), "{logs}");
        assert!(!logs.contains("quickstart-key"), "a key is in the logs:\n{logs}");
    }
}

/// Another command about the pipeline that `up` runs.
fn about(up: &Up, data: &Path, args: &[&str]) -> (Option<i32>, String) {
    let port = up.clickhouse.to_string();
    let place =
        ["-f", QUICKSTART, "--data", &data.to_string_lossy(), "--clickhouse-port", &port].map(str::to_owned);
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    let output = command.args(args).args(place).output().unwrap();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn an_audit_agrees_with_what_was_sent_until_somebody_doubles_a_row() {
    let data = tempfile::tempdir().unwrap();
    let up = Up::new(data.path());
    let mut child = up.command(Path::new(QUICKSTART), &[]).stderr(Stdio::null()).spawn().unwrap();
    until("the port opens", || TcpStream::connect(("127.0.0.1", up.http)).is_ok());
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let sent = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(["send", "-f", QUICKSTART, "--records", "3000", "--url", &url(up.http)])
        .args(["--clickhouse", &url(up.clickhouse)])
        .output()
        .unwrap();
    let verdict = text(&sent.stderr);
    assert_eq!(sent.status.code(), Some(0), "{verdict}");
    assert!(verdict.contains("acknowledged=3000 rows=3000 missing=0 duplicated=0"), "{verdict}");

    let audit = || about(&up, data.path(), &["audit", "--metrics", &url(up.admin)]);
    let (code, report) = audit();
    assert_eq!(code, Some(0), "{report}");
    until("the syncer says how it is", || {
        let (code, report) = about(&up, data.path(), &["status", "--metrics", &url(up.admin)]);
        code == Some(0) && report.contains("\"stagedRecords\":3000") && report.contains("\"loaded\":1500")
    });
    let (code, report) = about(&up, data.path(), &["dead-letters", "list"]);
    assert!(code == Some(0) && report.trim() == "[]", "{report}");

    query(up.clickhouse, "INSERT INTO spillway.logs SELECT * FROM spillway.logs LIMIT 1");
    let (code, report) = audit();
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains("more than once"), "{report}");
    signal(&child, rustix::process::Signal::TERM);
    child.wait().unwrap();
}

#[test]
fn every_metric_is_on_the_metrics_page() {
    let data = tempfile::tempdir().unwrap();
    let up = Up::new(data.path());
    let mut child = up.command(Path::new(QUICKSTART), &[]).stderr(Stdio::null()).spawn().unwrap();
    until("the port opens", || TcpStream::connect(("127.0.0.1", up.http)).is_ok());
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let mut missing = Vec::new();
    for (part, port) in [("spillway_ingest", up.admin), ("spillway_syncer", up.syncer_admin)] {
        let names = metrics(port);
        assert!(names.len() > 10, "{names:?}");
        missing.extend(names.into_iter().filter(|name| !page.contains(name.trim_start_matches(part))));
    }
    signal(&child, rustix::process::Signal::TERM);
    child.wait().unwrap();
    assert!(missing.is_empty(), "docs/metrics.md does not speak of {missing:?}");
}

#[test]
fn a_taken_port_ends_it_with_3_and_the_name_of_the_flag() {
    let data = tempfile::tempdir().unwrap();
    let up = Up::new(data.path());
    for (flag, port) in [("--http", up.http), ("--clickhouse-port", up.clickhouse)] {
        let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let output = up.run(Path::new(QUICKSTART), &[]);
        drop(taken);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains(flag) && stderr.contains(&port.to_string()), "{stderr}");
    }
}

#[test]
fn a_file_that_can_not_be_run_ends_it_with_2_and_all_of_its_mistakes() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("pipeline.yaml");
    let text_of = |spec: &str| {
        format!("apiVersion: spillway.dev/v1alpha1\nkind: LogPipeline\nmetadata: {{name: p}}\nspec: {spec}\n")
    };
    for (spec, shown) in [
        ("{ingest: {flsh: {}}}", vec!["spec.ingest.flsh"]),
        (
            "{schema: {retentionDays: 0}, syncer: {interval: soon}}",
            vec!["spec.schema.retentionDays", "spec.syncer.interval"],
        ),
        (
            "{tenants: [{name: a, projects: [p], apiKeysSecretRef: {name: missing}}]}",
            vec!["spec.tenants[0].apiKeysSecretRef", "missing"],
        ),
    ] {
        fs::write(&file, text_of(spec)).unwrap();
        let output = Up::new(data.path()).run(&file, &[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        for shown in shown {
            assert!(stderr.contains(shown), "{shown} is not in: {stderr}");
        }
    }
}

#[test]
fn a_clickhouse_that_can_not_start_ends_it_with_3_and_the_end_of_its_log() {
    let parent = tempfile::tempdir().unwrap();
    // The engine reads such names as patterns.
    let output = Up::new(&parent.path().join("data[1]")).run(Path::new(QUICKSTART), &[]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("did not begin to answer") && stderr.contains("pattern"), "{stderr}");
}

#[test]
fn without_python_it_says_what_to_install() {
    let data = tempfile::tempdir().unwrap();
    let mut command = Up::new(data.path()).command(Path::new(QUICKSTART), &[]);
    let output = command.env("PATH", data.path()).env("XDG_CACHE_HOME", data.path()).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("python3") && stderr.contains("spec.clickhouse.url"), "{stderr}");
}
