//! A plan as text: objects as YAML documents that `kubectl apply -f -` takes, all else as comments.

use std::fmt::Write as _;

use serde::Serialize;
use spillway_bucket::configure::{Encryption, Policy};
use spillway_schema::{Version, existing::Existing, migrations};

use super::Plan;

/// Why a plan has no text.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error("an object has no JSON form: {0}")]
    Json(#[from] serde_json::Error),
    #[error("an object has no YAML form: {0}")]
    Yaml(#[from] serde_saphyr::SerializeError),
}

/// The text of a plan. The schema is shown as it would be made on an empty server of this version.
///
/// # Errors
/// When an object can't be written.
pub fn render(plan: &Plan, server: Version) -> Result<String, RenderError> {
    let mut text = String::new();
    for line in remarks(plan) {
        comment(&mut text, &line);
    }
    for manifest in plan.objects.list()? {
        text.push_str("---\n");
        text.push_str(&yaml(&manifest.value)?);
    }
    text.push_str("---\n");
    comment(&mut text, "The bucket, which the operator looks after with the pipeline's own credentials:");
    comment(&mut text, &yaml(&plan.bucket.settings)?);
    for setting in bucket_settings(&plan.bucket.policy) {
        comment(&mut text, &setting);
    }
    comment(&mut text, "");
    comment(
        &mut text,
        &format!("The schema, on an empty ClickHouse {server} at {}:", plan.schema.settings.url),
    );
    match migrations::plan(&plan.schema.spec, server, &Existing::default()) {
        Ok(schema) => schema.steps.iter().for_each(|step| comment(&mut text, &format!("{};", step.sql))),
        Err(refused) => refused.iter().for_each(|refusal| comment(&mut text, &refusal.to_string())),
    }
    Ok(text)
}

/// What a user should know of a plan: tenants that are left out, Secrets that are missing, notes.
#[must_use]
pub fn remarks(plan: &Plan) -> Vec<String> {
    let tenants = plan.refused_tenants.iter().flat_map(|tenant| {
        tenant.errors.iter().map(move |error| format!("tenant {} is left out: {error}", tenant.name))
    });
    let secrets = plan.secret_errors.iter().map(ToString::to_string);
    tenants.chain(secrets).chain(plan.notes.iter().map(ToString::to_string)).collect()
}

/// What is set up on a bucket, one thing a line.
fn bucket_settings(policy: &Policy) -> Vec<String> {
    let Policy { create, encryption, versioning, block_public_access, dead_letter_expiry_days, housekeeping } =
        policy;
    let encryption = encryption.map(|encryption| match encryption {
        Encryption::Aes256 => "encryption: AES256",
        Encryption::AwsKms => "encryption: aws:kms",
    });
    let lines = [
        create.then(|| "created if it is missing".to_owned()),
        encryption.map(str::to_owned),
        versioning.map(|on| format!("versioning: {on}")),
        block_public_access.map(|on| format!("public access blocked: {on}")),
        dead_letter_expiry_days.map(|days| format!("dead letters expire after {days} days, by their tag")),
        housekeeping.then(|| "incomplete uploads and old versions of control objects expire".to_owned()),
    ];
    let lines: Vec<String> = lines.into_iter().flatten().map(|line| format!("- {line}")).collect();
    if lines.is_empty() { vec!["- left as it is".to_owned()] } else { lines }
}

/// A value as YAML, with a line break at its end.
///
/// # Errors
/// When it can't be written.
pub fn yaml(value: &impl Serialize) -> Result<String, serde_saphyr::SerializeError> {
    let mut text = serde_saphyr::to_string(value)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn comment(text: &mut String, lines: &str) {
    for line in lines.trim_end().split('\n') {
        // Writing into a String can't fail.
        let _ = writeln!(text, "{}", format!("# {line}").trim_end());
    }
}
