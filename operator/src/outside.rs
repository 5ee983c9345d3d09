//! Bucket, schema and first manifest: what a pipeline needs outside of the cluster. Each step has an outcome of its
//! own, is repeated only when it is due (see [`crate::memory::is_due`]), and keeps no other from going on.

mod lost;
pub(crate) mod progress;
mod steps;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use spillway_crds::ValidatedPipeline;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    backoff::jittered,
    conditions::{Finding, Reason},
    ctx::Ctx,
    dereference::Dereferenced,
    failpoint::failpoint,
    gate::{self, Standing},
    memory::{Attempt, Memory, Running, Steps, is_due},
    plan::Plan,
    target::Target,
};
pub(crate) use lost::REBUILD_ANNOTATION;
use steps::{Found, schema_inputs};
pub(crate) use steps::{bucket_inputs, connect, open, store};

/// How long a reconcile waits for answers: most servers answer at once, and then one pass does it.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(5) };

/// How everything outside stands.
pub(crate) struct Outside {
    pub(crate) bucket: Finding,
    pub(crate) schema: Finding,
    pub(crate) manifest: Option<Finding>,
    /// A step failed that is worth repeating soon.
    pub(crate) failed: Option<FailedStep>,
}

#[derive(Debug)]
pub(crate) struct FailedStep {
    pub(crate) step: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Until it is repeated.
    pub(crate) wait: Duration,
}

impl Outside {
    /// Before the gate.
    pub(crate) fn standing(&self, ingest_exists: bool, syncer_exists: bool) -> Standing {
        let schema = match self.schema.reason {
            _ if self.schema.is_good() => gate::Schema::Good,
            Reason::Outside(REFUSED) => gate::Schema::Refused,
            Reason::NotLookedAt => gate::Schema::Pending,
            _ => gate::Schema::Unknown,
        };
        let manifest = self.manifest.as_ref().is_some_and(Finding::is_good);
        Standing { manifest, schema, ingest_exists, syncer_exists }
    }

    /// A migration that was refused stays so until the server says otherwise, also over a restart: the condition
    /// that was written last is what remembers it.
    pub(crate) fn with_last_word(mut self, schema: Option<&str>) -> Self {
        let silent = !self.schema.is_good() && self.schema.reason != Reason::Outside(REFUSED);
        if silent && schema == Some(REFUSED) {
            let now = std::mem::take(&mut self.schema.message);
            let message = format!("a migration was refused when ClickHouse last answered; now: {now}");
            self.schema = Finding::bad(Reason::Outside(REFUSED), message);
        }
        self
    }
}

/// What a refused migration is called.
const REFUSED: &str = "SchemaDiffers";

/// Sees to it that everything outside is brought to the plan, where that is due. What takes its time goes on beside
/// the reconciles and wakes the pipeline: a server that hangs holds up neither this pipeline's objects nor another
/// pipeline.
pub(crate) async fn bring(
    ctx: &Arc<Ctx>,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &Plan,
    seen: &Dereferenced,
    memory: &mut Memory,
) -> Outside {
    let resync = jittered(ctx.config.resync, &target.uid);
    let inputs = (bucket_inputs(target, valid, &plan.bucket, seen), schema_inputs(valid, &plan.schema, seen));
    if memory.running.as_ref().is_some_and(|running| running.inputs != inputs) {
        stop(memory).await;
    }
    collect(memory);
    if memory.running.is_none() && is_any_due(&memory.outside, inputs, resync) {
        let hurried = memory.outside.failing();
        let job = Job {
            ctx: ctx.clone(),
            target: target.clone(),
            valid: valid.clone(),
            plan: plan.clone(),
            seen: seen.clone(),
            resync,
            steps: memory.outside.clone(),
        };
        let (told, outcome) = watch::channel((memory.outside.clone(), false));
        let unattended = Arc::new(AtomicBool::new(false));
        let mut task = JoinSet::new();
        task.spawn(job.run(inputs, told, unattended.clone()));
        let mut running = Running { inputs, task, outcome };
        // Whoever failed last time is not waited for.
        if !hurried && let Ok(_seat) = ctx.waiting.try_acquire() {
            let done = running.outcome.wait_for(|(_, done)| *done);
            let _ = tokio::time::timeout(PATIENCE, done).await;
        }
        // From now on it wakes the pipeline; what it said before is collected here.
        unattended.store(true, Ordering::SeqCst);
        memory.running = Some(running);
        collect(memory);
    }
    summary(memory, inputs)
}

