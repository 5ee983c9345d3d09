//! What a client is told, and what is stored when it is told so.

use std::io::Write as _;

use crate::common::{Ingest, KEY, OTHER_KEY, answer, logs, record, settings, tenant};
use serde_json::json;
use spillway_model::settings::{Ack, ByteSize, LimitSettings, Span};

fn reasons(body: &serde_json::Value) -> Vec<(u64, &str, &str)> {
    let errors = body["errors"].as_array().unwrap();
    let text = |e: &'_ serde_json::Value, k: &str| e[k].as_str().unwrap().to_owned().leak() as &str;
    errors.iter().map(|e| (e["index"].as_u64().unwrap(), text(e, "field"), text(e, "reason"))).collect()
}

#[tokio::test]
async fn an_accepted_request_is_in_the_bucket_when_it_is_answered() {
    let ingest = Ingest::start(settings()).await;
    let response = ingest
        .post(logs(&[record("shop", "api", "one"), record("blog", "web", "two")]))
        .header("x-request-id", "req-7")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-spillway-ack"], "durable");
    assert_eq!(response.headers()["x-request-id"], "req-7");
    assert_eq!(response.text().await.unwrap(), r#"{"status":"accepted"}"#);
    assert_eq!(ingest.bucket.messages(), ["one", "two"]);
    let keys = ingest.bucket.keys();
    assert!(keys[0].starts_with("blog/web/") && keys[1].starts_with("shop/api/"), "{keys:?}");
}

#[tokio::test]
async fn a_bare_key_ndjson_gzip_and_zstd_are_taken() {
    let ingest = Ingest::start(settings()).await;
    let bare = ingest
        .client
        .post(format!("{}/v1/drain", ingest.url))
        .header("authorization", KEY)
        .body(logs(&[record("shop", "api", "bare")]));
    assert_eq!(answer(bare).await.0, 200);

    let lines = format!("{}\n{}\n", record("shop", "api", "line 1"), record("shop", "api", "line 2"));
    let ndjson = ingest.post(lines).header("content-type", "application/x-ndjson; charset=utf-8");
    // reqwest appends headers: the first content type is replaced by building the request anew.
    let mut request = ndjson.build().unwrap();
    request.headers_mut().insert("content-type", "application/x-ndjson; charset=utf-8".parse().unwrap());
    assert_eq!(ingest.client.execute(request).await.unwrap().status(), 200);

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(logs(&[record("shop", "api", "gzip")]).as_bytes()).unwrap();
    let gzip = ingest.post(gzip.finish().unwrap()).header("content-encoding", "gzip");
    assert_eq!(answer(gzip).await.0, 200);

    let zstd = zstd::encode_all(logs(&[record("shop", "api", "zstd")]).as_bytes(), 1).unwrap();
    let zstd = ingest.post(zstd).header("content-encoding", "zstd");
    assert_eq!(answer(zstd).await.0, 200);
    assert_eq!(ingest.bucket.messages(), ["bare", "gzip", "line 1", "line 2", "zstd"]);
}

#[tokio::test]
async fn bad_records_are_named_and_the_good_ones_stored() {
    let ingest = Ingest::start(settings()).await;
    let mut no_level = record("shop", "api", "x");
    no_level.as_object_mut().unwrap().remove("level");
    let mut old = record("shop", "api", "x");
    old["timestamp"] = json!("1999-12-31T23:59:59Z");
    let mut future = record("shop", "api", "x");
    future["timestamp"] = json!("2199-12-31");
    let (status, body) = ingest
        .send(logs(&[
            record("shop", "api", "good"),
            no_level,
            record("shop", "", "x"),
            record("shop", "../../etc", "x"),
            record("shop", &"s".repeat(1000), "x"),
            record("shop", "a\u{0}b", "x"),
            record("../shop", "api", "x"),
            old,
            future,
            record("shop", "api", &"x".repeat(2 << 20)),
            json!("no record"),
            record("shop", "api", "good too"),
        ]))
        .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        (&body["status"], &body["accepted"], &body["rejected"]),
        (&json!("partial"), &json!(2), &json!(10))
    );
    assert_eq!(
        reasons(&body),
        [
            (1, "level", "missing"),
            (2, "service", "empty"),
            (3, "service", "path_separator"),
            (4, "service", "too_long"),
            (5, "service", "control_character"),
            (6, "project_id", "path_separator"),
            (7, "timestamp", "past_retention"),
            (8, "timestamp", "in_future"),
            (9, "", "too_large"),
            (10, "", "wrong_type"),
        ]
    );
    assert_eq!(ingest.bucket.messages(), ["good", "good too"]);
}

