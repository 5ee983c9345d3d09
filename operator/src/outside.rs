//! Bucket, schema and first manifest: what a pipeline needs outside of the cluster. Each step has an outcome of its
//! own, is repeated only when it is due (see [`crate::memory::is_due`]), and keeps no other from going on.

pub(crate) mod progress;

use std::time::{Duration, Instant};

use spillway_bucket::{Bucket, configure, preflight};
use spillway_crds::ValidatedPipeline;
use spillway_model::time::UnixMs;
use spillway_schema::{ClickHouse, SchemaError};

use crate::{
    backoff::jittered,
    conditions::{Finding, Reason},
    ctx::Ctx,
    dereference::Dereferenced,
    digest, events,
    failpoint::failpoint,
    gate::{self, Standing},
    identity::{self, IdentityError},
    memory::{Attempt, Memory, Opened, attempt, is_due},
    plan::{BucketPlan, Plan, SchemaPlan},
    target::Target,
};

/// A look at the bucket takes a dozen requests.
const BUCKET_LIMIT: Duration = Duration::from_secs(90);
/// Statements `ON CLUSTER` wait up to 180 s for every replica.
const SCHEMA_LIMIT: Duration = Duration::from_secs(400);
/// Within the life of a web identity's token.
const OPEN_AT_MOST: Duration = Duration::from_secs(45 * 60);

/// How everything outside stands.
pub(crate) struct Outside {
    pub(crate) bucket: Finding,
    pub(crate) schema: Finding,
    pub(crate) manifest: Option<Finding>,
    /// A step failed that is worth repeating soon: its name and reason.
    pub(crate) failed: Option<(&'static str, String)>,
}

impl Outside {
    /// Before the gate.
    pub(crate) fn standing(&self, ingest_exists: bool, syncer_exists: bool) -> Standing {
        let schema = match self.schema.reason {
            _ if self.schema.is_good() => gate::Schema::Good,
            Reason::Outside("SchemaDiffers") => gate::Schema::Refused,
            _ => gate::Schema::Unknown,
        };
        let manifest = self.manifest.as_ref().is_some_and(Finding::is_good);
        Standing { manifest, schema, ingest_exists, syncer_exists }
    }
}

/// Brings everything outside to the plan, where that is due.
pub(crate) async fn bring(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &Plan,
    seen: &Dereferenced,
    memory: &mut Memory,
) -> Outside {
    let resync = jittered(ctx.config.resync, &target.uid);
    let bucket_inputs = bucket_inputs(valid, &plan.bucket, seen);
    let schema_inputs = schema_inputs(valid, &plan.schema, seen);

    if is_due(memory.bucket.as_ref(), bucket_inputs, Instant::now(), resync) {
        failpoint("before-bucket");
        let (finding, again) = bucket(ctx, target, valid, plan, seen, memory, bucket_inputs).await;
        memory.bucket = Some(again.attempt(memory.bucket.as_ref(), bucket_inputs, finding));
        failpoint("after-bucket");
    }
    if is_due(memory.schema.as_ref(), schema_inputs, Instant::now(), resync) {
        failpoint("before-schema");
        let (finding, again) = schema(ctx, target, valid, &plan.schema, seen).await;
        memory.schema = Some(again.attempt(memory.schema.as_ref(), schema_inputs, finding));
        failpoint("after-schema");
    }
    let manifest_inputs = bucket_inputs.rotate_left(1) ^ schema_inputs;
    let usable = |attempt: &Option<Attempt>| attempt.as_ref().is_some_and(|attempt| attempt.finding.is_good());
    if usable(&memory.bucket)
        && usable(&memory.schema)
        && is_due(memory.manifest.as_ref(), manifest_inputs, Instant::now(), resync)
    {
        let (finding, again) = manifest(ctx, target, valid, plan, seen, memory, bucket_inputs).await;
        memory.manifest = Some(again.attempt(memory.manifest.as_ref(), manifest_inputs, finding));
        failpoint("after-manifest");
    }
    summary(memory)
}

fn summary(memory: &Memory) -> Outside {
    let not_yet = || Finding::unknown(Reason::NotLookedAt, "not looked at yet");
    let finding = |attempt: &Option<Attempt>| attempt.as_ref().map(|attempt| attempt.finding.clone());
    let steps = [("bucket", &memory.bucket), ("schema", &memory.schema), ("manifest", &memory.manifest)];
    let failed = steps.into_iter().find_map(|(step, attempt)| {
        let attempt = attempt.as_ref().filter(|attempt| attempt.failures > 0 && !attempt.patient)?;
        Some((step, attempt.finding.reason.to_string()))
    });
    Outside {
        bucket: finding(&memory.bucket).unwrap_or_else(not_yet),
        schema: finding(&memory.schema).unwrap_or_else(not_yet),
        manifest: finding(&memory.manifest),
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

fn bucket_inputs(valid: &ValidatedPipeline, plan: &BucketPlan, seen: &Dereferenced) -> u64 {
    let s3 = valid.storage.s3.as_ref();
    let secrets = s3.and_then(|s3| s3.credentials.as_ref()).into_iter();
    let secrets = secrets.chain(s3.and_then(|s3| s3.ca.as_ref()).map(|ca| &ca.name));
    let versions: Vec<_> = secrets.map(|name| (name, seen.versions.get(name))).collect();
    let account = s3.and_then(|s3| s3.service_account.as_ref());
    digest::json(&(&plan.settings, format!("{:?}", plan.policy), versions, account))
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
    let fresh = memory.opened.as_ref().filter(|open| open.inputs == inputs && open.at.elapsed() < OPEN_AT_MOST);
    if let Some(open) = fresh {
        return Ok(open.bucket.clone());
    }
    // `plan` refuses a pipeline without one.
    let Some(s3) = &valid.storage.s3 else { return Err(IdentityError::NoCredentials.into()) };
    let owner = identity::owner(s3, &seen.secrets, ctx.config.use_own_credentials)?;
    let access = identity::access(ctx, &target.namespace, s3, owner, &seen.secrets).await?;
    let bucket = Bucket::open_as(&plan.settings, access).await?;
    memory.opened = Some(Opened { inputs, at: Instant::now(), bucket: bucket.clone() });
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
    memory: &mut Memory,
    inputs: u64,
) -> (Finding, Again) {
    let bucket = match open(ctx, target, valid, &plan.bucket, seen, memory, inputs).await {
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
    if memory.probed != Some(inputs) {
        let Some(found) = limited(BUCKET_LIMIT, preflight::preflight(&bucket, UnixMs::now)).await else {
            return slow("the bucket");
        };
        if let Some(error) = found.iter().find(|finding| finding.level == preflight::Level::Error) {
            let again = Again::when(error.is_transient);
            return (Finding::bad(Reason::Outside(error.check.reason()), error.to_string()), again);
        }
        memory.probed = Some(inputs);
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
    memory: &mut Memory,
    inputs: u64,
) -> (Finding, Again) {
    let bucket = match open(ctx, target, valid, &plan.bucket, seen, memory, inputs).await {
        Ok(bucket) => bucket,
        Err(error) => return error.outcome(),
    };
    let client = match connect(valid, &plan.schema, seen) {
        Ok(client) => client,
        Err(finding) => return (finding, Again::AfterAChange),
    };
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
            (Finding::unknown(Reason::NotLookedAt, ""), gate::Schema::Unknown),
        ] {
            assert_eq!(outside(finding.clone()).standing(true, true).schema, schema, "{finding:?}");
        }
    }
}
