//! What an API server checks by a structural schema, as far as ours has it. Fields that there are not are refused, as
//! `kubectl` asks for.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex::Regex;
use serde_json::Value;

/// `path: what` of everything that the schema refuses about the value.
pub(crate) fn check(schema: &JSONSchemaProps, path: &str, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    walk(schema, path, value, &mut errors);
    errors
}

fn walk(schema: &JSONSchemaProps, path: &str, value: &Value, errors: &mut Vec<String>) {
    let mut refuse = |path: &str, what: &str| errors.push(format!("{path}: {what}"));
    let allowed = schema.enum_.iter().flatten().any(|allowed| allowed.0 == *value);
    if schema.enum_.is_some() && !allowed {
        refuse(path, "unsupported value");
    }
    let of_type = match schema.type_.as_deref() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        None if schema.x_kubernetes_int_or_string == Some(true) => {
            value.is_string() || value.is_i64() || value.is_u64()
        }
        other => panic!("{path}: type {other:?} is not in a structural schema of ours"),
    };
    if !of_type {
        return refuse(path, "wrong type");
    }
    match value {
        Value::String(text) => {
            let length = i64::try_from(text.chars().count()).unwrap();
            if schema.max_length.is_some_and(|most| length > most)
                || schema.min_length.is_some_and(|least| length < least)
            {
                refuse(path, "length");
            }
            if schema.pattern.as_ref().is_some_and(|pattern| !Regex::new(pattern).unwrap().is_match(text)) {
                refuse(path, "does not match");
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap();
            if schema.maximum.is_some_and(|most| number > most)
                || schema.minimum.is_some_and(|least| number < least)
            {
                refuse(path, "out of range");
            }
        }
        Value::Array(items) => {
            let count = i64::try_from(items.len()).unwrap();
            if schema.max_items.is_some_and(|most| count > most)
                || schema.min_items.is_some_and(|least| count < least)
            {
                refuse(path, "number of items");
            }
            for (at, item) in items.iter().enumerate() {
                if items[..at].iter().any(|earlier| same(schema, earlier, item)) {
                    refuse(&format!("{path}[{at}]"), "duplicate");
                }
            }
            let Some(JSONSchemaPropsOrArray::Schema(of_each)) = &schema.items else {
                panic!("{path}: no items")
            };
            for (at, item) in items.iter().enumerate() {
                walk(of_each, &format!("{path}[{at}]"), item, errors);
            }
        }
        Value::Object(entries) => {
            for required in schema.required.iter().flatten().filter(|name| !entries.contains_key(*name)) {
                refuse(&format!("{path}.{required}"), "required");
            }
            let count = i64::try_from(entries.len()).unwrap();
            if schema.max_properties.is_some_and(|most| count > most) {
                refuse(path, "number of entries");
            }
            for (name, entry) in entries {
                let inner = format!("{path}.{name}");
                match (
                    schema.properties.as_ref().and_then(|all| all.get(name)),
                    &schema.additional_properties,
                ) {
                    (Some(property), _) => walk(property, &inner, entry, errors),
                    (None, Some(JSONSchemaPropsOrBool::Schema(each))) => walk(each, &inner, entry, errors),
                    (None, _) => errors.push(format!("{inner}: unknown field")),
                }
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
}

/// Whether a list that is a set or a map can't hold both.
fn same(schema: &JSONSchemaProps, one: &Value, other: &Value) -> bool {
    match schema.x_kubernetes_list_type.as_deref() {
        Some("set") => one == other,
        Some("map") => schema.x_kubernetes_list_map_keys.iter().flatten().all(|key| one[key] == other[key]),
        _ => false,
    }
}