/// Ends what is being asked, for instance because it is not to be asked any more.
pub(crate) async fn stop(memory: &mut Memory) {
    collect(memory);
    if let Some(mut running) = memory.running.take() {
        running.task.shutdown().await;
    }
}

/// Takes in what is known by now.
fn collect(memory: &mut Memory) {
    let Some(running) = &mut memory.running else { return };
    // Nobody will tell any more, if it is known or not.
    let ended = running.task.try_join_next().is_some();
    let (steps, done) = running.outcome.borrow().clone();
    memory.outside = steps;
    if done || ended {
        memory.running = None;
    }
}

/// Until the pipeline is woken, or for its lifetime, what `bring` asks.
struct Job {
    ctx: Arc<Ctx>,
    target: Target,
    valid: ValidatedPipeline,
    plan: Plan,
    seen: Dereferenced,
    resync: Duration,
    steps: Steps,
}

impl Job {
    async fn run(
        mut self,
        inputs: (u64, u64),
        told: watch::Sender<(Steps, bool)>,
        unattended: Arc<AtomicBool>,
    ) {
        let ctx = self.ctx.clone();
        let place = self.target.place();
        let tell = |steps: &Steps, done: bool| {
            told.send_replace((steps.clone(), done));
            if unattended.load(Ordering::SeqCst) {
                ctx.wakes.wake(&place);
            }
        };
        tokio::select! {
            () = ctx.ended.cancelled() => {}
            () = self.take_steps(inputs, |steps| tell(steps, false)) => tell(&self.steps, true),
        }
    }

    async fn take_steps(&mut self, inputs: (u64, u64), tell: impl Fn(&Steps)) {
        let Self { ctx, target, valid, plan, seen, resync, steps } = self;
        let (bucket_inputs, schema_inputs) = inputs;
        if is_due(steps.bucket.as_ref(), bucket_inputs, Instant::now(), *resync) {
            failpoint("before-bucket");
            let found = steps::bucket(ctx, target, valid, plan, seen, steps, bucket_inputs).await;
            let (finding, again) = either(found);
            steps.bucket = Some(again.attempt(steps.bucket.as_ref(), bucket_inputs, finding));
            failpoint("after-bucket");
            tell(steps);
        }
        if is_due(steps.schema.as_ref(), schema_inputs, Instant::now(), *resync) {
            failpoint("before-schema");
            let found = steps::schema(ctx, target, valid, &plan.schema, seen).await;
            let (finding, again) = either(found);
            steps.schema = Some(again.attempt(steps.schema.as_ref(), schema_inputs, finding));
            failpoint("after-schema");
            // A manifest that is made anew may take minutes.
            tell(steps);
        }
        if is_manifest_due(steps, inputs, *resync) {
            let found = steps::manifest(ctx, target, valid, plan, seen, steps, bucket_inputs).await;
            let (finding, again) = either(found);
            steps.manifest = Some(again.attempt(steps.manifest.as_ref(), manifest_inputs(inputs), finding));
            failpoint("after-manifest");
        }
    }
}

/// What failed is found, too.
fn either(found: Result<Found, Found>) -> Found {
    found.unwrap_or_else(|failed| failed)
}

