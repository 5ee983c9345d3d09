//! The operator with many pipelines: how long it takes to make them all so, in how much memory, and what it asks the
//! API server for once there is nothing to do.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, TypeMeta};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::child::free_port;
use spillway_tests::kubernetes::operator::{IMAGE, SERVICE_ACCOUNT, token};
use spillway_tests::kubernetes::owned::KINDS;
use spillway_tests::kubernetes::pipelines;
use spillway_tests::kubernetes::space::Space;
use spillway_tests::kubernetes::world::World;
use spillway_tests::process::Process;

use crate::cpu;
use crate::report::Figure;
use crate::setup::program;

/// As many at once as the operator reconciles.
const CONCURRENCY: usize = 16;
const MIB: f64 = 1024.0 * 1024.0;
const MEMORY_GOAL: f64 = 256.0;
const REQUESTS_GOAL: f64 = 2.0;
/// How long a pipeline of the run may take, many of them sharing a machine with all their servers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than anything that the operator puts off: its looks at status files, at most a minute.
const SETTLE: Duration = Duration::from_secs(90);
const REST: Duration = Duration::from_secs(120);

/// Creates `count` pipelines, each with a bucket and a database of its own, waits until all are ready, and looks at
/// the operator at rest. Then a plain client applies the same objects to the same API server.
pub async fn measure(count: usize) -> Vec<Figure> {
    let world = World::start().await;
    let space = world.space("bench").await;
    let operator = Operator::start(&space).await;
    let (_, empty) = cpu::resident(operator.pid());

    let began = Instant::now();
    all_at_once(0..count, |number| create(&space, number)).await;
    let waited = PATIENCE * u32::try_from(count).expect("a small number") + SETTLE;
    wait(&space, "every pipeline to be ready", waited, |list: &[LogPipeline]| {
        list.iter().filter(|pipeline| is_ready(pipeline)).count() == count
    })
    .await;
    let took = began.elapsed();
    let (used, making) = (cpu::of_process(operator.pid()), operator.requests().await);

    tokio::time::sleep(SETTLE).await;
    let (before, versions) = (operator.requests().await, versions(&space).await);
    let idle_from = cpu::of_process(operator.pid());
    tokio::time::sleep(REST).await;
    let after = operator.requests().await;
    let idle_used = cpu::of_process(operator.pid()) - idle_from;
    assert_eq!(self::versions(&space).await, versions, "somebody wrote to a pipeline at rest");
    let per_minute = |requests: f64| requests / count as f64 / REST.as_secs_f64() * 60.0;
    let (reads, writes) = (per_minute(after.reads - before.reads), per_minute(after.writes - before.writes));
    let (peak, now) = cpu::resident(operator.pid());
    drop(operator);

    let objects = objects(&space).await;
    let applied = objects.iter().map(Vec::len).sum::<usize>() as f64;
    let (plain, plain_ready) = apply(&world, objects, count).await;

    let (peak, now, empty) = (peak as f64 / MIB, now as f64 / MIB, empty as f64 / MIB);
    let (took, plain, plain_ready) = (took.as_secs_f64(), plain.as_secs_f64(), plain_ready.as_secs_f64());
    let n = count as f64;
    let of = |what: &str| format!("{count} pipelines: {what}");
    vec![
        Figure::new(of("created until all are ready"), took, "s").against(
            plain_ready,
            "a plain client applies the same objects, until their Deployments are available",
        ),
        Figure::new(of("the plain client's requests alone"), plain, "s"),
        Figure::new(of("the operator's CPU until all are ready"), used.as_secs_f64() * 1000.0 / n, "ms each"),
        Figure::new(of("requests until all are ready"), (making.reads + making.writes) / n, "each")
            .against(applied / n, "objects of each"),
        Figure::new(of("writes until all are ready"), making.writes / n, "each")
            .against(applied / n, "objects of each"),
        Figure::new(of("requests at rest"), reads + writes, "each and minute")
            .against(REQUESTS_GOAL, "the goal")
            .goal("<= 2", reads + writes <= REQUESTS_GOAL),
        Figure::new(of("writes at rest"), writes, "each and minute").goal("0", writes == 0.0),
        Figure::new(
            of("CPU at rest"),
            idle_used.as_secs_f64() * 1000.0 / REST.as_secs_f64(),
            "ms per second",
        ),
        Figure::new(of("memory at most"), peak, "MiB")
            .against(MEMORY_GOAL, "the goal")
            .goal("<= 256 MiB", peak <= MEMORY_GOAL),
        Figure::new(of("memory at rest"), now, "MiB"),
        Figure::new("memory of the operator without pipelines", empty, "MiB"),
    ]
}

struct Operator {
    process: Process,
    metrics: String,
}

struct Requests {
    reads: f64,
    writes: f64,
}

impl Operator {
    /// Starts the program built beside this one, with its defaults, under the chart's ServiceAccount.
    async fn start(space: &Space) -> Self {
        let control_plane = &space.world.control_plane;
        let kubeconfig = control_plane.kubeconfig("bench", &token(space, SERVICE_ACCOUNT, None).await);
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = program("spillway-operator");
        command
            .arg(format!("--image={IMAGE}"))
            .arg(format!("--watch-namespace={}", space.namespace))
            .arg(format!("--metrics-addr={address}"))
            .arg("--no-leader-election")
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAME", "operator-0")
            .env("POD_NAMESPACE", &space.namespace)
            .env("SPILLWAY_LOG", "warn");
        let process = Process::start("operator", control_plane.dir(), &mut command);
        let operator = Self { process, metrics: format!("http://{address}/metrics") };
        // Its watches have begun when it is asked first.
        tokio::time::sleep(Duration::from_secs(5)).await;
        operator.requests().await;
        operator
    }

