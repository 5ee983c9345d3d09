//! The CRD on a real API server, whose cost budget and messages only it knows.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::control_plane::install_crd;
use spillway_tests::kubernetes::pipelines::{self, NAME, merge};
use spillway_tests::kubernetes::space::Space;

use crate::claim::{Claim, Kept};

const CRD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/logpipelines.yaml");

/// One rule of the CRD: what it lets through and what it refuses, as changes of a good pipeline.
struct Rule {
    /// Its message begins so.
    message: &'static str,
    /// The object before, for rules about changes.
    before: Option<Value>,
    accepted: Value,
    refused: Value,
}

/// A rule about one state.
fn state(message: &'static str, accepted: Value, refused: Value) -> Rule {
    Rule { message, before: None, accepted, refused }
}

/// A rule about a change, which accepts that nothing changes.
fn unchanging(message: &'static str, before: Value, refused: Value) -> Rule {
    Rule { message, before: Some(before.clone()), accepted: before, refused }
}

fn spec(change: Value) -> Value {
    json!({"spec": change})
}

fn rules() -> Vec<Rule> {
    let name = |name: &str| json!({"metadata": {"name": name}});
    let ingest = |ingest: Value| spec(json!({"ingest": ingest}));
    let s3 = |s3: Value| spec(json!({"storage": {"s3": s3}}));
    let clickhouse = |clickhouse: Value| spec(json!({"clickhouse": clickhouse}));
    vec![
        state("metadata.name has more than 40 characters", name(&"a".repeat(40)), name(&"a".repeat(41))),
        state("metadata.name must be lower-case letters", name("a-1"), name("1-a")),
        state("metadata.name must be lower-case letters", name("a"), name("a.b")),
        state(
            "paused and suspend exclude each other",
            spec(json!({"paused": true, "suspend": false})),
            spec(json!({"paused": true, "suspend": true})),
        ),
        state(
            "replicas and autoscaling exclude each other",
            ingest(json!({"replicas": null, "autoscaling": {"max": 3}})),
            ingest(json!({"replicas": 2, "autoscaling": {"max": 3}})),
        ),
        state(
            "min must not be more than max",
            ingest(json!({"replicas": null, "autoscaling": {"min": 3, "max": 3}})),
            ingest(json!({"replicas": null, "autoscaling": {"min": 4, "max": 3}})),
        ),
        state(
            "credentialsSecretRef and serviceAccount exclude each other",
            s3(json!({"credentialsSecretRef": null, "serviceAccount": "role"})),
            s3(json!({"serviceAccount": "role"})),
        ),
        unchanging("bucket can't be changed", json!({}), s3(json!({"bucket": "another"}))),
        unchanging("prefix can't be changed", s3(json!({"prefix": "a/"})), s3(json!({"prefix": "b/"}))),
        unchanging("prefix can't be changed", s3(json!({"prefix": "a/"})), s3(json!({"prefix": null}))),
        unchanging("prefix can't be changed", json!({}), s3(json!({"prefix": "a/"}))),
        unchanging("s3 can't be taken away", json!({}), spec(json!({"storage": {"s3": null}}))),
        unchanging("s3 can't be taken away", json!({}), spec(json!({"storage": null}))),
        unchanging("database can't be changed", json!({}), clickhouse(json!({"database": "another"}))),
        unchanging("database can't be changed", json!({}), clickhouse(json!({"database": null}))),
        unchanging("database can't be changed", json!({}), spec(json!({"clickhouse": null}))),
        unchanging(
            "cluster can't be changed",
            clickhouse(json!({"cluster": "a"})),
            clickhouse(json!({"cluster": "b"})),
        ),
        unchanging("cluster can't be changed", json!({}), clickhouse(json!({"cluster": "a"}))),
        unchanging("table can't be changed", json!({}), spec(json!({"schema": {"table": "another"}}))),
        unchanging(
            "table can't be changed",
            spec(json!({"schema": {"table": "logs"}})),
            spec(json!({"schema": null})),
        ),
    ]
}

