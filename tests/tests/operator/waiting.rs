//! What a pipeline says of itself while it waits: for its end, for its pods, or for whoever paused it.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::pipelines::{self, NAME, secret};
use spillway_tests::kubernetes::space::Space;

use crate::claim::claims;

claims![
    a_pipeline_that_is_being_deleted_is_not_ready_and_says_what_it_waits_for,
    a_cleanup_that_fails_says_so_in_the_condition,
    a_pipeline_that_others_hold_names_them,
    a_pipeline_that_was_not_ready_does_not_become_so_by_a_pause,
    a_pipeline_that_is_resumed_is_never_called_scaled_to_zero,
    pods_that_wait_for_a_secret_name_it,
    a_secret_that_lacks_two_entries_names_both,
];

async fn made(space: &Space, change: serde_json::Value, options: Options) -> Operator {
    space.create(&pipelines::with(space, change)).await;
    let operator = Operator::start(space, options).await;
    space.is_ready().await;
    operator
}

async fn delete(space: &Space) {
    space.api::<LogPipeline>().delete(NAME, &DeleteParams::default()).await.expect("it may be deleted");
}

/// Waits until `Ready` is False by its deletion and its message has `text`.
async fn says(space: &Space, text: &str) -> String {
    space
        .sees(&format!("Ready=False Deleting with {text:?}"), NAME, |pipeline: &LogPipeline| {
            let status = pipeline.status.as_ref()?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            let told = ready.status == "False" && ready.reason == "Deleting" && ready.message.contains(text);
            told.then(|| ready.message.clone())
        })
        .await
}

async fn a_pipeline_that_is_being_deleted_is_not_ready_and_says_what_it_waits_for(
    space: &mut Space,
) -> Operator {
    let operator = made(space, json!({"deletionPolicy": "Delete"}), Options::default()).await;
    for reason in ["CleaningUp", "CleanedUp"] {
        space.expect_event(reason);
    }
    let held = async |component: &str, hold: bool| {
        let mine = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
        let pods = space.api::<Pod>().list(&mine).await.expect("pods").items;
        let finalizers = if hold { json!(["example.com/draining"]) } else { json!(null) };
        for pod in pods {
            space.change::<Pod>(&pod.name_any(), json!({"metadata": {"finalizers": finalizers}})).await;
        }
    };
    held("ingest", true).await;
    held("syncer", true).await;
    delete(space).await;
    says(space, "1 of 4: ingest writes what it has and ends").await;
    space.condition("IngestAvailable", "False", Some("Deleting")).await;
    held("ingest", false).await;
    says(space, "2 of 4: the syncer ends").await;
    space.condition("SyncerAvailable", "False", Some("Deleting")).await;
    held("syncer", false).await;
    space.goes::<LogPipeline>(NAME).await;
    operator
}

async fn a_cleanup_that_fails_says_so_in_the_condition(space: &mut Space) -> Operator {
    let quick = Options { cleanup_timeout: Duration::from_secs(15), ..Options::default() };
    let operator = made(space, json!({"deletionPolicy": "Delete"}), quick).await;
    let nobody = format!("http://127.0.0.1:{}", spillway_tests::child::free_port());
    space.change_spec(json!({"storage": {"s3": {"endpoint": nobody}}})).await;
    for reason in ["CleaningUp", "CleanupFailed", "CleanupGivenUp", "Timeout", "Unavailable", "Unclear"] {
        space.expect_event(reason);
    }
    delete(space).await;
    let message = says(space, "3 of 4: the tables are dropped; failing: ").await;
    // With the address that doesn't answer, and the way out.
    assert!(message.contains(&nobody) && message.contains("spillway.dev/skip-cleanup"), "{message}");
    space.goes::<LogPipeline>(NAME).await;
    operator
}

