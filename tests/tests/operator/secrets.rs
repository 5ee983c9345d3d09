//! Secrets and tenants: rotation without a restart, and mistakes that stay their own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use spillway_tests::kubernetes::operator::Operator;
use spillway_tests::kubernetes::pipelines::{self, secret, tenant};
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

use crate::claim::claims;

claims![
    a_new_api_key_reaches_the_pods_secret_within_seconds_and_restarts_nothing,
    pods_are_touched_so_that_kubelet_brings_a_changed_secret_at_once,
    no_secret_of_a_tenant_is_copied,
    rotated_bucket_credentials_are_used,
    rotated_clickhouse_credentials_are_used,
    a_rotated_authority_rolls_the_pods,
    a_missing_secret_is_named_and_creating_it_is_enough,
    a_secret_without_its_entry_is_named,
    wrong_bucket_credentials_are_named_and_correcting_them_is_enough,
    a_bad_tenant_is_left_out_and_the_others_go_on,
    a_tenant_whose_secret_is_missing_is_left_out_until_it_is_there,
    a_project_of_two_tenants_is_named,
    a_deleted_secret_of_a_tenant_takes_its_keys_away,
];

/// Names of the tenants whose keys the pods get.
async fn admitted(space: &Space) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mine = ListParams::default().labels("spillway.dev/pipeline=logs");
    for secret in space.api::<Secret>().list(&mine).await.expect("Secrets") {
        for bytes in secret.data.unwrap_or_default().into_values() {
            let document: Value = serde_json::from_slice(&bytes.0).expect("a document of tenants");
            for tenant in document["tenants"].as_array().expect("tenants") {
                names.insert(tenant["name"].as_str().expect("a name").to_owned());
            }
        }
    }
    names
}

/// The digests of keys and all else, as text.
async fn tenants_text(space: &Space) -> String {
    let secret: Secret = space.get("logs-tenants-0").await;
    secret.data.unwrap_or_default().into_values().map(|bytes| String::from_utf8(bytes.0).unwrap()).collect()
}

async fn touched(space: &Space, component: &str) -> Vec<Option<String>> {
    let mine = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    let pods = space.api::<Pod>().list(&mine).await.expect("pods");
    pods.iter().map(|pod| pod.annotations().get("spillway.dev/secrets-touched").cloned()).collect()
}

async fn generations(space: &Space) -> [Option<i64>; 2] {
    let of = async |name: &str| space.get::<Deployment>(name).await.metadata.generation;
    [of("logs-ingest").await, of("logs-syncer").await]
}

async fn a_new_api_key_reaches_the_pods_secret_within_seconds_and_restarts_nothing(
    space: &mut Space,
) -> Operator {
    let operator = space.ready_pipeline().await;
    let (before, rollouts) = (tenants_text(space).await, generations(space).await);
    let since = Instant::now();
    space.write_secret("shop-keys", &[("second", "another-key-of-the-shop-long-enough")]).await;
    until("the new digest", PATIENCE, async || (tenants_text(space).await != before).then_some(())).await;
    assert!(since.elapsed() < Duration::from_secs(10), "it took {:?}", since.elapsed());
    space.is_at_rest().await;
    assert_eq!(generations(space).await, rollouts);
    operator
}

async fn pods_are_touched_so_that_kubelet_brings_a_changed_secret_at_once(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let before = touched(space, "ingest").await;
    space.write_secret("shop-keys", &[("second", "another-key-of-the-shop-long-enough")]).await;
    until("all pods to be touched alike", PATIENCE, async || {
        let now = touched(space, "ingest").await;
        (now.len() == 2 && now[0] == now[1] && now[0].is_some() && now[0] != before[0]).then_some(())
    })
    .await;
    let deployment: Deployment = space.get("logs-ingest").await;
    let template = deployment.spec.and_then(|spec| spec.template.metadata).unwrap_or_default();
    assert!(!template.annotations.unwrap_or_default().contains_key("spillway.dev/secrets-touched"));
    operator
}