    fn pid(&self) -> u32 {
        self.process.pid().expect("the operator runs")
    }

    /// What it has sent to the API server so far.
    async fn requests(&self) -> Requests {
        let answer = spillway_tests::http::client().get(&self.metrics).send().await.expect("it answers");
        requests(&answer.text().await.expect("its metrics"))
    }
}

fn requests(metrics: &str) -> Requests {
    let mut found = Requests { reads: 0.0, writes: 0.0 };
    for line in metrics.lines().filter(|line| line.starts_with("spillway_operator_api_requests_total{")) {
        let value: f64 = line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0.0);
        let is_read = ["GET", "WATCH"].iter().any(|method| line.contains(&format!("\"{method}\"")));
        *(if is_read { &mut found.reads } else { &mut found.writes }) += value;
    }
    found
}

async fn all_at_once<T>(items: impl IntoIterator<Item = T>, act: impl AsyncFn(T)) {
    let act = &act;
    stream::iter(items).for_each_concurrent(CONCURRENCY, move |item| act(item)).await;
}

async fn create(space: &Space, number: usize) {
    let mut pipeline = pipelines::with(
        space,
        json!({
            "storage": {"s3": {"bucket": format!("{}-{number}", space.bucket)}},
            "clickhouse": {"database": format!("{}_{number}", space.database)},
        }),
    );
    pipeline.metadata.name = Some(format!("logs-{number}"));
    space.create(&pipeline).await;
}

fn is_ready(pipeline: &LogPipeline) -> bool {
    let conditions = pipeline.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn wait<K>(space: &Space, what: &str, patience: Duration, done: impl Fn(&[K]) -> bool)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let (api, since): (Api<K>, _) = (space.api(), Instant::now());
    loop {
        let list = api.list(&ListParams::default()).await.expect("the API server lists").items;
        if done(&list) {
            return;
        }
        assert!(since.elapsed() < patience, "waited {patience:?} in vain for {what}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn versions(space: &Space) -> Vec<(String, Option<String>)> {
    let api: Api<LogPipeline> = space.api();
    let list = api.list_metadata(&ListParams::default()).await.expect("the API server lists");
    list.iter().map(|pipeline| (pipeline.name_any(), pipeline.resource_version())).collect()
}

/// What the operator made, pipeline by pipeline and without what the API server added, so that it can be made again.
async fn objects(space: &Space) -> Vec<Vec<(usize, DynamicObject)>> {
    let mut by_pipeline = std::collections::BTreeMap::<String, Vec<_>>::new();
    for (number, kind) in KINDS.iter().enumerate() {
        let owned = ListParams::default().labels("spillway.dev/pipeline");
        let listed = kind.api(space).list(&owned).await.expect("the API server lists");
        for mut object in listed {
            let labels = object.metadata.labels.take();
            let pipeline = labels.as_ref().and_then(|labels| labels.get("spillway.dev/pipeline"));
            let pipeline = pipeline.cloned().unwrap_or_default();
            let name = object.metadata.name.take();
            object.metadata = ObjectMeta { name, labels, ..ObjectMeta::default() };
            if let Some(data) = object.data.as_object_mut() {
                data.remove("status");
            }
            if kind.kind == "Service" {
                // Those are the first Service's own.
                for field in ["clusterIP", "clusterIPs"] {
                    object.data["spec"].as_object_mut().map(|spec| spec.remove(field));
                }
            }
            by_pipeline.entry(pipeline).or_default().push((number, object));
        }
    }
    by_pipeline.into_values().collect()
}

/// The time until the plain client has applied all, and until all Deployments are available.
async fn apply(
    world: &Arc<World>,
    objects: Vec<Vec<(usize, DynamicObject)>>,
    count: usize,
) -> (Duration, Duration) {
    let space = world.space("plain").await;
    let began = Instant::now();
    all_at_once(objects, async |of_one: Vec<_>| {
        for (kind, object) in of_one {
            let kind = &KINDS[kind];
            let resource = kind.resource();
            let types = TypeMeta { api_version: resource.api_version, kind: resource.kind };
            let object = DynamicObject { types: Some(types), ..object };
            let manager = PatchParams::apply("plain").force();
            let applied = kind.api(&space).patch(&object.name_any(), &manager, &Patch::Apply(&object)).await;
            applied.unwrap_or_else(|error| panic!("{} {}: {error}", kind.kind, object.name_any()));
        }
    })
    .await;
    let applied = began.elapsed();
    let waited = PATIENCE * u32::try_from(count).expect("a small number") + SETTLE;
    wait(&space, "every Deployment to be available", waited, |list: &[Deployment]| {
        let ready = |deployment: &&Deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            deployment.status.as_ref().is_some_and(|status| status.available_replicas == wanted)
        };
        list.len() == 2 * count && list.iter().filter(ready).count() == list.len()
    })
    .await;
    (applied, began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_is_no_read_is_a_write() {
        let text = "# TYPE spillway_operator_api_requests counter\n\
            spillway_operator_api_requests_total{method=\"GET\"} 7\n\
            spillway_operator_api_requests_total{method=\"WATCH\"} 2\n\
            spillway_operator_api_requests_total{method=\"PATCH\"} 3\n\
            spillway_operator_api_requests_total{method=\"POST\"} 1\n\
            spillway_operator_writes_total{kind=\"Secret\",verb=\"apply\"} 9\n";
        let found = requests(text);
        assert!((found.reads - 9.0).abs() < 1e-9 && (found.writes - 4.0).abs() < 1e-9);
    }
}
