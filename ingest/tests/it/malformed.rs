//! Whatever is sent, it is answered with something below 500, and only good rows are stored.

use crate::common::{Ingest, KEY, settings};
use proptest::prelude::*;

fn record() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("\"shop\"".to_owned()),
        Just("\"bank\"".to_owned()),
        Just("\"..\"".to_owned()),
        Just("\"\\u0000\"".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        Just("\"2026-13-45T99:99:99Z\"".to_owned()),
        Just("null".to_owned()),
        Just("1e999".to_owned()),
        Just("-0".to_owned()),
        Just("[[[]]]".to_owned()),
        Just("{\"a\":{\"a\":{}}}".to_owned()),
        Just("tru".to_owned()),
        any::<String>().prop_map(|s| serde_json::Value::from(s).to_string()),
    ];
    let good = |field: &str| match field {
        "timestamp" => format!("\"{}\"", spillway_model::UnixNanos::now()),
        "project_id" => "\"shop\"".to_owned(),
        _ => "\"ok\"".to_owned(),
    };
    let fields = ["project_id", "timestamp", "level", "service", "message"];
    (prop::collection::vec((0usize..8, value), 0..3), any::<bool>()).prop_map(move |(changes, metadata)| {
        let mut texts: Vec<_> = fields.iter().map(|f| (*f, good(f))).collect();
        if metadata {
            texts.push(("metadata", "{\"a\":1}".to_owned()));
        }
        for (at, value) in changes {
            let at = at % texts.len();
            texts[at].1 = value;
        }
        let pairs: Vec<_> = texts.iter().map(|(f, v)| format!("\"{f}\":{v}")).collect();
        format!("{{{}}}", pairs.join(","))
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop::collection::vec(record(), 0..5).prop_map(|r| format!("{{\"logs\":[{}]}}", r.join(",")));
    let lines = prop::collection::vec(record(), 0..5).prop_map(|r| r.join("\n"));
    let text = prop_oneof![whole, lines];
    prop_oneof![
        1 => any::<Vec<u8>>(),
        4 => text.clone().prop_map(String::into_bytes),
        2 => (text, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
            let mut bytes = text.into_bytes();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        }),
    ]
}

#[test]
fn no_request_is_answered_with_a_server_error_and_no_bad_row_is_stored() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut quick = settings();
    quick.flush.max_age = spillway_model::settings::Span::ms(1);
    quick.max_puts_per_second = 100_000;
    let ingest = runtime.block_on(Ingest::start(quick));
    let types = ["application/json", "application/x-ndjson", "text/plain", ""];
    let encodings = ["", "", "", "gzip", "zstd", "br"];
    let mut accepted = 0;
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let strategy = (body(), 0usize..4, 0usize..6, "[ -~]{0,20}", any::<bool>());
    let total = std::cell::Cell::new(0u64);
    runner
        .run(&strategy, |(body, kind, encoding, token, right_key)| {
            let key = if right_key || token.len() < 15 { KEY.to_owned() } else { token };
            let mut request = ingest
                .client
                .post(format!("{}/v1/drain", ingest.url))
                .header("authorization", &key)
                .body(body);
            if !types[kind].is_empty() {
                request = request.header("content-type", types[kind]);
            }
            if !encodings[encoding].is_empty() {
                request = request.header("content-encoding", encodings[encoding]);
            }
            let (status, text) = runtime.block_on(async {
                let response = request.send().await.unwrap();
                (response.status().as_u16(), response.text().await.unwrap())
            });
            prop_assert!(status < 500, "{status} {text}");
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            if status == 200 {
                // "accepted" says no number: the staged count below does.
                total.set(total.get() + answer["accepted"].as_u64().unwrap_or(0));
            } else {
                prop_assert_eq!(&answer["status"], "error");
                prop_assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
            }
            Ok(())
        })
        .unwrap();
    // Decoding panics on a row that is not a good one or a key that says something else.
    for (project, service, message, _) in ingest.bucket.rows() {
        assert_eq!(project, "shop");
        assert!(spillway_model::ServiceName::check(&service).is_ok() && !message.is_empty());
        accepted += 1;
    }
    assert!(accepted >= total.get() && accepted > 20, "{accepted}");
    let (received, accounted) = runtime.block_on(ingest.metrics()).identity();
    assert_eq!(received, accounted);
    let report = runtime.block_on(ingest.stop());
    assert_eq!(report.exit_code(), 0);
}