async fn no_secret_of_a_tenant_is_copied(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    assert!(!tenants_text(space).await.contains("a-key-of-the-shop"), "a key lies in the open");
    let logs = operator.process.log();
    for secret in ["a-key-of-the-shop", spillway_tests::minio::SECRET_KEY] {
        assert!(!logs.contains(secret), "a secret was logged");
    }
    operator
}

async fn rotated_bucket_credentials_are_used(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    space.expect_event("Denied");
    space.expect_event("AccessDenied");
    let rollouts = generations(space).await;
    let access = ("access_key_id", spillway_tests::minio::ACCESS_KEY);
    space.write_secret("bucket", &[access, ("secret_access_key", "revoked-key")]).await;
    let condition = space.condition("BucketReady", "False", None).await;
    space.expect_event(&condition.reason);
    space.write_secret("bucket", &[access, ("secret_access_key", spillway_tests::minio::SECRET_KEY)]).await;
    space.is_ready().await;
    assert_eq!(
        generations(space).await,
        rollouts,
        "credentials are read anew by the pods, which need no restart"
    );
    operator
}

async fn rotated_clickhouse_credentials_are_used(space: &mut Space) -> Operator {
    space.create(&secret("clickhouse", &[("username", "default"), ("password", "")])).await;
    let with = json!({"clickhouse": {"credentialsSecretRef": {"name": "clickhouse"}}});
    space.create(&pipelines::with(space, with)).await;
    let operator = space.operator().await;
    space.is_ready().await;
    let rollouts = generations(space).await;
    let before = touched(space, "syncer").await;
    space.write_secret("clickhouse", &[("username", "default"), ("password", ""), ("rotated", "yes")]).await;
    until("syncers to be touched", PATIENCE, async || {
        let now = touched(space, "syncer").await;
        (now != before && now.iter().all(Option::is_some)).then_some(())
    })
    .await;
    space.is_ready().await;
    assert_eq!(generations(space).await, rollouts);
    operator
}

async fn a_rotated_authority_rolls_the_pods(space: &mut Space) -> Operator {
    let authority = || rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap().cert.pem();
    let (first, second) = (authority(), authority());
    space.create(&secret("s3-ca", &[("ca.crt", &first)])).await;
    space
        .create(&pipelines::with(space, json!({"storage": {"s3": {"caSecretRef": {"name": "s3-ca"}}}})))
        .await;
    let operator = space.operator().await;
    space.is_ready().await;
    let hash = |deployment: &Deployment| {
        let metadata = deployment.spec.as_ref()?.template.metadata.as_ref()?;
        metadata.annotations.as_ref()?.get("spillway.dev/ca-hash").cloned()
    };
    let before = hash(&space.get("logs-ingest").await);
    assert!(before.is_some());
    space.write_secret("s3-ca", &[("ca.crt", &second)]).await;
    for name in ["logs-ingest", "logs-syncer"] {
        space
            .sees("the new authority's digest", name, |now: &Deployment| (hash(now) != before).then_some(()))
            .await;
    }
    space.is_ready().await;
    operator
}

async fn a_missing_secret_is_named_and_creating_it_is_enough(space: &mut Space) -> Operator {
    space.api::<Secret>().delete("bucket", &DeleteParams::default()).await.expect("deleted");
    space.create(&pipelines::pipeline(space)).await;
    let operator = space.operator().await;
    space.expect_event("SecretUnusable");
    let condition = space.condition("SpecValid", "False", Some("SecretUnusable")).await;
    assert!(condition.message.contains("bucket"), "{}", condition.message);
    space.create(&pipelines::secrets().remove(0)).await;
    space.is_ready().await;
    operator
}

async fn a_secret_without_its_entry_is_named(space: &mut Space) -> Operator {
    space.write_secret("bucket", &[("access_key_id", spillway_tests::minio::ACCESS_KEY)]).await;
    space.create(&pipelines::pipeline(space)).await;
    let operator = space.operator().await;
    space.expect_event("SecretUnusable");
    let condition = space.condition("SpecValid", "False", Some("SecretUnusable")).await;
    assert!(condition.message.contains("secret_access_key"), "{}", condition.message);
    operator
}