#[tokio::test]
async fn a_request_without_a_good_record_is_a_bad_request() {
    let ingest = Ingest::start(settings()).await;
    for body in [logs(&[]), logs(&[record("shop", "", "x")])] {
        let (status, body) = ingest.send(body).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("no_good_record")), "{body}");
    }
    let many = vec![record("shop", "", "x"); 250];
    let (status, body) = ingest.send(logs(&many)).await;
    assert_eq!((status, reasons(&body).len(), &body["moreErrors"]), (400, 100, &json!(150)));
    assert!(ingest.bucket.keys().is_empty());
}

#[tokio::test]
async fn a_strangers_project_is_forbidden_and_nothing_is_stored() {
    let ingest = Ingest::start(settings()).await;
    for (key, records) in [
        (KEY, [record("shop", "api", "mine"), record("bank", "api", "theirs")]),
        (OTHER_KEY, [record("bank", "api", "mine"), record("nobodys", "api", "x")]),
    ] {
        let request = ingest
            .client
            .post(format!("{}/v1/drain", ingest.url))
            .header("authorization", key)
            .body(logs(&records));
        let (status, body) = answer(request).await;
        assert_eq!((status, &body["error"]["code"]), (403, &json!("foreign_project")), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("record 1"), "{body}");
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(ingest.bucket.keys().is_empty());
}

#[tokio::test]
async fn nobody_gets_in_without_a_key() {
    let ingest = Ingest::start(settings()).await;
    for authorization in [None, Some(""), Some("Bearer "), Some("Bearer wrong"), Some("Basic a2V5")] {
        let mut request =
            ingest.client.post(format!("{}/v1/drain", ingest.url)).body(logs(&[record("shop", "api", "x")]));
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let (status, body) = answer(request).await;
        assert_eq!(status, 401, "{authorization:?} {body}");
    }
    assert!(ingest.bucket.keys().is_empty());
}

#[tokio::test]
async fn what_can_not_be_read_is_refused_with_what_and_where() {
    let mut settings = settings();
    settings.request.max_body_bytes = ByteSize(20_000);
    settings.request.max_expanded_bytes = ByteSize(50_000);
    settings.request.max_records = 20;
    let ingest = Ingest::start(settings).await;
    let bomb = zstd::encode_all(&vec![b' '; 1 << 20][..], 1).unwrap();
    let many = logs(&vec![record("shop", "api", "x"); 21]);
    let good = logs(&[record("shop", "api", "x")]);
    let cases: Vec<(Vec<u8>, &str, u16, &str, &str)> = vec![
        (b"".to_vec(), "", 400, "empty_body", "empty"),
        (b"{\"logs\":[{}\n,}".to_vec(), "", 400, "malformed_json", "line 2, column"),
        (b"{\"logs\":[\"\xff\"]}".to_vec(), "", 400, "not_utf8", "byte 10"),
        (b"{}".to_vec(), "", 400, "no_logs", "logs"),
        (vec![b' '; 20_001], "", 413, "body_too_large", "20000"),
        (many.into_bytes(), "", 413, "too_many_records", "20"),
        (bomb, "zstd", 413, "body_expands_too_far", "50000"),
        (good.clone().into_bytes(), "gzip", 400, "corrupt_body", "gzip"),
        (good.into_bytes(), "br", 415, "unknown_encoding", "br"),
    ];
    for (body, encoding, status, code, hint) in cases {
        let mut request = ingest.post(body);
        if !encoding.is_empty() {
            request = request.header("content-encoding", encoding);
        }
        let (got, body) = answer(request).await;
        assert_eq!((got, &body["error"]["code"]), (status, &json!(code)), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(hint), "{body}");
    }
    let (status, _) = answer(ingest.post("{}").header("x-spillway-ack", "maybe")).await;
    assert_eq!(status, 400);
    for path in ["/", "/v1/other"] {
        assert_eq!(ingest.get(&format!("{}{path}", ingest.url)).await.0, 404);
    }
    assert_eq!(ingest.get(&format!("{}/v1/drain", ingest.url)).await.0, 405);
    assert!(ingest.bucket.keys().is_empty());
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_refused_while_it_comes() {
    let mut settings = settings();
    settings.request.max_body_bytes = ByteSize(100_000);
    let ingest = Ingest::start(settings).await;
    let chunks = futures::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 10_000])));
    let (status, body) = ingest.send(reqwest::Body::wrap_stream(chunks)).await;
    assert_eq!((status, &body["error"]["code"]), (413, &json!("body_too_large")));
}

#[tokio::test]
async fn a_tenant_over_its_rate_is_told_when_to_come_back() {
    let limits = LimitSettings { records_per_second: Some(10), ..LimitSettings::default() };
    let tenants = vec![
        tenant("acme", KEY, &["shop"], limits),
        tenant("other", OTHER_KEY, &["bank"], LimitSettings::default()),
    ];
    let ingest = Ingest::start_with(settings(), tenants).await;
    assert_eq!(ingest.send(logs(&vec![record("shop", "api", "x"); 45])).await.0, 200);
    let response = ingest.post(logs(&[record("shop", "api", "x")])).send().await.unwrap();
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=4).contains(&wait), "{wait}");
    let other = ingest
        .client
        .post(format!("{}/v1/drain", ingest.url))
        .header("authorization", OTHER_KEY)
        .body(logs(&[record("bank", "api", "x")]));
    assert_eq!(answer(other).await.0, 200, "another tenant is not held up");
}

