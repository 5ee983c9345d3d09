//! `spillway plan`: what applying a file would change, asked of the real servers under the rights of a person.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::{Operator, token};
use spillway_tests::kubernetes::owned;
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::Space;
use spillway_tests::process::built;

use crate::claim::claims;

claims![
    before_anything_is_there_all_of_it_shows_and_nothing_is_made,
    after_the_operator_has_made_it_so_there_is_no_difference,
    a_change_shows_as_what_it_is_in_objects_bucket_and_schema_and_as_nothing_else,
    what_the_operator_would_put_right_shows,
    what_can_not_be_looked_at_is_said_and_the_rest_is_shown,
    what_can_not_be_told_ends_with_more_than_one,
];

const DONE: i32 = 0;
const DIFFERENT: i32 = 1;
const REFUSED: i32 = 2;
const NOT_ASKED: i32 = 3;

/// A person who may do everything in the namespace, and a file.
struct Planner {
    kubeconfig: PathBuf,
    folder: tempfile::TempDir,
}

/// What a run said.
struct Said {
    code: Option<i32>,
    differences: String,
    notes: String,
}

impl Planner {
    async fn of(space: &Space) -> Self {
        const NAME: &str = "planner";
        let account = json!({"metadata": {"name": NAME}});
        space.create::<ServiceAccount>(&serde_json::from_value(account).unwrap()).await;
        let binding = json!({
            "metadata": {"name": NAME},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": space.namespace}],
        });
        space.create::<RoleBinding>(&serde_json::from_value(binding).unwrap()).await;
        let token = token(space, NAME, None).await;
        let name = format!("{}-{NAME}", space.namespace);
        let kubeconfig = space.world.control_plane.kubeconfig(&name, &token);
        Self { kubeconfig, folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, pipeline: &LogPipeline) -> PathBuf {
        let path = self.folder.path().join("pipeline.yaml");
        std::fs::write(&path, serde_json::to_string(pipeline).unwrap()).unwrap();
        path
    }

    /// Plans the test's pipeline with `change` merged into its spec.
    async fn plan(&self, space: &Space, change: Value) -> Said {
        let file = self.file(&pipelines::with(space, change));
        self.run(&file, &self.kubeconfig).await
    }

    async fn run(&self, file: &Path, kubeconfig: &Path) -> Said {
        let mut command: Command = built("spillway");
        command.args(["plan", "--file"]).arg(file).arg("--kubeconfig").arg(kubeconfig);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
        Said { code: output.status.code(), differences: text(output.stdout), notes: text(output.stderr) }
    }
}

impl Said {
    /// What differs, without the digests in names.
    fn what(&self) -> BTreeSet<String> {
        let headers = self.differences.lines().filter_map(|line| {
            let (old, new) = (line.strip_prefix("--- now/"), line.strip_prefix("+++ then/"));
            old.or(new).map(str::to_owned)
        });
        headers
            .map(|name| match name.strip_prefix("ConfigMap ").and_then(|name| name.rsplit_once('-')) {
                Some((stem, _)) => format!("ConfigMap {stem}"),
                None => name,
            })
            .collect()
    }

    /// The lines that go and come in one of the differences.
    fn lines(&self, what: &str) -> Vec<&str> {
        let of = self.differences.lines().skip_while(|line| *line != format!("+++ then/{what}"));
        let lines = of.skip(1).take_while(|line| !line.starts_with("--- "));
        lines.filter(|line| line.starts_with(['-', '+'])).collect()
    }

    fn is(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.differences, self.notes);
    }
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|&name| name.to_owned()).collect()
}

async fn before_anything_is_there_all_of_it_shows_and_nothing_is_made(space: &mut Space) {
    let planner = Planner::of(space).await;
    let said = planner.plan(space, json!({"storage": {"bucketPolicy": {"versioning": true}}})).await;
    said.is(DIFFERENT);
    let bucket = format!("bucket {}/", space.bucket);
    let mut expected = vec![
        "LogPipeline logs",
        "ServiceAccount logs-ingest",
        "ServiceAccount logs-syncer",
        "Role logs-syncer",
        "RoleBinding logs-syncer",
        "Lease logs-syncer",
        "ConfigMap logs-ingest",
        "ConfigMap logs-syncer",
        "Secret logs-tenants-0",
        "Service logs-ingest",
        "NetworkPolicy logs-ingest",
        "NetworkPolicy logs-syncer",
        "PodDisruptionBudget logs-ingest",
        "PodDisruptionBudget logs-syncer",
        "Deployment logs-ingest",
        "Deployment logs-syncer",
        "schema",
    ];
    expected.push(&bucket);
    assert_eq!(said.what(), names(&expected));
    assert_eq!(
        said.lines(&bucket),
        [
            "-there is no such bucket",
            "+the bucket is created",
            "+versioning: on",
            "+lifecycle rule \"spillway::control-versions\": old versions of control objects go after a day",
        ]
    );
    assert!(
        said.lines("schema").iter().any(|line| line.starts_with("+CREATE TABLE")),
        "{}",
        said.differences
    );
    assert!(!said.differences.contains("a-key-of-the-shop"), "a key lies in the open");
    // Nothing of it was made.
    assert_eq!(owned::names(space).await, Vec::<String>::new());
    assert!(space.api::<LogPipeline>().get_opt(NAME).await.unwrap().is_none());
    assert_eq!(space.tables().await, Vec::<String>::new());
    assert!(space.open_bucket().await.list("", None, 1).await.is_err(), "the bucket was made");
}