/// What the schema itself bounds: (what, change of a good pipeline).
fn out_of_bounds() -> Vec<(&'static str, Value)> {
    let tenant = |name: &str| pipelines::tenant(name, "shop-keys");
    vec![
        ("negative replicas", json!({"ingest": {"replicas": -1}})),
        ("too many replicas", json!({"ingest": {"replicas": 1001}})),
        ("an unknown promise", json!({"ingest": {"ack": "Perhaps"}})),
        ("no flush at all", json!({"ingest": {"flush": {"maxRecords": 0}}})),
        ("a size without a number", json!({"ingest": {"flush": {"maxBytes": "much"}}})),
        ("a span without a unit", json!({"ingest": {"flush": {"maxAge": "soon"}}})),
        ("a bucket of two letters", json!({"storage": {"s3": {"bucket": "ab"}}})),
        ("a bucket in capitals", json!({"storage": {"s3": {"bucket": "Logs"}}})),
        ("a prefix without its slash", json!({"storage": {"s3": {"prefix": "logs"}}})),
        ("an endpoint that is no URL", json!({"storage": {"s3": {"endpoint": "minio:9000"}}})),
        ("credentials in a URL", json!({"clickhouse": {"url": "https://me:secret@clickhouse:8443"}})),
        ("a database that needs quotes", json!({"clickhouse": {"database": "my-logs"}})),
        ("no retention", json!({"schema": {"retentionDays": 0}})),
        (
            "a tenant without projects",
            json!({"tenants": [{"name": "a", "projects": [], "apiKeysSecretRef": {"name": "a"}}]}),
        ),
        ("1001 tenants", json!({"tenants": (0..1001).map(|n| tenant(&format!("t{n}"))).collect::<Vec<_>>()})),
        ("an unknown deletion policy", json!({"deletionPolicy": "Forget"})),
        ("an unknown encryption", json!({"storage": {"bucketPolicy": {"encryption": "rot13"}}})),
    ]
}

pub(crate) fn claims() -> Vec<Claim> {
    let mut claims = self::functions::claims();
    for (number, rule) in rules().into_iter().enumerate() {
        let words: String = rule.message.split_whitespace().collect::<Vec<_>>().join("_");
        let name = format!("crd::the_server_keeps_to_rule_{number}_{}", words.replace(['.', '\'', '-'], "_"));
        claims.push(Claim::new(name, |space| Box::pin(keeps_to(space, rule))));
    }
    for (what, change) in out_of_bounds() {
        let name = format!("crd::the_server_refuses_{}", what.replace(' ', "_"));
        claims.push(Claim::new(name, |space| Box::pin(refuses(space, change))));
    }
    claims
}

