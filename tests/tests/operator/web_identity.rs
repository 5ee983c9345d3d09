//! A bucket that is opened by a ServiceAccount's role. MinIO's STS asks the API server itself for the keys that its tokens
//! are signed with, as AWS does.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use spillway_tests::kubernetes::helm;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::pipelines;
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::minio::Minio;
use spillway_tests::wait::until;
use tokio::sync::OnceCell;

use crate::claim::claims;

claims![
    a_pipeline_gets_ready_by_the_role_of_its_service_account,
    a_token_that_sts_refuses_is_named_and_another_role_is_enough,
    a_role_that_sts_does_not_know_is_named,
    an_account_without_a_role_is_named,
    an_sts_that_is_away_is_named,
];

const ACCOUNT: &str = "bucket-role";
/// MinIO makes the last part of the audience whose tokens the role takes: SHA-1, base64.
const ROLE: &str = "arn:minio:iam:::role/oxnUw3DAuQF1uggjXGxI2AmW8IA";
const ROLE_OF_ANOTHER_AUDIENCE: &str = "arn:minio:iam:::role/Pd-eilTSoweCvo_5DcwBTubMjwo";

/// A MinIO that gives roles to tokens of the API server.
async fn sts(space: &Space) -> &'static Minio {
    static STS: OnceCell<Minio> = OnceCell::const_new();
    STS.get_or_init(async || {
        let issuer = format!("{}/.well-known/openid-configuration", space.world.control_plane.url());
        let authority = space.world.control_plane.certificate().to_owned();
        anybody_may_read_the_keys(space, &issuer, &authority).await;
        let mut environment = Vec::new();
        for (name, audience) in [("ACCOUNTS", "sts.amazonaws.com"), ("OTHERS", "another-audience")] {
            for (setting, value) in
                [("CONFIG_URL", issuer.as_str()), ("CLIENT_ID", audience), ("ROLE_POLICY", "readwrite")]
            {
                environment.push((format!("MINIO_IDENTITY_OPENID_{setting}_{name}"), value.to_owned()));
            }
        }
        let starting = tokio::task::spawn_blocking(move || Minio::start_with(environment, Some(&authority)));
        starting.await.expect("MinIO starts")
    })
    .await
}

/// As where AWS is to check tokens of a cluster.
async fn anybody_may_read_the_keys(space: &Space, issuer: &str, authority: &str) {
    let role = "system:service-account-issuer-discovery";
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "anybody-may-check-tokens"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}],
    });
    let bindings: Api<ClusterRoleBinding> = Api::all(space.client.clone());
    let manager = PatchParams::apply("spillway-tests");
    bindings.patch("anybody-may-check-tokens", &manager, &Patch::Apply(&binding)).await.expect("bound");
    let certificate = reqwest::Certificate::from_pem(authority.as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([certificate]).build().expect("a client");
    until("the keys to be shown to anybody", PATIENCE, async || {
        client.get(issuer).send().await.ok().filter(|answer| answer.status().is_success()).map(drop)
    })
    .await;
}

/// An operator that may make tokens of the account, as the chart grants it, and a pipeline that runs under it.
async fn begin(space: &Space, annotations: Value, sts_endpoint: String) -> Operator {
    let watched = format!("watchNamespaces={{{}}}", space.namespace);
    let tokens = format!("rbac.tokenServiceAccounts={{{ACCOUNT}}}");
    let rights = helm::template(&space.namespace, &[&watched, &tokens], &["rbac.yaml"]);
    helm::apply(&space.client, &helm::objects(&rights)).await;
    let account = json!({"metadata": {"name": ACCOUNT, "annotations": annotations}});
    space.create::<ServiceAccount>(&serde_json::from_value(account).unwrap()).await;
    let endpoint = sts(space).await.endpoint();
    let s3 = json!({"endpoint": endpoint, "credentialsSecretRef": null, "serviceAccount": ACCOUNT});
    space.create(&pipelines::with(space, json!({"storage": {"s3": s3}}))).await;
    let options = Options { sts_endpoint: Some(sts_endpoint), ..Options::default() };
    Operator::start(space, options).await
}

fn role(arn: &str) -> Value {
    json!({"eks.amazonaws.com/role-arn": arn})
}

/// How BucketReady says it; no pod is made before.
async fn refused(space: &mut Space) -> String {
    let condition = space.condition("BucketReady", "False", None).await;
    space.expect_event(&condition.reason);
    space.condition("IngestAvailable", "False", Some("WaitingForBucket")).await;
    assert!(!condition.message.contains("eyJ"), "a token lies in the open: {}", condition.message);
    condition.message
}

async fn a_pipeline_gets_ready_by_the_role_of_its_service_account(space: &mut Space) -> Operator {
    let endpoint = sts(space).await.endpoint();
    let operator = begin(space, role(ROLE), endpoint).await;
    space.condition("BucketReady", "True", None).await;
    space.is_ready().await;
    assert!(!operator.process.log().contains("eyJ"), "a token was logged");
    operator
}

async fn a_token_that_sts_refuses_is_named_and_another_role_is_enough(space: &mut Space) -> Operator {
    let endpoint = sts(space).await.endpoint();
    let operator = begin(space, role(ROLE_OF_ANOTHER_AUDIENCE), endpoint).await;
    let message = refused(space).await;
    assert!(message.contains(ROLE_OF_ANOTHER_AUDIENCE) && message.contains("must match"), "{message}");
    let change = json!({"metadata": {"annotations": role(ROLE)}});
    space.change::<ServiceAccount>(ACCOUNT, change).await;
    space.is_ready().await;
    operator
}

async fn a_role_that_sts_does_not_know_is_named(space: &mut Space) -> Operator {
    let endpoint = sts(space).await.endpoint();
    let operator = begin(space, role("arn:minio:iam:::role/nobody-knows-it"), endpoint).await;
    let message = refused(space).await;
    assert!(message.contains("arn:minio:iam:::role/nobody-knows-it"), "{message}");
    operator
}

async fn an_account_without_a_role_is_named(space: &mut Space) -> Operator {
    let endpoint = sts(space).await.endpoint();
    let operator = begin(space, json!({}), endpoint).await;
    let message = refused(space).await;
    assert!(message.contains(ACCOUNT) && message.contains("eks.amazonaws.com/role-arn"), "{message}");
    operator
}

async fn an_sts_that_is_away_is_named(space: &mut Space) -> Operator {
    let operator = begin(space, role(ROLE), spillway_tests::http::nobody()).await;
    let message = refused(space).await;
    assert!(message.contains(ROLE), "{message}");
    operator
}