async fn wrong_bucket_credentials_are_named_and_correcting_them_is_enough(space: &mut Space) -> Operator {
    let access = ("access_key_id", spillway_tests::minio::ACCESS_KEY);
    space.write_secret("bucket", &[access, ("secret_access_key", "not-the-key-of-minio")]).await;
    space.create(&pipelines::pipeline(space)).await;
    let operator = space.operator().await;
    let condition = space.condition("BucketReady", "False", None).await;
    space.expect_event(&condition.reason);
    assert!(!condition.message.contains("not-the-key"), "the message holds a secret: {}", condition.message);
    space.condition("IngestAvailable", "False", Some("WaitingForBucket")).await;
    space.write_secret("bucket", &[access, ("secret_access_key", spillway_tests::minio::SECRET_KEY)]).await;
    space.is_ready().await;
    operator
}

async fn a_bad_tenant_is_left_out_and_the_others_go_on(space: &mut Space) -> Operator {
    space.create(&secret("empty-keys", &[])).await;
    let tenants = json!([tenant("shop", "shop-keys"), tenant("bank", "empty-keys")]);
    space.create(&pipelines::with(space, json!({"tenants": tenants}))).await;
    let operator = space.operator().await;
    space.expect_event("TenantsLeftOut");
    let condition = space.condition("TenantsValid", "False", Some("TenantsLeftOut")).await;
    assert!(
        condition.message.contains("bank") && condition.message.contains("1 of 2"),
        "{}",
        condition.message
    );
    space.is_ready().await;
    assert_eq!(admitted(space).await, BTreeSet::from(["shop".to_owned()]));
    operator
}

async fn a_tenant_whose_secret_is_missing_is_left_out_until_it_is_there(space: &mut Space) -> Operator {
    let tenants = json!([tenant("shop", "shop-keys"), tenant("bank", "bank-keys")]);
    space.create(&pipelines::with(space, json!({"tenants": tenants}))).await;
    let operator = space.operator().await;
    space.expect_event("TenantsLeftOut");
    let condition = space.condition("TenantsValid", "False", Some("TenantsLeftOut")).await;
    assert!(condition.message.contains("bank-keys"), "{}", condition.message);
    space.is_ready().await;
    let rollouts = generations(space).await;
    space.create(&secret("bank-keys", &[("first", "a-key-of-the-bank-that-is-long-enough")])).await;
    space.condition("TenantsValid", "True", None).await;
    assert_eq!(admitted(space).await, BTreeSet::from(["bank".to_owned(), "shop".to_owned()]));
    assert_eq!(generations(space).await, rollouts);
    operator
}

async fn a_project_of_two_tenants_is_named(space: &mut Space) -> Operator {
    space.create(&secret("bank-keys", &[("first", "a-key-of-the-bank-that-is-long-enough")])).await;
    let mut thief = tenant("bank", "bank-keys");
    thief["projects"] = json!(["bank", "shop"]);
    let tenants = json!([tenant("shop", "shop-keys"), thief]);
    space.create(&pipelines::with(space, json!({"tenants": tenants}))).await;
    let operator = space.operator().await;
    space.expect_event("TenantsLeftOut");
    let condition = space.condition("TenantsValid", "False", Some("TenantsLeftOut")).await;
    assert!(
        condition.message.contains("shop") && condition.message.contains("bank"),
        "{}",
        condition.message
    );
    space.is_ready().await;
    operator
}

async fn a_deleted_secret_of_a_tenant_takes_its_keys_away(space: &mut Space) -> Operator {
    space.create(&secret("bank-keys", &[("first", "a-key-of-the-bank-that-is-long-enough")])).await;
    let tenants = json!([tenant("shop", "shop-keys"), tenant("bank", "bank-keys")]);
    space.create(&pipelines::with(space, json!({"tenants": tenants}))).await;
    let operator = space.operator().await;
    space.is_ready().await;
    space.expect_event("TenantsLeftOut");
    space.api::<Secret>().delete("bank-keys", &DeleteParams::default()).await.expect("deleted");
    space.condition("TenantsValid", "False", Some("TenantsLeftOut")).await;
    until("the bank's keys to go", PATIENCE, async || {
        (admitted(space).await == BTreeSet::from(["shop".to_owned()])).then_some(())
    })
    .await;
    operator
}