#[tokio::test]
async fn the_acknowledgement_is_the_pipelines_or_the_requests() {
    let mut settings = settings();
    settings.ack = Ack::Memory;
    settings.flush.max_age = Span::secs(60);
    let ingest = Ingest::start(settings).await;
    let response = ingest.post(logs(&[record("shop", "api", "x")])).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-spillway-ack"]),
        (200, &"memory".parse().unwrap())
    );
    assert!(ingest.bucket.keys().is_empty(), "acknowledged before it was staged");
    let report = ingest.stop().await;
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test]
async fn probes_and_metrics_answer() {
    let ingest = Ingest::start(settings()).await;
    ingest.send(logs(&[record("shop", "api", "x"), record("shop", "", "x")])).await;
    for base in [&ingest.url, &ingest.admin] {
        for path in ["/livez", "/readyz", "/health"] {
            assert_eq!(ingest.get(&format!("{base}{path}")).await.0, 200, "{path}");
        }
    }
    let metrics = ingest.metrics().await;
    for line in [
        r#"spillway_ingest_received_records_total{tenant="acme"} 2"#,
        r#"spillway_ingest_rejected_records_total{tenant="acme",reason="empty"} 1"#,
        r#"spillway_ingest_staged_records_total{tenant="acme",project="shop"} 1"#,
        r#"spillway_ingest_requests_total{code="200"} 1"#,
        r#"spillway_ingest_puts_total{outcome="created"} 1"#,
    ] {
        assert!(metrics.0.lines().any(|l| l == line), "{line} is not in\n{}", metrics.0);
    }
    assert!(!metrics.0.contains(KEY));
    // Ready goes off with /drain; requests are still taken.
    assert_eq!(ingest.get(&format!("{}/drain", ingest.admin)).await.0, 200);
    assert_eq!(ingest.get(&format!("{}/readyz", ingest.url)).await.0, 503);
    assert_eq!(ingest.send(logs(&[record("shop", "api", "late")])).await.0, 200);
}

#[tokio::test]
async fn who_keeps_a_connection_is_told_to_open_another_before_this_one_is_closed() {
    let ingest = Ingest::start(settings()).await;
    let kept = kept_connection(&ingest).await;
    assert!(!kept.contains("connection: close"), "{kept}");
    assert_eq!(ingest.get(&format!("{}/drain", ingest.admin)).await.0, 200);
    let kept = kept_connection(&ingest).await;
    assert!(kept.starts_with("HTTP/1.1 200") && kept.contains("connection: close"), "{kept}");
}

/// What a request on a connection that could be kept is answered.
async fn kept_connection(ingest: &Ingest) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(ingest.url.trim_start_matches("http://")).await.unwrap();
    let body = logs(&[record("shop", "api", "kept")]);
    let head = format!(
        "POST /v1/drain HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let bytes = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..bytes]).to_lowercase().replacen("http", "HTTP", 1)
}

/// Sends only a header, and what comes back within a second.
async fn header_only(ingest: &Ingest, token: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(ingest.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /v1/drain HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer);
    let bytes = tokio::time::timeout(std::time::Duration::from_secs(1), read).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..bytes]).into_owned()
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body() {
    let limits = LimitSettings { records_per_second: Some(1), ..LimitSettings::default() };
    let tenants = vec![
        tenant("acme", KEY, &["shop"], limits),
        tenant("other", OTHER_KEY, &["bank"], LimitSettings::default()),
    ];
    let mut settings = settings();
    settings.queue.max_bytes = ByteSize(1 << 20);
    settings.flush.max_bytes = ByteSize(1 << 20);
    settings.queue.tenant_share = 0.05;
    let ingest = Ingest::start_with(settings, tenants).await;
    ingest.send(logs(&vec![record("shop", "api", "x"); 10])).await;
    assert!(header_only(&ingest, KEY).await.starts_with("HTTP/1.1 429 "));
    assert!(header_only(&ingest, "nobody").await.starts_with("HTTP/1.1 401 "));
    assert!(header_only(&ingest, OTHER_KEY).await.starts_with("HTTP/1.1 413 "), "larger than its share");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut settings = settings();
    settings.request.read_timeout = Span::ms(200);
    let ingest = Ingest::start(settings).await;
    let mut stream = tokio::net::TcpStream::connect(ingest.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /v1/drain HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let bytes = stream.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..bytes]).starts_with("HTTP/1.1 408 "));
    assert_eq!(ingest.metrics().await.sum("spillway_ingest_queue_requests"), 0.0);
}
