//! Bucket, schema and first manifest: what a pipeline needs outside of the cluster. Each step has an outcome of its
//! own, is repeated only when it is due (see [`crate::memory::is_due`]), and keeps no other from going on.

pub(crate) mod progress;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use spillway_bucket::{Bucket, configure, preflight};
use spillway_crds::ValidatedPipeline;
use spillway_model::time::UnixMs;
use spillway_schema::{ClickHouse, SchemaError};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    backoff::jittered,
    conditions::{Finding, Reason},
    ctx::Ctx,
    dereference::Dereferenced,
    digest, events,
    failpoint::failpoint,
    gate::{self, Standing},
    identity::{self, IdentityError},
    memory::{Attempt, Memory, Opened, Running, Steps, attempt, is_due},
    owner,
    plan::{BucketPlan, Plan, SchemaPlan, names::Scope},
    target::Target,
};

/// A look at the bucket takes a dozen requests.
const BUCKET_LIMIT: Duration = Duration::from_secs(90);
/// Statements `ON CLUSTER` wait up to 180 s for every replica.
const SCHEMA_LIMIT: Duration = Duration::from_secs(400);
/// Within the life of a web identity's token.
const OPEN_AT_MOST: Duration = Duration::from_secs(45 * 60);

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
            let (finding, again) = bucket(ctx, target, valid, plan, seen, steps, bucket_inputs).await;
            steps.bucket = Some(again.attempt(steps.bucket.as_ref(), bucket_inputs, finding));
            failpoint("after-bucket");
            tell(steps);
        }
        if is_due(steps.schema.as_ref(), schema_inputs, Instant::now(), *resync) {
            failpoint("before-schema");
            let (finding, again) = schema(ctx, target, valid, &plan.schema, seen).await;
            steps.schema = Some(again.attempt(steps.schema.as_ref(), schema_inputs, finding));
            failpoint("after-schema");
        }
        if is_manifest_due(steps, inputs, *resync) {
            let (finding, again) = manifest(ctx, target, valid, plan, seen, steps, bucket_inputs).await;
            steps.manifest = Some(again.attempt(steps.manifest.as_ref(), manifest_inputs(inputs), finding));
            failpoint("after-manifest");
        }
    }
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

/// When a step is to be taken again.
enum Again {
    WithTheResync,
    /// Waiting may help.
    Soon,
    /// Only a change by its owner helps.
    AfterAChange,
}

impl Again {
    fn when(transient: bool) -> Self {
        if transient { Self::Soon } else { Self::AfterAChange }
    }

    fn attempt(self, last: Option<&Attempt>, inputs: u64, finding: Finding) -> Attempt {
        let mut next = attempt(last, inputs, Instant::now(), finding, matches!(self, Self::AfterAChange));
        // All is well but for something that is worth another try.
        if matches!(self, Self::Soon) && next.failures == 0 {
            next.failures = last.filter(|last| last.inputs == inputs).map_or(1, |last| last.failures + 1);
        }
        next
    }
}

pub(crate) fn bucket_inputs(
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &BucketPlan,
    seen: &Dereferenced,
) -> u64 {
    let s3 = valid.storage.s3.as_ref();
    let secrets = s3.and_then(|s3| s3.credentials.as_ref()).into_iter();
    let secrets = secrets.chain(s3.and_then(|s3| s3.ca.as_ref()).map(|ca| &ca.name));
    let versions: Vec<_> = secrets.map(|name| (name, seen.versions.get(name))).collect();
    let account = s3.and_then(|s3| s3.service_account.as_ref());
    digest::json(&(&plan.settings, format!("{:?}", plan.policy), versions, account, target.adopts_bucket))
}

fn schema_inputs(valid: &ValidatedPipeline, plan: &SchemaPlan, seen: &Dereferenced) -> u64 {
    let secrets = valid.clickhouse.credentials.iter();
    let secrets = secrets.chain(valid.clickhouse.ca.as_ref().map(|ca| &ca.name));
    let versions: Vec<_> = secrets.map(|name| (name, seen.versions.get(name))).collect();
    digest::json(&(&plan.settings, format!("{:?}", plan.spec), versions))
}

async fn limited<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

fn of_identity(error: &IdentityError) -> (Finding, Again) {
    let reason = match error {
        IdentityError::NoCredentials => Reason::NoCredentials,
        IdentityError::Secret { .. } => Reason::SecretUnusable,
        other => Reason::Outside(other.reason()),
    };
    (Finding::bad(reason, error.to_string()), Again::when(error.is_transient()))
}