fn is_any_due(steps: &Steps, inputs: (u64, u64), resync: Duration) -> bool {
    let now = Instant::now();
    is_due(steps.bucket.as_ref(), inputs.0, now, resync)
        || is_due(steps.schema.as_ref(), inputs.1, now, resync)
        || is_manifest_due(steps, inputs, resync)
}

fn is_manifest_due(steps: &Steps, inputs: (u64, u64), resync: Duration) -> bool {
    let usable =
        |attempt: &Option<Attempt>| attempt.as_ref().is_some_and(|attempt| attempt.finding.is_good());
    usable(&steps.bucket)
        && usable(&steps.schema)
        && is_due(steps.manifest.as_ref(), manifest_inputs(inputs), Instant::now(), resync)
}

fn manifest_inputs((bucket, schema): (u64, u64)) -> u64 {
    bucket.rotate_left(1) ^ schema
}

fn summary(memory: &Memory, inputs: (u64, u64)) -> Outside {
    let steps = &memory.outside;
    let finding = |attempt: &Option<Attempt>, inputs: u64, what: &str| match attempt {
        Some(attempt) if attempt.inputs == inputs => attempt.finding.clone(),
        _ => Finding::unknown(Reason::NotLookedAt, format!("{what} is being asked and has not answered yet")),
    };
    let named = [("bucket", &steps.bucket), ("schema", &steps.schema), ("manifest", &steps.manifest)];
    let failed = named.into_iter().find_map(|(step, attempt)| {
        let attempt = attempt.as_ref().filter(|_| memory.running.is_none())?;
        let wait = attempt.wait(Instant::now())?;
        let Finding { reason, message, .. } = attempt.finding.clone();
        Some(FailedStep { step, reason: reason.to_string(), message, wait })
    });
    Outside {
        bucket: finding(&steps.bucket, inputs.0, "the bucket"),
        schema: finding(&steps.schema, inputs.1, "ClickHouse"),
        manifest: steps.manifest.as_ref().map(|attempt| attempt.finding.clone()),
        failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_migration_stays_refused_while_the_server_is_silent() {
        let outside = |schema: Finding| Outside {
            bucket: Finding::good(Reason::Configured, ""),
            schema,
            manifest: None,
            failed: None,
        };
        let silent = || Finding::bad(Reason::Outside("Unreachable"), "no route");
        let unasked = || Finding::unknown(Reason::NotLookedAt, "");
        for (finding, last, schema) in [
            (silent(), Some(REFUSED), gate::Schema::Refused),
            (unasked(), Some(REFUSED), gate::Schema::Refused),
            (silent(), Some("Applied"), gate::Schema::Unknown),
            (silent(), None, gate::Schema::Unknown),
            (Finding::good(Reason::Applied, ""), Some(REFUSED), gate::Schema::Good),
        ] {
            let outside = outside(finding.clone()).with_last_word(last);
            assert_eq!(outside.standing(true, true).schema, schema, "{finding:?} {last:?}");
        }
    }

    /// Takes connections and says nothing.
    async fn silence() -> (std::net::SocketAddr, JoinSet<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut taken = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                taken.push(stream);
            }
        });
        (address, server)
    }

    fn context(waiting: usize) -> Arc<Ctx> {
        let client =
            kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        Arc::new(crate::run::context_of(client, waiting))
    }

    fn pipeline(server: std::net::SocketAddr) -> (Target, ValidatedPipeline, Plan, Dereferenced) {
        let spec = serde_json::json!({
            "storage": {"s3": {"bucket": "logs", "region": "us-east-1", "endpoint": format!("http://{server}"),
                "credentialsSecretRef": {"name": "s3"}}},
            "clickhouse": {"url": format!("http://{server}")},
            "tenants": [{"name": "a", "projects": ["p"], "apiKeysSecretRef": {"name": "keys"}}],
        });
        let mut pipeline = spillway_crds::LogPipeline::new("logs", serde_json::from_value(spec).unwrap());
        pipeline.metadata.namespace = Some("team".to_owned());
        pipeline.metadata.uid = Some("u".to_owned());
        let valid = spillway_crds::validate(&pipeline).unwrap();
        let mut secrets = spillway_crds::Secrets::default();
        secrets.insert(
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "s3"}, "data": {"access_key_id": "YQ==", "secret_access_key": "Yg=="},
            }))
            .unwrap(),
        );
        let inputs = crate::plan::Inputs { image: "spillway:1".to_owned(), secrets, ..Default::default() };
        let plan = crate::plan::plan(&valid, &inputs).unwrap();
        let seen = Dereferenced {
            secrets: inputs.secrets,
            versions: Default::default(),
            unreadable: Vec::new(),
            objects: Default::default(),
            pod_monitor: false,
        };
        (Target::of(&pipeline).unwrap(), valid, plan, seen)
    }

    #[tokio::test]
    async fn a_server_that_hangs_holds_up_a_reconcile_for_a_moment_at_most_and_only_some_of_them() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (address, _server) = silence().await;
        let (target, valid, plan, seen) = pipeline(address);
        for (seats, waits) in [(1, true), (0, false)] {
            let ctx = context(seats);
            let mut memory = Memory::default();
            let began = Instant::now();
            let outside = bring(&ctx, &target, &valid, &plan, &seen, &mut memory).await;
            assert_eq!(began.elapsed() >= PATIENCE, waits);
            assert!(began.elapsed() < PATIENCE + Duration::from_secs(5));
            assert_eq!(
                (outside.bucket.reason, outside.schema.reason),
                (Reason::NotLookedAt, Reason::NotLookedAt)
            );
            assert!(outside.failed.is_none() && memory.running.is_some());
            // It is being asked already: nobody waits again.
            let again = Instant::now();
            bring(&ctx, &target, &valid, &plan, &seen, &mut memory).await;
            assert!(again.elapsed() < PATIENCE, "{:?}", again.elapsed());
            stop(&mut memory).await;
            assert!(memory.running.is_none());
        }
    }

    #[tokio::test]
    async fn what_goes_on_beside_a_reconcile_wakes_the_pipeline_and_is_taken_in_then() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Nobody listens, so that the answer is quick.
        let (target, valid, plan, seen) = pipeline("127.0.0.1:1".parse().unwrap());
        let ctx = context(0);
        let mut woken = ctx.wakes.listen(Some("team".to_owned()));
        let mut memory = Memory::default();
        bring(&ctx, &target, &valid, &plan, &seen, &mut memory).await;
        while memory.running.is_some() {
            let woken = tokio::time::timeout(Duration::from_secs(120), futures::StreamExt::next(&mut woken));
            assert_eq!(woken.await.unwrap().unwrap().name, "logs");
            collect(&mut memory);
        }
        assert!(memory.outside.failing() && memory.outside.schema.is_some());
        // What doesn't answer is named by its address.
        let said = memory.outside.bucket.unwrap().finding.message;
        assert!(said.starts_with("http://127.0.0.1:1: the store is not available"), "{said}");
    }

    #[test]
    fn only_a_refused_migration_holds_the_syncer_back() {
        let outside = |schema: Finding| Outside {
            bucket: Finding::good(Reason::Configured, ""),
            schema,
            manifest: Some(Finding::good(Reason::Configured, "")),
            failed: None,
        };
        for (finding, schema) in [
            (Finding::good(Reason::Applied, ""), gate::Schema::Good),
            (Finding::bad(Reason::Outside("SchemaDiffers"), ""), gate::Schema::Refused),
            (Finding::bad(Reason::Outside("Unreachable"), ""), gate::Schema::Unknown),
            (Finding::unknown(Reason::NotLookedAt, ""), gate::Schema::Pending),
        ] {
            assert_eq!(outside(finding.clone()).standing(true, true).schema, schema, "{finding:?}");
        }
    }
}
