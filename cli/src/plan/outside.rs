//! Bucket and ClickHouse, looked at with the pipeline's own credentials. They often can be reached from the cluster
//! only, so that failing to look is said and is no failure.

use std::time::Duration;

use spillway_bucket::{
    Access, Bucket, Identity,
    configure::{Preview, preview},
};
use spillway_crds::{Secrets, ValidatedPipeline, reference::SecretKeyRef};
use spillway_operator::plan::Plan;
use spillway_schema::{
    ClickHouse, Login,
    existing::Existing,
    migrations::{self, object_names},
    preflight,
};
use tokio::time::timeout;

use super::diff;
use crate::output;

/// How long looking may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What would be set up on the bucket.
pub(crate) async fn bucket(plan: &Plan, pipeline: &ValidatedPipeline, secrets: &Secrets) -> Option<String> {
    let Preview { now, then, notes } = match timeout(PATIENCE, look(plan, pipeline, secrets)).await {
        Ok(Ok(preview)) => preview,
        Ok(Err(error)) => return not_looked_at("the bucket", &error),
        Err(_) => return not_looked_at("the bucket", "no answer in time"),
    };
    for note in notes {
        output::note(&format!("note: {note}"));
    }
    let name =
        pipeline.storage.s3.as_ref().map_or_else(String::new, |s3| format!("{}/{}", s3.bucket, s3.prefix));
    let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    diff::unified(&format!("bucket {name}"), true, &text(&now), true, &text(&then))
}

async fn look(plan: &Plan, pipeline: &ValidatedPipeline, secrets: &Secrets) -> Result<Preview, String> {
    let s3 = pipeline.storage.s3.as_ref().ok_or("the pipeline names none")?;
    let identity = match (&s3.credentials, &s3.service_account) {
        (Some(name), _) => Identity::Keys {
            access_key_id: entry(secrets, name, "access_key_id")?,
            secret_access_key: entry(secrets, name, "secret_access_key")?,
            session_token: entry(secrets, name, "session_token").ok(),
        },
        (None, Some(account)) => {
            return Err(format!("only the operator gets a token of ServiceAccount {account}"));
        }
        (None, None) => return Err("the operator would ask with credentials of its own".to_owned()),
    };
    let access = Access { identity, ca_pem: authority(secrets, s3.ca.as_ref())? };
    let bucket = Bucket::open_as(&plan.bucket.settings, access).await.map_err(|error| error.to_string())?;
    preview(&bucket, &plan.bucket.policy).await.map_err(|error| error.to_string())
}

/// The statements that would be run, or what would have to be done by hand.
pub(crate) async fn schema(plan: &Plan, pipeline: &ValidatedPipeline, secrets: &Secrets) -> Option<String> {
    let statements = match timeout(PATIENCE, statements(plan, pipeline, secrets)).await {
        Ok(Ok(statements)) => statements,
        Ok(Err(error)) => return not_looked_at("ClickHouse", &error),
        Err(_) => return not_looked_at("ClickHouse", "no answer in time"),
    };
    diff::unified("schema", true, "", true, &statements)
}

async fn statements(plan: &Plan, pipeline: &ValidatedPipeline, secrets: &Secrets) -> Result<String, String> {
    let login = match &pipeline.clickhouse.credentials {
        None => None,
        Some(name) => {
            let (username, password) = (entry(secrets, name, "username")?, entry(secrets, name, "password")?);
            Some(Login { username, password })
        }
    };
    let ca = authority(secrets, pipeline.clickhouse.ca.as_ref())?;
    let spec = &plan.schema.spec;
    let client = ClickHouse::connect_as(&plan.schema.settings, login.as_ref(), ca.as_deref())
        .map_err(|error| error.to_string())?;
    let version = preflight::supported_version(&client).await.map_err(|error| error.to_string())?;
    let names = object_names(spec);
    let existing = Existing::read(&client, spec, &names).await.map_err(|error| error.to_string())?;
    Ok(match migrations::plan(spec, version, &existing) {
        Ok(plan) => plan.steps.iter().map(|step| format!("{};\n", step.sql)).collect(),
        Err(refused) => refused.iter().map(|refusal| format!("-- by hand: {refusal}\n")).collect(),
    })
}

fn authority(secrets: &Secrets, ca: Option<&SecretKeyRef>) -> Result<Option<Vec<u8>>, String> {
    ca.map(|ca| entry(secrets, &ca.name, ca.key()).map(String::into_bytes)).transpose()
}

fn entry(secrets: &Secrets, name: &str, entry: &str) -> Result<String, String> {
    let value = secrets.entries(name).and_then(|entries| entries.get(entry));
    let value = value.ok_or_else(|| format!("there is no entry {entry} of Secret {name}"))?;
    Ok(String::from_utf8_lossy(value).trim().to_owned())
}

fn not_looked_at(what: &str, why: &str) -> Option<String> {
    output::note(&format!("note: {what} was not looked at: {why}"));
    None
}