async fn keeps_to(space: &mut Space, rule: Rule) -> Box<dyn Kept> {
    let api: Api<LogPipeline> = space.api();
    let made = |change: &Value| {
        let mut object = serde_json::to_value(pipelines::pipeline(space)).unwrap();
        merge(&mut object, change.clone());
        serde_json::from_value::<LogPipeline>(object).unwrap()
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let refused = if let Some(before) = &rule.before {
        let stored =
            api.create(&PostParams::default(), &made(before)).await.expect("the object before is good");
        let changed = async |change: &Value| {
            let mut object = made(before);
            let mut value = serde_json::to_value(&object).unwrap();
            merge(&mut value, change.clone());
            object = serde_json::from_value(value).unwrap();
            object.metadata.resource_version = stored.resource_version();
            api.replace(NAME, &dry, &object).await
        };
        changed(&rule.accepted).await.expect("the change is accepted");
        changed(&rule.refused).await
    } else {
        api.create(&dry, &made(&rule.accepted)).await.expect("the object is accepted");
        api.create(&dry, &made(&rule.refused)).await
    };
    let error = refused.expect_err("it is refused").to_string();
    assert!(error.contains(rule.message), "{error} does not say: {}", rule.message);
    Box::new(())
}

async fn refuses(space: &mut Space, change: Value) -> Box<dyn Kept> {
    let mut object = serde_json::to_value(pipelines::pipeline(space)).unwrap();
    merge(&mut object, spec(change));
    // Sent as it is written: the types would refuse some of it before the server could.
    let dry = PatchParams { dry_run: true, ..PatchParams::apply("tests").force() };
    let refused = space.api::<LogPipeline>().patch(NAME, &dry, &Patch::Apply(object)).await;
    match refused {
        Err(kube::Error::Api(status)) => assert!(status.is_invalid(), "{status:?}"),
        other => panic!("not refused by the schema: {other:?}"),
    }
    Box::new(())
}

mod functions {
    use super::*;
    use crate::claim::claims;

    claims![
        every_rule_of_the_crd_is_among_those_shown,
        the_crd_fits_into_an_ordinary_kubectl_apply,
        every_example_is_accepted,
        a_null_is_refused_by_the_name_of_its_field,
        an_unknown_field_is_refused_by_a_strict_client,
        get_shows_the_columns,
        a_status_that_an_older_resource_refuses_is_told_with_what_to_do,
    ];

    async fn every_rule_of_the_crd_is_among_those_shown(_: &mut Space) {
        fn messages(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Object(fields) => {
                    for rule in
                        fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
                    {
                        found.push(rule["message"].as_str().expect("a message").to_owned());
                    }
                    fields.values().for_each(|value| messages(value, found));
                }
                Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
                _ => {}
            }
        }
        let crd: Value = serde_saphyr::from_str(&std::fs::read_to_string(CRD).unwrap()).unwrap();
        let mut found = Vec::new();
        messages(&crd, &mut found);
        assert!(!found.is_empty());
        let shown = rules();
        let missing: Vec<_> = found
            .iter()
            .filter(|message| !shown.iter().any(|rule| message.starts_with(rule.message)))
            .collect();
        assert!(missing.is_empty(), "no case for {missing:?}");
    }

    /// Which keeps the whole object in an annotation, of at most 256 KiB.
    async fn the_crd_fits_into_an_ordinary_kubectl_apply(space: &mut Space) {
        kubectl(space, &["apply", "--dry-run=server", "--validate=strict", "-f", CRD]);
    }

    async fn every_example_is_accepted(space: &mut Space) {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "logging"}});
        let namespace: Namespace = serde_json::from_value(namespace).unwrap();
        Api::all(space.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let mut seen = 0;
        for file in std::fs::read_dir(examples).unwrap() {
            let path = file.unwrap().path();
            let yaml = std::fs::read_to_string(&path).unwrap_or_default();
            if !yaml.contains("kind: LogPipeline") {
                continue;
            }
            seen += 1;
            let path = path.display().to_string();
            let namespace: &[&str] =
                if yaml.contains("namespace:") { &[] } else { &["--namespace", &space.namespace] };
            let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", &path];
            let said = kubectl(space, &[&apply, namespace].concat());
            assert!(said.contains("logpipeline.spillway.dev/"), "{path}: {said}");
            assert!(!said.contains("Warning"), "{path}: {said}");
        }
        assert!(seen >= 2, "only {seen} examples");
    }

    /// And never taken for a value that some rule would then meet.
    async fn a_null_is_refused_by_the_name_of_its_field(space: &mut Space) {
        let mut object = serde_json::to_value(pipelines::pipeline(space)).unwrap();
        object["spec"]["syncer"] = json!({"interval": null, "resources": null});
        let manager = PatchParams::apply("tests").force();
        let refused = space.api::<LogPipeline>().patch(NAME, &manager, &Patch::Apply(object)).await;
        let error = refused.expect_err("it is refused").to_string();
        assert!(error.contains("spec.syncer.interval") && error.contains("spec.syncer.resources"), "{error}");
    }

    async fn an_unknown_field_is_refused_by_a_strict_client(space: &mut Space) {
        let mut object = serde_json::to_value(pipelines::pipeline(space)).unwrap();
        object["spec"]["ingest"]["replica"] = json!(3);
        let strict = PatchParams { dry_run: true, ..PatchParams::apply("tests").force() }.validation_strict();
        let refused = space.api::<LogPipeline>().patch(NAME, &strict, &Patch::Apply(object)).await;
        let error = refused.expect_err("it is refused").to_string();
        assert!(error.contains("replica"), "{error}");
    }

    async fn get_shows_the_columns(space: &mut Space) {
        space.create(&pipelines::pipeline(space)).await;
        let shown = kubectl(space, &["get", "lp", "--namespace", &space.namespace]);
        let columns: Vec<_> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(columns, ["NAME", "READY", "INGEST", "BACKLOG", "LAG", "SYNCER", "AGE"], "{shown}");
        let by_category = kubectl(space, &["get", "spillway", "--namespace", &space.namespace]);
        assert!(by_category.contains(NAME), "{by_category}");
    }

    async fn a_status_that_an_older_resource_refuses_is_told_with_what_to_do(space: &mut Space) {
        let crd = std::fs::read_to_string(CRD).unwrap();
        let mut older: Value = serde_saphyr::from_str(&crd).unwrap();
        let schema = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        schema["status"]["properties"].as_object_mut().unwrap().remove("ingest").expect("a field");
        // Others keep theirs.
        let beside = space.world.beside().await;
        let admin = beside.control_plane.admin().await;
        install_crd(&admin, &serde_saphyr::to_string(&older).unwrap()).await;
        let mut place = beside.space("older").await;
        place.create(&pipelines::pipeline(&place)).await;
        let _operator = place.operator().await;
        let told = place.told("StatusRefused", NAME).await;
        for said in ["logpipelines.spillway.dev", "kubectl apply --server-side", ".status.ingest"] {
            assert!(told.contains(said), "{told}");
        }
        install_crd(&admin, &crd).await;
        place.is_ready().await;
    }

    /// What kubectl says, on both outputs.
    fn kubectl(space: &Space, arguments: &[&str]) -> String {
        let output = space.world.control_plane.kubectl().args(arguments).output().expect("kubectl starts");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?} failed: {said}");
        said
    }
}
