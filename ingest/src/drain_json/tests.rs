use proptest::prelude::*;

use super::*;

type Parsed = Vec<Result<Record<'static>, Refusal>>;

fn owned(record: &Record<'_>) -> Record<'static> {
    let own = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
    Record {
        project_id: own(&record.project_id),
        service: own(&record.service),
        timestamp: record.timestamp,
        severity: record.severity,
        severity_text: own(&record.severity_text),
        message: own(&record.message),
        trace_id: own(&record.trace_id),
        span_id: own(&record.span_id),
        session_id: own(&record.session_id),
        user_id: own(&record.user_id),
        attributes: record.attributes.iter().map(|(k, v)| (own(k), own(v))).collect(),
        ..Record::default()
    }
}

fn run(body: &[u8], format: Format) -> Result<Parsed, ParseError> {
    let mut seen = Vec::new();
    parse(body, format, 1000, &mut |record, fault| {
        seen.push(fault.map_or_else(|| Ok(owned(record)), Err));
    })?;
    Ok(seen)
}

const GOOD: &str = r#"{"project_id":"shop","timestamp":"2026-01-31T23:59:59Z","level":"INFO","service":"api","message":"hi"}"#;

fn reasons(body: &str, format: Format) -> Vec<(&'static str, &'static str)> {
    let label = |r: Result<_, Refusal>| r.map_or_else(|e| (e.field(), e.reason()), |_| ("", "ok"));
    run(body.as_bytes(), format).unwrap().into_iter().map(label).collect()
}

#[test]
fn metadata_is_promoted_or_kept() {
    let body = r#"{"logs":[{"project_id":"shop","timestamp":"2026-01-31 23:59:59","level":"warn","service":"api",
        "message":"a \"quote\"","metadata":{"trace_id":"t1","span_id":7,"session_id":null,"user_id":{"id":1},
        "text":"x\ny","n":1.50,"big":123456789012345678901234567890,"yes":true,"nothing":null,
        "list":[1, "a"],"deep":{"a":{"b":2}}},"host":"h1"}]}"#;
    let record = run(body.as_bytes(), Format::Logs).unwrap().remove(0).unwrap();
    assert_eq!(record.severity, Severity::Warn);
    assert_eq!(record.severity_text, "warn");
    assert_eq!(record.message, "a \"quote\"");
    assert_eq!((&*record.trace_id, &*record.span_id), ("t1", "7"));
    assert_eq!((&*record.session_id, &*record.user_id), ("", ""));
    let attributes: Vec<_> = record.attributes.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        attributes,
        [
            ("user_id", r#"{"id":1}"#),
            ("text", "x\ny"),
            ("n", "1.50"),
            ("big", "123456789012345678901234567890"),
            ("yes", "true"),
            ("list", r#"[1, "a"]"#),
            ("deep", r#"{"a":{"b":2}}"#),
            ("host", "h1"),
        ]
    );
}

#[test]
fn each_fault_is_named_by_field_and_reason() {
    let without = |field: &str| {
        let mut value: serde_json::Value = serde_json::from_str(GOOD).unwrap();
        value.as_object_mut().unwrap().remove(field);
        value
    };
    let with = |field: &str, new: serde_json::Value| {
        let mut value = without(field);
        value[field] = new;
        value
    };
    for field in ["project_id", "timestamp", "level", "service", "message"] {
        for (record, reason) in [
            (without(field), "missing"),
            (with(field, serde_json::Value::Null), "missing"),
            (with(field, "".into()), "empty"),
            (with(field, "  ".into()), "empty"),
            (with(field, 7.into()), "wrong_type"),
            (with(field, serde_json::json!([[1], {"a": {}}])), "wrong_type"),
            (with(field, serde_json::json!({"a": [{}]})), "wrong_type"),
        ] {
            let body = format!(r#"{{"logs":[{record},{GOOD}]}}"#);
            assert_eq!(reasons(&body, Format::Logs), [(field, reason), ("", "ok")], "{body}");
            let lines = format!("{record}\n\n{GOOD}\r\n");
            assert_eq!(reasons(&lines, Format::Lines), [(field, reason), ("", "ok")], "{lines}");
        }
    }
    for (metadata, expected) in [("7", "wrong_type"), ("[]", "wrong_type"), ("null", "ok"), ("{}", "ok")] {
        let body = format!(r#"{{"logs":[{}]}}"#, GOOD.replace("}", &format!(r#","metadata":{metadata}}}"#)));
        assert_eq!(reasons(&body, Format::Logs)[0].1, expected, "{body}");
    }
    let body = format!(r#"{{"logs":[1,"x",null,[{GOOD}],true,{{}},{GOOD}]}}"#);
    let expected = ["wrong_type", "wrong_type", "wrong_type", "wrong_type", "wrong_type", "missing", "ok"];
    assert_eq!(reasons(&body, Format::Logs).iter().map(|r| r.1).collect::<Vec<_>>(), expected);
    let late = GOOD.replace("2026-01-31T23", "2026-02-31T23");
    assert_eq!(reasons(&late, Format::Lines), [("timestamp", "no_such_instant")]);
}

#[test]
fn a_record_does_not_inherit_from_the_one_before_it() {
    let first = GOOD.replace('}', r#","metadata":{"trace_id":"t","a":"1"}}"#);
    let records = run(format!("{first}\n{GOOD}\n{first}").as_bytes(), Format::Lines).unwrap();
    let second = records[1].as_ref().unwrap();
    assert_eq!((&*second.trace_id, second.attributes.len()), ("", 0));
    assert_eq!(records[0], records[2]);
}

#[test]
fn a_broken_body_says_where() {
    let cases: &[(&str, &str)] = &[
        ("", "empty_body"),
        (" \n ", "empty_body"),
        ("{}", "no_logs"),
        (r#"{"log":[]}"#, "no_logs"),
        (GOOD, "no_logs"),
        ("[]", "malformed_json"),
        ("7", "malformed_json"),
        ("{\"logs\":7}", "malformed_json"),
        ("{\"logs\":[", "malformed_json"),
        ("{\"logs\":[]} x", "malformed_json"),
        ("{\"logs\":[{]}", "malformed_json"),
        ("{\"logs\":[{\"a\":tru}]}", "malformed_json"),
        ("{\"logs\":[{\"metadata\":{\"a\":[1,}}]}", "malformed_json"),
    ];
    for (body, reason) in cases {
        let error = run(body.as_bytes(), Format::Logs).unwrap_err();
        assert_eq!(error.reason(), *reason, "{body} {error}");
    }
    let error =
        run(format!("{{\"logs\":[{GOOD},\n{GOOD},\n{{\"x\" 1}}]}}").as_bytes(), Format::Logs).unwrap_err();
    assert!(matches!(error, ParseError::Malformed { line: 3, .. }), "{error}");
    assert_eq!(run(b"{\"logs\":[\"\xff\"]}", Format::Logs), Err(ParseError::NotUtf8 { byte: 10 }));
}

#[test]
fn a_broken_line_is_one_bad_record() {
    let body = format!("{GOOD}\n{{\"project_id\":\n{GOOD} {GOOD}\n{GOOD}");
    let records = run(body.as_bytes(), Format::Lines).unwrap();
    assert!(records[0].is_ok() && records[3].is_ok());
    assert!(matches!(records[1], Err(Refusal::Malformed { line: 2, .. })), "{:?}", records[1]);
    assert!(matches!(records[2], Err(Refusal::Malformed { line: 3, .. })), "{:?}", records[2]);
}

#[test]
fn too_many_records_are_refused_together() {
    let body = format!(r#"{{"logs":[{}]}}"#, vec![GOOD; 1001].join(","));
    assert_eq!(run(body.as_bytes(), Format::Logs), Err(ParseError::TooManyRecords { limit: 1000 }));
    let body = vec![GOOD; 1001].join("\n");
    assert_eq!(run(body.as_bytes(), Format::Lines), Err(ParseError::TooManyRecords { limit: 1000 }));
}

#[test]
fn nesting_without_end_is_no_way_to_kill_the_process() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 2_000_000;
        let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        for body in [
            format!("{{\"logs\":{nested}}}"),
            format!("{{\"logs\":[{nested}]}}"),
            format!("{{\"other\":{nested},\"logs\":[]}}"),
            format!("{{\"logs\":[{{\"message\":{nested}}}]}}"),
            format!("{{\"logs\":[{{\"x\":{nested}}}]}}"),
            format!("{{\"logs\":[{{\"metadata\":{{\"x\":{nested}}}}}]}}"),
            format!("{{\"logs\":[{{\"metadata\":{nested}}}]}}"),
            format!("{{\"logs\":[{{\"\\u0061\":{nested}}}]}}"),
            format!("{{\"metadata\":{{\"\\u0061\":{nested}}}}}"),
            format!("{{\"message\":{nested}}}"),
            nested.clone(),
        ] {
            let _ = run(body.as_bytes(), Format::Logs);
            let _ = run(body.as_bytes(), Format::Lines);
        }
    }
}

#[test]
fn nesting_on_purpose_is_kept() {
    let nested = format!("{}1{}", "[".repeat(90), "]".repeat(90));
    for key in ["a", "\\u0061"] {
        let body = GOOD.replace('}', &format!(r#","metadata":{{"{key}":{nested}}}}}"#));
        let record = run(body.as_bytes(), Format::Lines).unwrap().remove(0).unwrap();
        assert_eq!(record.attributes, [("a".into(), nested.clone().into())]);
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        "[a-z_]{1,12}".prop_map(Into::into),
    ];
    let key = prop_oneof![
        Just("project_id".to_owned()),
        Just("timestamp".to_owned()),
        Just("level".to_owned()),
        Just("service".to_owned()),
        Just("message".to_owned()),
        Just("metadata".to_owned()),
        Just("trace_id".to_owned()),
        Just("logs".to_owned()),
        any::<String>(),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map(key.clone(), inner, 0..6)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body: Vec<u8>) {
        let _ = run(&body, Format::Logs);
        let _ = run(&body, Format::Lines);
    }

    #[test]
    fn any_json_is_read_or_refused(value in json(), wrap: bool) {
        let text = if wrap { format!("{{\"logs\":[{value},{GOOD}]}}") } else { value.to_string() };
        let result = run(text.as_bytes(), Format::Logs);
        if wrap {
            // Well formed: every element is a record or a fault of its own, and the good one is good.
            let records = result.unwrap();
            prop_assert_eq!(records.len(), 2);
            prop_assert!(records[1].is_ok());
        }
        prop_assert_eq!(run(value.to_string().as_bytes(), Format::Lines).unwrap().len(), 1);
    }

    #[test]
    fn one_changed_byte_never_makes_json_of_what_is_none(at: prop::sample::Index, byte in 0x20u8..0x7f) {
        let mut body = format!(r#"{{"logs":[{},{GOOD}]}}"#, GOOD.replace('}', r#","metadata":{"a":[1,2.5e3,{"b":"c\n"}],"t":true}}"#)).into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        let ours = run(&body, Format::Logs);
        if serde_json::from_slice::<serde_json::Value>(&body).is_err() {
            let bad = match &ours { Err(_) => true, Ok(records) => records.iter().any(Result::is_err) };
            prop_assert!(bad, "{}", String::from_utf8_lossy(&body));
        } else {
            prop_assert!(!matches!(ours, Err(ParseError::Malformed { .. })) , "{} {ours:?}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn texts_arrive_as_they_were_sent(message: String, key: String, value: String) {
        let record = serde_json::json!({
            "project_id": "p", "timestamp": "2026-01-31T23:59:59Z", "level": "info", "service": "s",
            "message": format!("m{message}"), "metadata": {format!("k{key}"): value},
        });
        let parsed = run(record.to_string().as_bytes(), Format::Lines).unwrap().remove(0).unwrap();
        prop_assert_eq!(&*parsed.message, format!("m{message}"));
        prop_assert_eq!(&*parsed.attributes[0].0, format!("k{key}"));
        prop_assert_eq!(&*parsed.attributes[0].1, value);
    }
}
