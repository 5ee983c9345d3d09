//! Bounds, defaults and units: every field has them, and what its description says of them is so.

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Value, json};
use spillway_crds::{LogPipeline, validate};
use spillway_model::settings::{
    BucketSettings, ByteSize, ClickHouseSettings, IngestSettings, Span, SyncerSettings,
};

use super::{
    fields::{Field, below},
    schema,
};

fn spec_fields() -> Vec<Field> {
    below("spec", &schema().properties.unwrap()["spec"])
}

/// Otherwise the API server refuses the rules for what they could cost, and an object could be as large as a request.
#[test]
fn every_text_list_map_and_number_is_bounded() {
    fn walk(path: &str, schema: &JSONSchemaProps, unbounded: &mut Vec<String>) {
        let is_text =
            schema.type_.as_deref() == Some("string") || schema.x_kubernetes_int_or_string == Some(true);
        let is_number = schema.type_.as_deref() == Some("integer") && path.starts_with("spec");
        let is_time = schema.format.as_deref() == Some("date-time");
        let bounded = (!is_text || schema.enum_.is_some() || is_time || schema.max_length.is_some())
            && (!is_number || schema.minimum.is_some() && schema.maximum.is_some())
            && (schema.items.is_none() || schema.max_items.is_some())
            && (schema.additional_properties.is_none() || schema.max_properties.is_some());
        if !bounded {
            unbounded.push(path.to_owned());
        }
        for (name, property) in schema.properties.iter().flatten() {
            walk(&format!("{path}.{name}"), property, unbounded);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            walk(&format!("{path}[]"), items, unbounded);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
            walk(&format!("{path}{{}}"), values, unbounded);
        }
    }
    let mut unbounded = Vec::new();
    for (name, property) in schema().properties.unwrap() {
        walk(&name, &property, &mut unbounded);
    }
    assert_eq!(unbounded, Vec::<String>::new());
}

/// `kubectl apply` keeps the whole object in an annotation of 262,144 bytes at most.
#[test]
fn the_resource_can_be_applied_from_the_client() {
    let size = serde_json::to_vec(&spillway_crds::crd()).unwrap().len();
    assert!(size < 200_000, "{size} bytes");
}

#[test]
fn the_api_server_has_nothing_to_warn_of() {
    fn walk(schema: &JSONSchemaProps) {
        assert!(schema.nullable.is_none());
        let known = ["int32", "int64", "date-time"];
        assert!(schema.format.as_deref().is_none_or(|format| known.contains(&format)), "{:?}", schema.format);
    }
    let root = schema();
    below("", &root).iter().for_each(|field| walk(&field.schema));
}

#[test]
fn every_field_is_explained_with_its_default() {
    let mut silent = Vec::new();
    for field in below("spec", &schema().properties.unwrap()["spec"]) {
        let needs_default = !field.required && !field.is_group();
        if field.meaning().is_empty() || needs_default && field.default().is_none() {
            silent.push(field.path);
        }
    }
    for field in below("status", &schema().properties.unwrap()["status"]) {
        if field.meaning().is_empty() {
            silent.push(field.path);
        }
    }
    assert_eq!(silent, Vec::<String>::new());
}

#[test]
fn every_number_says_what_it_counts_and_every_size_and_duration_its_bounds() {
    let mut silent = Vec::new();
    for field in spec_fields() {
        let is_number = field.schema.type_.as_deref() == Some("integer");
        let lacks_bounds = (field.is_size() || field.is_duration()) && field.said_bounds().is_none();
        if is_number && field.unit().is_none() || lacks_bounds {
            silent.push(field.path);
        }
    }
    assert_eq!(silent, Vec::<String>::new());
}

