//! What is asked outside of the cluster, one function per step: what is found, and when to ask again. A failure is found, too.

use std::time::{Duration, Instant};

use spillway_bucket::{Bucket, configure, preflight};
use spillway_crds::ValidatedPipeline;
use spillway_model::{
    settings::{BucketSettings, Place},
    time::UnixMs,
};
use spillway_schema::ClickHouse;
use spillway_syncer::{SyncerError, core::Stop};

use super::lost;
use crate::{
    conditions::{Finding, Reason},
    ctx::Ctx,
    dereference::Dereferenced,
    digest, events,
    failpoint::failpoint,
    identity::{self, IdentityError},
    memory::{Attempt, Opened, Steps, attempt},
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

/// What a step found.
pub(super) type Found = (Finding, Again);

/// When a step is to be taken again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
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

    pub(super) fn attempt(self, last: Option<&Attempt>, inputs: u64, finding: Finding) -> Attempt {
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
    let asked = (target.adopts_bucket, &target.rebuilds_manifest);
    digest::json(&(&plan.settings, format!("{:?}", plan.policy), versions, account, asked))
}

pub(super) fn schema_inputs(valid: &ValidatedPipeline, plan: &SchemaPlan, seen: &Dereferenced) -> u64 {
    let secrets = valid.clickhouse.credentials.iter();
    let secrets = secrets.chain(valid.clickhouse.ca.as_ref().map(|ca| &ca.name));
    let versions: Vec<_> = secrets.map(|name| (name, seen.versions.get(name))).collect();
    digest::json(&(&plan.settings, format!("{:?}", plan.spec), versions))
}

/// # Errors
/// What to say when there is no answer in time.
async fn limited<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> Result<T, Found> {
    tokio::time::timeout(limit, work).await.map_err(|_| {
        let message = format!("{what} did not answer in time; check endpoint and network");
        (Finding::bad(Reason::Outside("Timeout"), message), Again::Soon)
    })
}

fn failed(reason: &'static str, error: &impl std::fmt::Display, again: Again) -> Found {
    (Finding::bad(Reason::Outside(reason), error.to_string()), again)
}

fn of_identity(error: &IdentityError) -> Found {
    let reason = match error {
        IdentityError::NoCredentials => Reason::NoCredentials,
        IdentityError::Secret { .. } => Reason::SecretUnusable,
        other => Reason::Outside(other.reason()),
    };
    (Finding::bad(reason, error.to_string()), Again::when(error.is_transient()))
}

/// The bucket can't even be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{store}: {error}")]
    Bucket { store: String, error: spillway_bucket::BucketError },
}

impl From<OpenError> for Found {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Identity(error) => of_identity(&error),
            OpenError::Bucket { error: ref source, .. } => {
                failed(source.reason(), &error, Again::when(source.is_transient()))
            }
        }
    }
}

/// For messages: that a store doesn't answer, or not as it should, is often its address that is wrong.
pub(crate) fn store(settings: &BucketSettings) -> String {
    match &settings.place {
        Place::S3(s3) => match s3.endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) {
            Some(endpoint) => endpoint.to_owned(),
            None if s3.region.is_empty() => "S3".to_owned(),
            None => format!("S3 in {}", s3.region),
        },
        Place::Directory(folder) => folder.display().to_string(),
    }
}

/// The bucket as the pipeline itself, kept open between looks.
///
/// # Errors
/// Why it can't be asked.
pub(crate) async fn open(
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
    let bucket = Bucket::open_as(&plan.settings, access).await;
    let bucket = bucket.map_err(|error| OpenError::Bucket { store: store(&plan.settings), error })?;
    steps.opened = Some(Opened { inputs, at: Instant::now(), bucket: bucket.clone() });
    Ok(bucket)
}

/// # Errors
/// As what is found; both are taken alike.
pub(super) async fn bucket(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &Plan,
    seen: &Dereferenced,
    steps: &mut Steps,
    inputs: u64,
) -> Result<Found, Found> {
    let bucket = open(ctx, target, valid, &plan.bucket, seen, steps, inputs).await?;
    let configuring = configure::configure(&bucket, &plan.bucket.policy);
    let store = store(&plan.bucket.settings);
    let what = format!("the bucket at {store}");
    let configured = limited(BUCKET_LIMIT, &what, configuring).await?;
    let by_account = valid.storage.s3.as_ref().is_some_and(|s3| s3.service_account.is_some());
    if by_account && configured.as_ref().is_err_and(|error| !error.is_transient()) {
        // Its account may be given another role, which no input tells.
        steps.opened = None;
    }
    // A bucket is created and rights are granted elsewhere, where nobody tells us.
    let report =
        configured.map_err(|error| failed(error.reason(), &format!("{store}: {error}"), Again::Soon))?;
    if !report.changed.is_empty() {
        let changed: Vec<_> = report.changed.iter().map(|setting| setting.reason()).collect();
        let note = format!("set up on {}: {}", bucket.describe(), changed.join(", "));
        events::publish(ctx, &target.reference, events::Reason::BucketChanged, note).await;
    }
    // It writes, so it is not repeated while nothing changes.
    if steps.probed != Some(inputs) {
        let probing = preflight::preflight(&bucket, UnixMs::now);
        let found = limited(BUCKET_LIMIT, &what, probing).await?;
        if let Some(error) = found.iter().find(|finding| finding.level == preflight::Level::Error) {
            let message = format!("{store}: {error}");
            return Err(failed(error.check.reason(), &message, Again::when(error.is_transient)));
        }
        steps.probed = Some(inputs);
    }
    Ok(judge(&bucket, &report))
}