/// The bucket as the pipeline itself, kept open between looks.
///
/// # Errors
/// What to say in the condition.
pub(crate) async fn open(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &BucketPlan,
    seen: &Dereferenced,
    memory: &mut Memory,
    inputs: u64,
) -> Result<Bucket, OpenError> {
    open_in(ctx, target, valid, plan, seen, &mut memory.outside, inputs).await
}

async fn open_in(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &BucketPlan,
    seen: &Dereferenced,
    steps: &mut Steps,
    inputs: u64,
) -> Result<Bucket, OpenError> {
    let fresh =
        steps.opened.as_ref().filter(|open| open.inputs == inputs && open.at.elapsed() < OPEN_AT_MOST);
    if let Some(open) = fresh {
        return Ok(open.bucket.clone());
    }
    // `plan` refuses a pipeline without one.
    let Some(s3) = &valid.storage.s3 else { return Err(IdentityError::NoCredentials.into()) };
    let owner = identity::owner(s3, &seen.secrets, ctx.config.use_own_credentials)?;
    let access = identity::access(ctx, &target.namespace, s3, owner, &seen.secrets).await?;
    let bucket = Bucket::open_as(&plan.settings, access).await?;
    steps.opened = Some(Opened { inputs, at: Instant::now(), bucket: bucket.clone() });
    Ok(bucket)
}

/// The bucket can't even be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Bucket(#[from] spillway_bucket::BucketError),
}

impl OpenError {
    fn outcome(&self) -> (Finding, Again) {
        match self {
            Self::Identity(error) => of_identity(error),
            Self::Bucket(error) => {
                let finding = Finding::bad(Reason::Outside(error.reason()), error.to_string());
                (finding, Again::when(error.is_transient()))
            }
        }
    }
}

async fn bucket(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &Plan,
    seen: &Dereferenced,
    steps: &mut Steps,
    inputs: u64,
) -> (Finding, Again) {
    let bucket = match open_in(ctx, target, valid, &plan.bucket, seen, steps, inputs).await {
        Ok(bucket) => bucket,
        Err(error) => return error.outcome(),
    };
    let configuring = configure::configure(&bucket, &plan.bucket.policy);
    let Some(configured) = limited(BUCKET_LIMIT, configuring).await else {
        return slow("the bucket");
    };
    let report = match configured {
        Ok(report) => report,
        Err(error) => {
            let finding = Finding::bad(Reason::Outside(error.reason()), error.to_string());
            // A bucket is created and rights are granted elsewhere, where nobody tells us.
            return (finding, Again::Soon);
        }
    };
    if !report.changed.is_empty() {
        let changed: Vec<_> = report.changed.iter().map(|setting| setting.reason()).collect();
        let note = format!("set up on {}: {}", bucket.describe(), changed.join(", "));
        events::publish(ctx, &target.reference, events::Reason::BucketChanged, note).await;
    }
    // It writes, so it is not repeated while nothing changes.
    if steps.probed != Some(inputs) {
        let Some(found) = limited(BUCKET_LIMIT, preflight::preflight(&bucket, UnixMs::now)).await else {
            return slow("the bucket");
        };
        if let Some(error) = found.iter().find(|finding| finding.level == preflight::Level::Error) {
            let again = Again::when(error.is_transient);
            return (Finding::bad(Reason::Outside(error.check.reason()), error.to_string()), again);
        }
        steps.probed = Some(inputs);
    }
    judge(&bucket, &report)
}

fn judge(bucket: &Bucket, report: &configure::Report) -> (Finding, Again) {
    let text = |notes: Vec<&configure::Note>| {
        notes.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
    };
    let dangers: Vec<_> = report.dangers().collect();
    let again = if report.wants_retry() { Again::Soon } else { Again::WithTheResync };
    if !dangers.is_empty() {
        return (Finding::bad(Reason::DataInDanger, text(dangers)), again);
    }
    let place = bucket.describe();
    if report.notes.is_empty() {
        return (Finding::good(Reason::Configured, format!("{place} can be used")), again);
    }
    let message = format!("{place} can be used, but: {}", text(report.notes.iter().collect()));
    (Finding::good(Reason::PartlyConfigured, message), again)
}

fn slow(what: &str) -> (Finding, Again) {
    let message = format!("{what} did not answer in time; check endpoint and network");
    (Finding::bad(Reason::Outside("Timeout"), message), Again::Soon)
}