/// A spec in which only the field at `path` is set, and what must be beside it.
fn spec_with(path: &str, value: Value) -> Value {
    let mut spec = match path.starts_with("spec.tenants[]") {
        true => json!({"tenants": [{"name": "a", "apiKeysSecretRef": {"name": "k"}, "projects": ["p"]}]}),
        false => json!({}),
    };
    let pointer = path.trim_start_matches("spec.").replace("[]", ".0");
    let mut at = &mut spec;
    for part in pointer.split('.') {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    *at = value;
    spec
}

/// Whether this value of the field is called out of range.
fn is_out_of_range(path: &str, value: Value) -> bool {
    let spec = serde_json::from_value(spec_with(path, value)).unwrap();
    let (path, errors) = (
        path.replace("[]", "[0]"),
        match validate(&LogPipeline::new("logs", spec)) {
            Ok(valid) => valid.refused_tenants.into_iter().flat_map(|tenant| tenant.errors).collect(),
            Err(errors) => errors,
        },
    );
    errors.iter().any(|error| error.path == path && error.problem.reason() == "OutOfRange")
}

#[test]
fn the_bounds_that_are_written_are_those_that_are_checked() {
    let mut checked = 0;
    for field in spec_fields() {
        let Some((least, most)) = field.said_bounds() else { continue };
        let (below, above) = if field.is_size() {
            let number = |text: &str| text.parse::<ByteSize>().unwrap().0;
            (number(&least).checked_sub(1), number(&most) + 1)
        } else {
            let number = |text: &str| u64::try_from(text.parse::<Span>().unwrap().get().as_millis()).unwrap();
            (number(&least).checked_sub(1), number(&most) + 1)
        };
        let unit = if field.is_size() { "" } else { "ms" };
        let path = field.path.as_str();
        assert!(!is_out_of_range(path, json!(least)) && !is_out_of_range(path, json!(most)), "{path}");
        assert!(is_out_of_range(path, json!(format!("{above}{unit}"))), "{path}: more than {most}");
        if let Some(below) = below {
            assert!(is_out_of_range(path, json!(format!("{below}{unit}"))), "{path}: less than {least}");
        }
        checked += 1;
    }
    assert!(checked >= 18, "{checked}");
}

#[test]
fn the_defaults_that_are_written_are_those_of_the_settings() {
    let (bucket, address) = (BucketSettings::directory("data"), SocketAddr::from(([0, 0, 0, 0], 0)));
    let ingest = IngestSettings { http: address, ..IngestSettings::new(bucket.clone()) };
    let ingest = serde_json::to_value(&ingest).unwrap();
    let syncer = serde_json::to_value(SyncerSettings::new(bucket, ClickHouseSettings::default())).unwrap();
    let mut checked = 0;
    for field in spec_fields() {
        let pointer = field.path.replace('.', "/");
        let (settings, pointer) = match pointer.split('/').nth(1) {
            Some("ingest") => (&ingest, pointer.trim_start_matches("spec/ingest").to_owned()),
            Some("syncer") => (&syncer, pointer.trim_start_matches("spec/syncer").to_owned()),
            Some("clickhouse") => (&syncer, pointer.trim_start_matches("spec").to_owned()),
            Some("schema") => (&syncer, pointer.replacen("spec/schema", "/clickhouse", 1)),
            _ => continue,
        };
        // What the pipeline has and the settings have not is the operator's; the URL's default is for tests.
        let Some(value) = settings.pointer(&pointer).filter(|_| !field.is_group()) else { continue };
        if field.path == "spec.clickhouse.url" || value.is_null() {
            continue;
        }
        let (value, said) = (value.to_string(), field.default().unwrap());
        let said = said.split([',', ' ']).next().unwrap().trim_matches('`');
        assert_eq!(said, value.trim_matches('"'), "{}", field.path);
        checked += 1;
    }
    assert!(checked >= 25, "{checked}");
    // Said in percent here and as a share there, and under another name there.
    assert_eq!((&ingest["queue"]["tenantShare"], &ingest["defaultRetentionDays"]), (&json!(0.5), &json!(30)));
    assert_eq!(
        Duration::from_secs(30),
        SyncerSettings::new(BucketSettings::directory("d"), ClickHouseSettings::default()).delete_grace.get()
    );
}
