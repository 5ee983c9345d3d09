//! `spillway render` as a user runs it.

use std::process::{Command, Output};

use serde_json::Value;

const PRODUCTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/production.yaml");
const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.yaml");

fn render(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway")).arg("render").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_is_rendered_are_objects_in_the_pipelines_namespace_and_comments() {
    let output = render(&["-f", PRODUCTION, "--image", "registry.example/spillway:1", "--pod-monitors"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let text = text(&output.stdout);
    let documents: Vec<Value> = text
        .split("---\n")
        .filter(|document| document.lines().any(|line| !line.is_empty() && !line.starts_with('#')))
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect();
    let mut kinds: Vec<&str> = documents.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    kinds.dedup();
    let expected = [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "Lease",
        "ConfigMap",
        "Secret",
        "Service",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Deployment",
        "HorizontalPodAutoscaler",
        "PodMonitor",
    ];
    assert_eq!(kinds, expected);
    for object in &documents {
        assert_eq!(object["metadata"]["namespace"], "logging", "{object}");
        assert!(object["metadata"]["ownerReferences"].is_null(), "{object}");
    }
    assert!(text.contains("image: registry.example/spillway:1"));
    assert!(text.contains("\n# CREATE TABLE IF NOT EXISTS `observability`.`logs`"), "{text}");
    assert!(!text.contains("replace-me"), "a Secret's value is in it");
}

#[test]
fn a_pipeline_for_one_machine_is_refused_with_what_it_lacks() {
    let output = render(&["-f", QUICKSTART]);
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(errors.contains("spec.storage.s3") && errors.contains("spec.clickhouse.url"), "{errors}");
}