async fn a_pipeline_that_others_hold_names_them(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let hold = json!({"metadata": {"finalizers": ["example.com/theirs"]}});
    space.change::<LogPipeline>(NAME, hold).await;
    delete(space).await;
    says(space, "example.com/theirs").await;
    space.is_at_rest().await;
    space.expect_event("Kept");
    space.change::<LogPipeline>(NAME, json!({"metadata": {"finalizers": null}})).await;
    space.goes::<LogPipeline>(NAME).await;
    operator
}

async fn a_pipeline_that_was_not_ready_does_not_become_so_by_a_pause(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let access = ("access_key_id", spillway_tests::minio::ACCESS_KEY);
    space.write_secret("bucket", &[access, ("secret_access_key", "revoked-key")]).await;
    let denied = space.condition("BucketReady", "False", None).await;
    for reason in [denied.reason.as_str(), "Paused", "Denied", "AccessDenied"] {
        space.expect_event(reason);
    }
    space.change_spec(json!({"paused": true})).await;
    let ready = space.condition("Ready", "False", Some("Paused")).await;
    assert!(ready.message.contains("BucketReady: "), "{}", ready.message);
    space.write_secret("bucket", &[access, ("secret_access_key", spillway_tests::minio::SECRET_KEY)]).await;
    space.change_spec(json!({"paused": false})).await;
    space.is_ready().await;
    space.change_spec(json!({"paused": true})).await;
    space.condition("Ready", "True", Some("Paused")).await;
    operator
}

async fn a_pipeline_that_is_resumed_is_never_called_scaled_to_zero(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    for reason in ["Suspending", "Suspended"] {
        space.expect_event(reason);
    }
    space.change_spec(json!({"suspend": true})).await;
    space.condition("Ready", "False", Some("Suspended")).await;
    let reasons: Arc<Mutex<Vec<String>>> = Arc::default();
    let (told, api) = (Arc::clone(&reasons), space.api::<LogPipeline>());
    let watching = tokio::spawn(async move {
        let mut changes =
            std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
        while let Ok(Some(pipeline)) = changes.try_next().await {
            let conditions = pipeline.status.map(|status| status.conditions).unwrap_or_default();
            told.lock().extend(conditions.into_iter().map(|condition| condition.reason));
        }
    });
    spillway_tests::wait::until("the first look", Duration::from_secs(30), async || {
        (!reasons.lock().is_empty()).then_some(())
    })
    .await;
    space.change_spec(json!({"suspend": false})).await;
    space.is_ready().await;
    watching.abort();
    let reasons = reasons.lock().clone();
    assert!(reasons.iter().any(|reason| reason == "Suspended"), "{reasons:?}");
    assert!(!reasons.iter().any(|reason| reason == "ScaledToZero"), "{reasons:?}");
    operator
}

async fn pods_that_wait_for_a_secret_name_it(space: &mut Space) -> Operator {
    let tls = json!({"ingest": {"tls": {"secretRef": {"name": "certificate"}}}});
    space.create(&pipelines::with(space, tls)).await;
    let operator = space.operator().await;
    for reason in ["SecretUnusable", "PodsFailing"] {
        space.expect_event(reason);
    }
    let failing = space.condition("IngestAvailable", "False", Some("PodsFailing")).await;
    assert!(failing.message.contains("not there: Secret certificate"), "{}", failing.message);
    let authority = rcgen::generate_simple_self_signed(["logs".to_owned()]).unwrap();
    let (certificate, key) = (authority.cert.pem(), authority.signing_key.serialize_pem());
    space.create(&secret("certificate", &[("tls.crt", &certificate), ("tls.key", &key)])).await;
    space.is_ready().await;
    operator
}

async fn a_secret_that_lacks_two_entries_names_both(space: &mut Space) -> Operator {
    space.write_secret("bucket", &[("accessKey", "a")]).await;
    space.create(&pipelines::pipeline(space)).await;
    let operator = space.operator().await;
    space.expect_event("SecretUnusable");
    let condition = space.condition("SpecValid", "False", Some("SecretUnusable")).await;
    let lacks = "has no entries access_key_id, secret_access_key; add them";
    assert!(condition.message.contains(lacks), "{}", condition.message);
    operator
}