/// The server as the pipeline itself.
///
/// # Errors
/// What to say in the condition.
pub(crate) fn connect(
    valid: &ValidatedPipeline,
    plan: &SchemaPlan,
    seen: &Dereferenced,
) -> Result<ClickHouse, Finding> {
    let (login, ca) =
        identity::login(&valid.clickhouse, &seen.secrets).map_err(|error| of_identity(&error).0)?;
    ClickHouse::connect_as(&plan.settings, login.as_ref(), ca.as_deref())
        .map_err(|error| Finding::bad(Reason::Outside(error.reason()), error.to_string()))
}

async fn schema(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &SchemaPlan,
    seen: &Dereferenced,
) -> (Finding, Again) {
    let client = match connect(valid, plan, seen) {
        Ok(client) => client,
        Err(finding) => return (finding, Again::AfterAChange),
    };
    let Some(applied) = limited(SCHEMA_LIMIT, spillway_schema::apply(&client, &plan.spec)).await else {
        return slow("ClickHouse");
    };
    match applied {
        Ok(applied) => {
            if !applied.steps.is_empty() {
                let steps: Vec<_> = applied.steps.iter().map(|step| step.what.as_str()).collect();
                let note = format!("{}: {}", plan.spec.records(), steps.join("; "));
                events::publish(ctx, &target.reference, events::Reason::SchemaChanged, note).await;
            }
            let mut message = format!("{} on ClickHouse {}", plan.spec.records(), applied.version);
            for advice in &applied.advice {
                message.push_str(&format!("; {}, run: {};", advice.what, advice.sql));
            }
            (Finding::good(Reason::Applied, message), Again::WithTheResync)
        }
        Err(error) => {
            // Nobody tells us when the owner has run the statements.
            let again = match &error {
                SchemaError::Refused(_)
                | SchemaError::Preflight(_)
                | SchemaError::Statement { .. }
                | SchemaError::ClickHouse(_) => Again::Soon,
            };
            (Finding::bad(Reason::Outside(error.reason()), error.to_string()), again)
        }
    }
}

async fn manifest(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &Plan,
    seen: &Dereferenced,
    steps: &mut Steps,
    inputs: u64,
) -> (Finding, Again) {
    let bucket = match open_in(ctx, target, valid, &plan.bucket, seen, steps, inputs).await {
        Ok(bucket) => bucket,
        Err(error) => return error.outcome(),
    };
    let client = match connect(valid, &plan.schema, seen) {
        Ok(client) => client,
        Err(finding) => return (finding, Again::AfterAChange),
    };
    let s3 = valid.storage.s3.as_ref();
    let rights = owner::Rights {
        adopt: target.adopts_bucket,
        own_identity: s3.is_some_and(|s3| s3.credentials.is_some() || s3.service_account.is_some()),
        has_pods: seen.rollout(&Scope::of(valid).ingest(), &target.uid).is_some(),
    };
    match limited(BUCKET_LIMIT, owner::claim(&bucket, &owner::Owner::of(target), rights)).await {
        None => return slow("the bucket"),
        Some(Ok(None)) => {}
        Some(Ok(Some(before))) => {
            tracing::info!(
                pipeline = target.name,
                namespace = target.namespace,
                "took {} over from {before}",
                bucket.describe()
            );
        }
        Some(Err(error)) => {
            // Nobody tells us when the other one has given it up.
            return (Finding::bad(Reason::Outside(error.reason()), error.to_string()), Again::Soon);
        }
    }
    failpoint("before-manifest");
    let initialising = spillway_syncer::initialise(&bucket, &client, &plan.schema.spec);
    match limited(BUCKET_LIMIT, initialising).await {
        None => slow("bucket or ClickHouse"),
        Some(Ok(())) => (Finding::good(Reason::Configured, "the manifest is there"), Again::WithTheResync),
        Some(Err(error)) => (Finding::bad(Reason::Outside(error.reason()), error.to_string()), Again::Soon),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_worth_another_try_is_good_and_tried_again() {
        let good = Finding::good(Reason::PartlyConfigured, "");
        let first = Again::Soon.attempt(None, 1, good.clone());
        let second = Again::Soon.attempt(Some(&first), 1, good.clone());
        assert_eq!((first.failures, second.failures), (1, 2));
        assert_eq!(Again::WithTheResync.attempt(Some(&second), 1, good).failures, 0);
    }

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
        assert!(
            memory.outside.failing() && memory.outside.bucket.is_some() && memory.outside.schema.is_some()
        );
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
