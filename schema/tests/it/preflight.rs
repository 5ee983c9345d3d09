//! What is said about a server that cannot be worked with, and what is concluded from its answers.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use crate::engine::Engine;
use spillway_model::UnixMs;
use spillway_model::settings::ClickHouseSettings;
use spillway_schema::preflight::{PreflightError, check_server};
use spillway_schema::{ClickHouse, ClickHouseError};

/// A server that gives these answers, one per connection, whatever it is asked.
fn scripted(answers: Vec<String>) -> ClickHouse {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            // Statements are small: when nothing more comes, the request is there.
            let mut buffer = [0; 16 * 1024];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    ClickHouse::connect(&ClickHouseSettings { url, ..ClickHouseSettings::default() }).unwrap()
}

fn answer(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

#[tokio::test]
async fn a_server_that_is_too_old_is_named_with_the_remedy() {
    let client = scripted(vec![answer("", "{\"version\":\"23.8.16.40\"}\n")]);
    let error = check_server(&client).await.unwrap_err();
    assert_eq!(error.reason(), "ClickHouseTooOld");
    assert_eq!(
        error.to_string(),
        "ClickHouse 23.8.16 is too old: 24.8.0 or later is needed; upgrade the server"
    );
}

#[tokio::test]
async fn a_server_that_lacks_a_setting_is_refused_by_its_name() {
    let client = scripted(vec![
        answer("", "{\"version\":\"27.1.1.1\"}\n"),
        answer("", "{\"name\":\"insert_deduplicate\"}\n"),
    ]);
    let error = check_server(&client).await.unwrap_err();
    assert_eq!(error.reason(), "UnknownSettings");
    assert!(error.to_string().contains("insert_deduplication_token"), "{error}");
}

#[tokio::test]
async fn a_clock_ten_minutes_ahead_is_an_error() {
    let engine = Engine::start();
    let names: Vec<serde_json::Value> =
        engine.client().query_json("SELECT name FROM system.settings", &[]).await.unwrap();
    let names: String = names.iter().map(|name| format!("{name}\n")).collect();
    let ahead = UnixMs::now().0 + 600_000;
    let client = scripted(vec![
        answer("", "{\"version\":\"26.9.2.1\"}\n"),
        answer("", &names),
        answer("", &format!("{{\"ms\":{ahead}}}\n")),
    ]);
    let error = check_server(&client).await.unwrap_err();
    assert!(matches!(error, PreflightError::ClockSkew { skew_ms } if (590_000..610_000).contains(&skew_ms)));
    assert!(error.to_string().contains("ahead of ours"), "{error}");
}

#[tokio::test]
async fn a_success_with_an_exception_header_is_a_refusal() {
    let client = scripted(vec![answer("X-ClickHouse-Exception-Code: 209\r\n", "")]);
    let error = client.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(209));
    assert!(error.may_have_happened());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unclear() {
    for cut in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"] {
        let client = scripted(vec![cut.to_owned()]);
        let error = client.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap_err();
        assert!(matches!(error, ClickHouseError::Unclear { .. }), "{cut:?}: {error}");
    }
}

#[tokio::test]
async fn a_rotated_password_counts_at_the_next_request_and_never_shows() {
    let files = tempfile::tempdir().unwrap();
    let password_file = files.path().join("server");
    std::fs::write(&password_file, "new-secret").unwrap();
    let engine =
        Engine::start_with(&["--user", "loader", "--password-file", password_file.to_str().unwrap()]);
    let credentials_dir = files.path().join("credentials");
    std::fs::create_dir(&credentials_dir).unwrap();
    std::fs::write(credentials_dir.join("username"), "loader").unwrap();
    std::fs::write(credentials_dir.join("password"), "old-secret\n").unwrap();
    let client = ClickHouse::connect(&ClickHouseSettings {
        url: engine.url().to_owned(),
        credentials_dir: Some(credentials_dir.clone()),
        ..ClickHouseSettings::default()
    })
    .unwrap();

    let denied = client.execute("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(denied.reason(), "Denied", "{denied}");
    assert!(!format!("{denied:?} {denied} {client:?}").contains("old-secret"));

    std::fs::write(credentials_dir.join("password"), "new-secret\n").unwrap();
    client.execute("SELECT 1", &[]).await.unwrap();
}
