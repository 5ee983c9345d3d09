//! Bucket and ClickHouse, looked at with the pipeline's own credentials. They often can be reached from the cluster
//! only, so that failing to look is said and is no failure.

use std::time::Duration;

use spillway_crds::{Secrets, ValidatedPipeline};
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
    let ca = match &pipeline.clickhouse.ca {
        None => None,
        Some(ca) => Some(entry(secrets, &ca.name, ca.key())?),
    };
    let spec = &plan.schema.spec;
    let client =
        ClickHouse::connect_as(&plan.schema.settings, login.as_ref(), ca.as_deref().map(str::as_bytes))
            .map_err(|error| error.to_string())?;
    let version = preflight::supported_version(&client).await.map_err(|error| error.to_string())?;
    let names = object_names(spec);
    let existing = Existing::read(&client, spec, &names).await.map_err(|error| error.to_string())?;
    Ok(match migrations::plan(spec, version, &existing) {
        Ok(plan) => plan.steps.iter().map(|step| format!("{};\n", step.sql)).collect(),
        Err(refused) => refused.iter().map(|refusal| format!("-- by hand: {refusal}\n")).collect(),
    })
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
