//! `fixtures/rules.json`: what is accepted and what is refused, with the words. The tests of the operator put the same
//! table to a real API server.

use kube::core::cel::Validator;
use serde::Deserialize;
use serde_json::{Value, json};
use spillway_crds::{LogPipeline, validate};

use super::{schema, structural};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    metadata_name: Option<String>,
    /// The spec before the change; without it the object is created.
    old: Option<Value>,
    new: Value,
    /// Words of the refusal; without it the object is accepted.
    refused: Option<String>,
    /// Who refuses: `cel` or `schema`.
    by: Option<String>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../../fixtures/rules.json")).unwrap()
}

impl Case {
    /// As sent.
    fn written(&self, spec: &Value) -> Value {
        let name = self.metadata_name.as_deref().unwrap_or("logs");
        let (version, kind) = ("spillway.dev/v1alpha1", "LogPipeline");
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})
    }

    /// As stored: with the empty parts that the API server adds.
    fn stored(&self, spec: &Value) -> Value {
        let pipeline: LogPipeline = serde_json::from_value(self.written(spec)).unwrap();
        serde_json::to_value(&pipeline).unwrap()
    }

    fn refused_by_schema(&self) -> Vec<String> {
        let spec = &schema().properties.unwrap()["spec"];
        structural::check(spec, "spec", &self.new)
    }

    fn refused_by_cel(&self) -> String {
        let schema = serde_json::to_value(schema()).unwrap();
        let old = self.old.as_ref().map(|old| self.stored(old));
        let result = Validator::new().validate(&schema, &self.stored(&self.new), old.as_ref());
        result.err().map(|errors| errors.to_string()).unwrap_or_default()
    }
}

#[test]
fn what_is_good_is_accepted_by_schema_and_rules() {
    for case in cases().iter().filter(|case| case.refused.is_none()) {
        assert_eq!(case.refused_by_schema(), Vec::<String>::new(), "{}", case.name);
        assert_eq!(case.refused_by_cel(), "", "{}", case.name);
    }
}

#[test]
fn what_is_wrong_is_refused_by_the_rules_in_so_many_words() {
    let all = cases();
    let refused: Vec<_> = all.iter().filter(|case| case.by.as_deref() == Some("cel")).collect();
    assert!(refused.len() > 20);
    for case in refused {
        let (errors, words) = (case.refused_by_cel(), case.refused.as_deref().unwrap());
        assert!(errors.contains(words), "{}: {errors}", case.name);
        assert_eq!(case.refused_by_schema(), Vec::<String>::new(), "{}", case.name);
    }
}

#[test]
fn what_is_malformed_is_refused_by_the_schema_at_its_place() {
    let all = cases();
    let refused: Vec<_> = all.iter().filter(|case| case.by.as_deref() == Some("schema")).collect();
    assert!(refused.len() > 20);
    for case in refused {
        let (errors, place) = (case.refused_by_schema(), case.refused.as_deref().unwrap());
        assert!(errors.iter().any(|error| error.starts_with(place)), "{}: {errors:?}", case.name);
    }
}

#[test]
fn every_rule_of_the_resource_refuses_something_in_the_table() {
    let (schema, all) = (serde_json::to_value(schema()).unwrap(), cases());
    let mut messages = Vec::new();
    fn collect(schema: &Value, messages: &mut Vec<String>) {
        match schema {
            Value::Object(entries) => {
                for rule in
                    entries.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
                {
                    messages.push(rule["message"].as_str().unwrap().to_owned());
                }
                entries.values().for_each(|entry| collect(entry, messages));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, messages)),
            _ => {}
        }
    }
    collect(&schema, &mut messages);
    assert!(messages.len() >= 12, "{messages:?}");
    for message in messages {
        let tried = all.iter().any(|case| case.refused.as_ref().is_some_and(|words| message.contains(words)));
        assert!(tried, "no case for {message:?}");
    }
}

/// Without it the operator would call an object invalid that the API server took.
#[test]
fn what_the_api_server_accepts_can_be_run() {
    for case in cases().iter().filter(|case| case.refused.is_none()) {
        let pipeline = serde_json::from_value(case.written(&case.new)).unwrap();
        assert_eq!(validate(&pipeline).err(), None, "{}", case.name);
    }
}