async fn after_the_operator_has_made_it_so_there_is_no_difference(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let said = Planner::of(space).await.plan(space, json!({})).await;
    assert_eq!((said.differences.as_str(), said.notes.as_str()), ("", ""));
    said.is(DONE);
    operator
}

async fn a_change_shows_as_what_it_is_in_objects_bucket_and_schema_and_as_nothing_else(
    space: &mut Space,
) -> Operator {
    space.create(&pipelines::with(space, json!({"schema": {"messageIndex": "None"}}))).await;
    let operator = space.operator().await;
    space.is_ready().await;
    let planner = Planner::of(space).await;
    let change = json!({
        "ingest": {"flush": {"maxAge": "250ms"}},
        "storage": {"bucketPolicy": {"versioning": true, "deadLetterExpiryDays": 7}},
        "schema": {"messageIndex": "TokenBloom"},
    });
    let said = planner.plan(space, change.clone()).await;
    said.is(DIFFERENT);
    let bucket = format!("bucket {}/", space.bucket);
    assert_eq!(
        said.what(),
        names(&[
            "LogPipeline logs",
            "ConfigMap logs-ingest",
            "Deployment logs-ingest",
            "ConfigMap logs-syncer",
            "Deployment logs-syncer",
            &bucket,
            "schema"
        ]),
        "{}",
        said.differences
    );
    assert_eq!(
        said.lines(&bucket),
        [
            "-versioning: off",
            "+versioning: on",
            "+lifecycle rule \"spillway::dead-letter-versions\": old versions of dead letters go after 7 days",
            "+lifecycle rule \"spillway::control-versions\": old versions of control objects go after a day",
            "+lifecycle rule \"spillway::dead-letters\": dead letters expire after 7 days",
        ]
    );
    let schema = said.lines("schema");
    assert!(
        matches!(schema[..], [one] if one.starts_with("+ALTER TABLE") && one.contains("ADD INDEX")),
        "{schema:?}"
    );
    let of_pipeline = said.lines("LogPipeline logs");
    assert!(
        of_pipeline.iter().any(|line| line.trim_start_matches('+').trim() == "maxAge: 250ms"),
        "{of_pipeline:?}"
    );
    // It asked and did nothing.
    assert_eq!(planner.plan(space, change.clone()).await.differences, said.differences);

    space.change_spec(change.clone()).await;
    space.is_ready().await;
    space.is_at_rest().await;
    let then = planner.plan(space, change).await;
    assert_eq!((then.differences.as_str(), then.notes.as_str()), ("", ""));
    then.is(DONE);
    operator
}

async fn what_the_operator_would_put_right_shows(space: &mut Space) {
    let mut operator = space.ready_pipeline().await;
    operator.process.kill();
    space
        .api::<k8s_openapi::api::core::v1::Service>()
        .delete("logs-ingest", &DeleteParams::default())
        .await
        .unwrap();
    let said = Planner::of(space).await.plan(space, json!({})).await;
    said.is(DIFFERENT);
    assert_eq!(said.what(), names(&["Service logs-ingest"]));
    assert!(said.differences.starts_with("--- /dev/null"), "{}", said.differences);
}

async fn what_can_not_be_looked_at_is_said_and_the_rest_is_shown(space: &mut Space) {
    let planner = Planner::of(space).await;
    let nobody = format!("http://127.0.0.1:{}", spillway_tests::child::free_port());
    let away = json!({"storage": {"s3": {"endpoint": nobody}}, "clickhouse": {"url": nobody}});
    let said = planner.plan(space, away).await;
    said.is(DIFFERENT);
    for what in ["the bucket", "ClickHouse"] {
        assert!(said.notes.contains(&format!("note: {what} was not looked at: ")), "{}", said.notes);
    }
    assert!(said.what().contains("Deployment logs-ingest") && !said.what().contains("schema"));

    let none = planner.plan(space, json!({"storage": {"bucketPolicy": {"create": false}}})).await;
    assert!(none.notes.contains("there is no bucket") && none.notes.contains("create"), "{}", none.notes);

    space.api::<Secret>().delete("bucket", &DeleteParams::default()).await.unwrap();
    let without = planner.plan(space, json!({})).await;
    without.is(DIFFERENT);
    assert!(without.notes.contains("Secret \"bucket\" is not there"), "{}", without.notes);
}

async fn what_can_not_be_told_ends_with_more_than_one(space: &mut Space) {
    let planner = Planner::of(space).await;
    space.create(&pipelines::pipeline(space)).await;
    let moved = planner.plan(space, json!({"clickhouse": {"database": "elsewhere"}})).await;
    moved.is(REFUSED);
    assert!(moved.notes.contains("can't be changed") && moved.differences.is_empty(), "{}", moved.notes);

    let wrong = json!({"ingest": {"flush": {"maxBytes": "64Mi"}, "queue": {"maxBytes": "1Mi"}}});
    let wrong = planner.plan(space, wrong).await;
    wrong.is(REFUSED);
    assert!(wrong.notes.contains("spec.ingest.flush.maxBytes"), "{}", wrong.notes);

    let nobody = planner.folder.path().join("nobody.kubeconfig");
    let config = std::fs::read_to_string(&planner.kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["clusters"][0]["cluster"]["server"] =
        format!("https://127.0.0.1:{}", spillway_tests::child::free_port()).into();
    std::fs::write(&nobody, config.to_string()).unwrap();
    let file = planner.file(&pipelines::pipeline(space));
    planner.run(&file, &nobody).await.is(NOT_ASKED);
}
