use std::borrow::Cow;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::record::Severity;
use crate::time::{UnixMs, UnixNanos};

fn text() -> impl Strategy<Value = Cow<'static, str>> {
    prop_oneof![
        4 => Just(Cow::Borrowed("")),
        2 => "[a-z ]{1,20}".prop_map(Cow::Owned),
        2 => ".{0,40}".prop_map(Cow::Owned),
        1 => any::<String>().prop_map(Cow::Owned),
        1 => "[\\x00-\\x1f\"\\\\/\u{7f}\u{2028}😀é]{0,12}".prop_map(Cow::Owned),
    ]
}

fn list() -> impl Strategy<Value = Vec<Cow<'static, str>>> {
    prop::collection::vec(text(), 0..4)
}

fn map() -> impl Strategy<Value = crate::record::TextMap<'static>> {
    prop::collection::vec((text(), text()), 0..4)
}

prop_compose! {
    fn record()(
        texts in prop::collection::vec(text(), 16),
        lists in prop::collection::vec(list(), 3),
        maps in prop::collection::vec(map(), 3),
        id: u128,
        nanos: [i64; 2],
        received in 0i64..253_402_300_800_000,
        severity in 0usize..7,
        small: (u8, u16, u16),
        large: (u32, u64),
        floats: (f64, f64),
        handled: bool,
    ) -> Record<'static> {
        let mut texts = texts.into_iter();
        let mut text = || texts.next().unwrap_or_default();
        let mut lists = lists.into_iter();
        let mut maps = maps.into_iter();
        Record {
            id: Uuid::from_u128(id),
            project_id: text(),
            service: text(),
            timestamp: UnixNanos(nanos[0]),
            observed_timestamp: UnixNanos(nanos[1]),
            received_at: UnixMs(received),
            severity: Severity::ALL[severity],
            severity_number: small.0,
            severity_text: text(),
            message: text(),
            body: text(),
            trace_id: text(),
            user_id: text(),
            source_line: large.0,
            kind: text(),
            tags: lists.next().unwrap_or_default(),
            attributes: maps.next().unwrap_or_default(),
            data: maps.next().unwrap_or_default(),
            related_id: lists.next().unwrap_or_default(),
            http_status_code: small.1,
            http_response_size: large.1,
            http_duration_ms: floats.0,
            metric_value: floats.1,
            error_stack: text(),
            error_handled: handled,
            resource_attributes: maps.next().unwrap_or_default(),
            sdk_language: text(),
            retention_days: small.2,
            request_id: text(),
            ..Record::default()
        }
    }
}

fn written(record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_row(&mut out, record);
    out
}

/// Equality that holds for NaN.
fn same(a: &Record<'_>, b: &Record<'_>) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

proptest! {
    #[test]
    fn a_row_gives_back_the_record_it_was_written_from(record in record()) {
        let row = written(&record);
        let back = read_row(&row).unwrap();
        prop_assert!(same(&back, &record), "{}", String::from_utf8_lossy(&row));
    }

    #[test]
    fn the_fast_reader_and_the_general_one_agree_on_what_is_written(record in record()) {
        let row = written(&record);
        let text = std::str::from_utf8(&row).unwrap();
        let slow = read_any(text).unwrap();
        prop_assert!(same(&slow, &record));
        let odd_float = |v: f64| !v.is_finite();
        if !odd_float(record.http_duration_ms) && !odd_float(record.metric_value) {
            prop_assert!(same(&read_canonical(text).unwrap(), &record));
        }
    }

    #[test]
    fn what_the_fast_reader_takes_the_general_one_takes_alike(
        record in record(), at: prop::sample::Index, byte in prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'0'), Just(b'.'), Just(b'}')], insert: bool,
    ) {
        let mut row = written(&record);
        let at = at.index(row.len());
        if insert { row.insert(at, byte); } else { row[at] = byte; }
        if let Ok(text) = std::str::from_utf8(&row)
            && let Some(fast) = read_canonical(text)
        {
            let slow = read_any(text);
            prop_assert!(slow.as_ref().is_ok_and(|slow| same(slow, &fast)), "{text} {slow:?}");
        }
    }

    #[test]
    fn the_reader_never_panics(line: Vec<u8>) {
        let _ = read_row(&line);
    }

    #[test]
    fn a_row_is_one_line_and_valid_json(record in record()) {
        let row = written(&record);
        prop_assert_eq!(row.iter().filter(|b| **b == b'\n').count(), 1);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&row).is_ok());
    }
}

fn small() -> Record<'static> {
    Record {
        id: Uuid::from_u128(1),
        project_id: "shop".into(),
        service: "api".into(),
        message: "say \"hi\"\n".into(),
        severity: Severity::Info,
        timestamp: UnixNanos(1_769_903_999_000_000_001),
        received_at: UnixMs(1_769_904_000_000),
        retention_days: 30,
        ..Record::default()
    }
}

#[test]
fn a_row_looks_like_this() {
    assert_eq!(
        String::from_utf8(written(&small())).unwrap(),
        concat!(
            r#"{"id":"00000000-0000-0000-0000-000000000001","project_id":"shop","service":"api","#,
            r#""timestamp":"2026-01-31 23:59:59.000000001","received_at":"2026-02-01 00:00:00.000","#,
            r#""severity":"info","message":"say \"hi\"\n","retention_days":30}"#,
            "\n"
        )
    );
}

#[test]
fn a_row_in_another_order_and_spacing_is_read_alike() {
    let row = br#" { "message" : "say \u0022hi\u0022\n", "retention_days": 30,
        "received_at":"2026-02-01T00:00:00Z", "severity":"info", "service":"api", "project_id":"sh\u006fp",
        "timestamp":"2026-01-31 23:59:59.000000001", "id":"00000000-0000-0000-0000-000000000001" } "#;
    assert_eq!(read_row(row).unwrap(), small());
}

#[test]
fn a_wrong_row_is_refused_with_the_column_at_fault() {
    let row = String::from_utf8(written(&small())).unwrap();
    let cases = [
        (row.replace("\"message\"", "\"massage\""), "unknown_column"),
        (row.replace(",\"retention_days\":30", ""), "missing_column"),
        (row.replace("\"info\"", "\"loud\""), "bad_value"),
        (row.replace("\"service\":\"api\"", "\"service\":\"a\",\"service\":\"b\""), "duplicate_column"),
        (row.replace(":30}", ":70000}"), "bad_value"),
        (row.replace(":30}", ":-1}"), "bad_value"),
        (row.replace(":30}", ":30"), "malformed_row"),
        (row.replace(":30}", ":30,}"), "malformed_row"),
        (row.replace(":30}", ":30}{}"), "malformed_row"),
        (row.replace("2026-01-31 23", "2026-01-32 23"), "bad_value"),
        ("[]".to_owned(), "malformed_row"),
        (String::new(), "malformed_row"),
    ];
    for (row, reason) in cases {
        let error = read_row(row.as_bytes()).unwrap_err();
        assert_eq!(error.reason(), reason, "{row} {error}");
    }
    assert_eq!(read_row(b"\xff").unwrap_err(), RowError::NotUtf8 { at: 0 });
}
