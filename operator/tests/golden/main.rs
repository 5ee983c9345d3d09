//! Plans of whole pipelines, compared with files: what is said here is what a cluster gets.
//!
//! Each `scenarios/<name>.yaml` holds a pipeline and its Secrets; `scenarios/<name>.plan.yaml` is what
//! `spillway render` makes of it. `UPDATE=1 cargo test -p spillway-operator --test golden` writes those anew.
//!
//! **A difference in a pod template restarts the pods of every pipeline there is when the operator is upgraded.**

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may say so by panicking")]

mod rules;
mod scenario;

use scenario::{Scenario, all};
use spillway_operator::plan::PlanError;

#[test]
fn each_pipeline_gives_the_objects_bucket_and_schema_that_are_written_down() {
    let mut stale = Vec::new();
    for scenario in all() {
        let text = scenario.text();
        let path = scenario.golden();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            stale.push(path.display().to_string());
        }
    }
    assert!(
        stale.is_empty(),
        "look at what changes in {stale:?} with UPDATE=1 cargo test -p spillway-operator --test golden"
    );
}

#[test]
fn the_same_pipeline_gives_the_same_plan() {
    for scenario in all() {
        assert_eq!(scenario.text(), scenario.text(), "{}", scenario.name);
    }
}

#[test]
fn upgrading_the_operator_changes_no_object() {
    for scenario in all().filter(|scenario| scenario.status_image().is_some()) {
        let before = scenario.clone().started_with("spillway:1.0.0").text();
        let after = scenario.started_with("spillway:2.0.0").text();
        assert_eq!(before, after);
    }
    let text: String = all().map(|scenario| scenario.objects_text()).collect();
    assert!(!text.contains(env!("CARGO_PKG_VERSION")), "the operator's version is in an object");
}

#[test]
fn names_are_short_enough_for_the_longest_pipeline() {
    for scenario in all() {
        let plan = scenario.named(&"p".repeat(40)).plan();
        for manifest in plan.objects.list().unwrap() {
            assert!(manifest.name.len() <= 63, "{}", manifest.name);
        }
    }
}

#[test]
fn every_selector_means_the_pods_of_its_component_and_no_others() {
    for scenario in all() {
        let others = scenario.clone().named("logs-ingest").plan();
        rules::selectors_fit(&scenario.plan().objects, &others.objects);
    }
}

#[test]
fn all_pods_meet_the_restricted_pod_security_standard() {
    for scenario in all() {
        let objects = scenario.plan().objects;
        for deployment in [&objects.ingest_deployment.deployment, &objects.syncer_deployment] {
            rules::restricted(deployment);
        }
    }
}

#[test]
fn every_object_belongs_to_its_pipeline() {
    for scenario in all() {
        for manifest in scenario.plan().objects.list().unwrap() {
            let owner = &manifest.value["metadata"]["ownerReferences"][0];
            assert_eq!(
                (owner["uid"].as_str(), owner["controller"].as_bool()),
                (Some(Scenario::UID), Some(true))
            );
            let label = &manifest.value["metadata"]["labels"]["spillway.dev/pipeline"];
            assert_eq!(label.as_str(), Some(scenario.pipeline_name()), "{}", manifest.name);
        }
    }
}

#[test]
fn a_change_of_one_components_settings_leaves_the_other_alone() {
    let scenario = Scenario::read("production");
    let changed = scenario.clone().with(|spec| spec["syncer"]["concurrency"] = 9.into()).plan().objects;
    let before = scenario.plan().objects;
    assert_eq!(before.ingest_deployment.deployment, changed.ingest_deployment.deployment);
    assert_ne!(before.syncer_deployment.spec, changed.syncer_deployment.spec);
}

#[test]
fn a_new_tenant_or_key_restarts_nothing_and_touches_ingest_alone() {
    let scenario = Scenario::read("production");
    let new =
        serde_json::json!({"name": "new", "projects": ["new"], "apiKeysSecretRef": {"name": "new-keys"}});
    let tenant = scenario
        .clone()
        .with(|spec| spec["tenants"].as_array_mut().unwrap().push(new))
        .secret("new-keys", "first", "0123456789abcdef")
        .plan();
    let key = scenario.clone().secret("storefront-keys", "another", "another-key-of-theirs").plan();
    let before = scenario.plan();
    for after in [tenant, key] {
        assert_eq!(before.objects.ingest_deployment.deployment, after.objects.ingest_deployment.deployment);
        assert_eq!(before.objects.syncer_deployment, after.objects.syncer_deployment);
        assert_ne!(before.objects.ingest_tenants, after.objects.ingest_tenants);
        assert_ne!(before.touch.ingest, after.touch.ingest);
        assert_eq!(before.touch.syncer, after.touch.syncer);
    }
}

#[test]
fn changed_credentials_touch_pods_and_a_changed_authority_restarts_them() {
    let scenario = Scenario::read("tls");
    let before = scenario.plan();
    let password = scenario.clone().secret("clickhouse", "password", "changed").plan();
    assert_eq!(before.objects.syncer_deployment, password.objects.syncer_deployment);
    assert_ne!(before.touch.syncer, password.touch.syncer);
    assert_eq!(before.touch.ingest, password.touch.ingest);

    let authority = scenario.clone().secret("clickhouse-ca", "ca.crt", "changed").plan();
    assert_ne!(before.objects.syncer_deployment, authority.objects.syncer_deployment);
    assert_eq!(before.objects.ingest_deployment.deployment, authority.objects.ingest_deployment.deployment);
}

#[test]
fn a_secret_that_vanishes_is_named_and_restarts_nothing() {
    let scenario = Scenario::read("tls");
    let before = scenario.plan();
    let running = scenario.clone().running();
    for secret in ["bucket", "bucket-ca", "clickhouse", "clickhouse-ca", "certificate"] {
        let after = running.clone().without_secret(secret).plan();
        let named = after.secret_errors.iter().map(ToString::to_string).collect::<String>();
        assert!(named.contains(&format!("{secret:?}")), "{secret}: {named}");
        assert_eq!(before.objects.ingest_deployment.deployment, after.objects.ingest_deployment.deployment);
        assert_eq!(before.objects.syncer_deployment, after.objects.syncer_deployment);
    }
}

#[test]
fn a_pipeline_for_one_machine_says_what_it_lacks_in_a_cluster() {
    let scenario = Scenario::read("minimal").with(|spec| *spec = serde_json::json!({}));
    let Err(PlanError::Missing(errors)) = scenario.try_plan() else { panic!("it was planned") };
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["spec.storage.s3", "spec.clickhouse.url"]);
}