fn judge(bucket: &Bucket, report: &configure::Report) -> Found {
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

/// # Errors
/// As what is found; both are taken alike.
pub(super) async fn schema(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &SchemaPlan,
    seen: &Dereferenced,
) -> Result<Found, Found> {
    let client = connect(valid, plan, seen).map_err(|finding| (finding, Again::AfterAChange))?;
    let applying = spillway_schema::apply(&client, &plan.spec);
    // Nobody tells us when the owner has run the statements of a refused migration.
    let applied = limited(SCHEMA_LIMIT, "ClickHouse", applying)
        .await?
        .map_err(|error| failed(error.reason(), &error, Again::Soon))?;
    if !applied.steps.is_empty() {
        let steps: Vec<_> = applied.steps.iter().map(|step| step.what.as_str()).collect();
        let note = format!("{}: {}", plan.spec.records(), events::few("statement", &steps));
        events::publish(ctx, &target.reference, events::Reason::SchemaChanged, note).await;
    }
    let mut message = format!("{} on ClickHouse {}", plan.spec.records(), applied.version);
    for advice in &applied.advice {
        message.push_str(&format!("; {}, run: {};", advice.what, advice.sql));
    }
    Ok((Finding::good(Reason::Applied, message), Again::WithTheResync))
}

/// # Errors
/// As what is found; both are taken alike.
pub(super) async fn manifest(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    plan: &Plan,
    seen: &Dereferenced,
    steps: &mut Steps,
    inputs: u64,
) -> Result<Found, Found> {
    let bucket = open(ctx, target, valid, &plan.bucket, seen, steps, inputs).await?;
    let client = connect(valid, &plan.schema, seen).map_err(|finding| (finding, Again::AfterAChange))?;
    let me = owner::Owner::of(target);
    let s3 = valid.storage.s3.as_ref();
    let rights = owner::Rights {
        adopt: target.adopts_bucket,
        own_identity: s3.is_some_and(|s3| s3.credentials.is_some() || s3.service_account.is_some()),
        has_pods: seen.rollout(&Scope::of(valid).ingest(), &target.uid).is_some(),
    };
    let claiming = owner::claim(&bucket, &me, rights);
    // Nobody tells us when another one has given it up.
    let store = store(&plan.bucket.settings);
    let before =
        limited(BUCKET_LIMIT, &format!("the bucket at {store}"), claiming).await?.map_err(|error| {
            let reason = error.reason();
            match error {
                owner::OwnerError::Bucket(error) => failed(reason, &format!("{store}: {error}"), Again::Soon),
                other => failed(reason, &other, Again::Soon),
            }
        })?;
    if let Some(before) = before {
        tracing::info!(
            pipeline = target.name,
            namespace = target.namespace,
            "took {} over from {before}",
            bucket.describe()
        );
    }
    failpoint("before-manifest");
    let initialising = spillway_syncer::initialise(&bucket, &client, &plan.schema.spec);
    let mut made = limited(BUCKET_LIMIT, "bucket or ClickHouse", initialising).await?;
    if target.rebuilds_manifest.is_some() {
        if matches!(made, Err(SyncerError::Stopped(Stop::ManifestLost))) {
            let rebuilding = lost::rebuild(ctx, target, plan, &bucket, &client);
            made = limited(lost::LIMIT, "bucket or ClickHouse", rebuilding).await?;
        }
        if made.is_ok() {
            failpoint("after-rebuild");
            lost::disarm(ctx, target).await;
        }
    }
    made.map_err(|error| {
        let reason = error.reason();
        match error {
            SyncerError::Bucket(error) => failed(reason, &format!("{store}: {error}"), Again::Soon),
            SyncerError::Rebuild(error) => {
                let again = lost::again(&error);
                failed(reason, &lost::refusal(&error, again, ctx.config.resync), again)
            }
            other => failed(reason, &other, Again::Soon),
        }
    })?;
    Ok((Finding::good(Reason::Configured, "the manifest is there"), Again::WithTheResync))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_its_address() {
        let settings = |endpoint: Option<&str>, region: &str| {
            let s3 = spillway_model::settings::S3Settings {
                endpoint: endpoint.map(str::to_owned),
                region: region.to_owned(),
                ..Default::default()
            };
            BucketSettings { place: Place::S3(s3), prefix: String::new() }
        };
        for (endpoint, region, named) in [
            (Some("http://minio:9000"), "us-east-1", "http://minio:9000"),
            (None, "eu-central-1", "S3 in eu-central-1"),
            (Some(""), "", "S3"),
        ] {
            assert_eq!(store(&settings(endpoint, region)), named);
        }
    }

    #[test]
    fn a_warning_worth_another_try_is_good_and_tried_again() {
        let good = Finding::good(Reason::PartlyConfigured, "");
        let first = Again::Soon.attempt(None, 1, good.clone());
        let second = Again::Soon.attempt(Some(&first), 1, good.clone());
        assert_eq!((first.failures, second.failures), (1, 2));
        assert_eq!(Again::WithTheResync.attempt(Some(&second), 1, good).failures, 0);
    }
}
