//! The examples are what the resource takes.

use std::{fs, path::Path};

use kube::core::cel::Validator;
use serde_json::Value;
use spillway_crds::{LogPipeline, validate};

use super::{schema, structural};

/// Every LogPipeline in the examples, with the file that it is in.
fn pipelines() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n") {
            let value: Value = serde_saphyr::from_str(document).unwrap();
            if value["kind"] == "LogPipeline" {
                found.push((path.display().to_string(), value));
            }
        }
    }
    found
}

#[test]
fn every_example_is_accepted_by_schema_rules_and_validation() {
    let (found, schema) = (pipelines(), schema());
    assert!(found.len() >= 3, "{}", found.len());
    let as_json = serde_json::to_value(&schema).unwrap();
    for (path, written) in found {
        let spec = &schema.properties.as_ref().unwrap()["spec"];
        assert_eq!(structural::check(spec, "spec", &written["spec"]), Vec::<String>::new(), "{path}");
        let pipeline: LogPipeline = serde_json::from_value(written).unwrap();
        let stored = serde_json::to_value(&pipeline).unwrap();
        assert_eq!(Validator::new().validate(&as_json, &stored, None).err(), None, "{path}");
        let valid = validate(&pipeline).unwrap_or_else(|errors| panic!("{path}: {errors:?}"));
        assert_eq!(valid.refused_tenants, [], "{path}");
    }
}
