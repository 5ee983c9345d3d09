//! The Secrets of storage, ClickHouse and TLS: which pods get which, and whether they hold what is needed.
//! Those of tenants are read by the operator alone.

use std::collections::BTreeSet;

use spillway_crds::{FieldError, Problem, Secrets, ValidatedPipeline, reference::SecretKeyRef};

use super::digest::hash10;

/// Names of the Secrets that ingest pods read and read again, and of those that the tenants' are made of.
#[must_use]
pub fn of_ingest(pipeline: &ValidatedPipeline) -> BTreeSet<&str> {
    let s3 = pipeline.storage.s3.as_ref().and_then(|s3| s3.credentials.as_deref());
    let keys = pipeline.tenants.iter().map(|tenant| tenant.api_keys_secret.as_str());
    s3.into_iter().chain(pipeline.ingest.tls.as_deref()).chain(keys).collect()
}

/// Names of the Secrets that syncer pods read and read again.
#[must_use]
pub fn of_syncer(pipeline: &ValidatedPipeline) -> BTreeSet<&str> {
    let s3 = pipeline.storage.s3.as_ref().and_then(|s3| s3.credentials.as_deref());
    s3.into_iter().chain(pipeline.clickhouse.credentials.as_deref()).collect()
}

/// Names of all Secrets that the pipeline names.
#[must_use]
pub fn all(pipeline: &ValidatedPipeline) -> BTreeSet<&str> {
    let authorities = syncer_authorities(pipeline).into_iter().map(|ca| ca.name.as_str());
    of_ingest(pipeline).into_iter().chain(of_syncer(pipeline)).chain(authorities).collect()
}

/// Certificate authorities of ingest pods.
#[must_use]
pub fn ingest_authorities(pipeline: &ValidatedPipeline) -> Vec<&SecretKeyRef> {
    pipeline.storage.s3.iter().filter_map(|s3| s3.ca.as_ref()).collect()
}

/// Certificate authorities of syncer pods.
#[must_use]
pub fn syncer_authorities(pipeline: &ValidatedPipeline) -> Vec<&SecretKeyRef> {
    ingest_authorities(pipeline).into_iter().chain(pipeline.clickhouse.ca.as_ref()).collect()
}

/// What goes into [`super::names::CA_HASH`]. While one of them is missing it stays as `observed`: restarting pods would
/// only end those that still run.
#[must_use]
pub fn ca_hash(authorities: &[&SecretKeyRef], secrets: &Secrets, observed: Option<&str>) -> Option<String> {
    let read = |ca: &&SecretKeyRef| secrets.entries(&ca.name).and_then(|entries| entries.get(ca.key()));
    let found: Option<Vec<&Vec<u8>>> = authorities.iter().map(read).collect();
    match found {
        Some(found) if found.is_empty() => None,
        Some(found) => Some(hash10(found.into_iter().map(Vec::as_slice))),
        None => observed.map(str::to_owned),
    }
}

/// Secrets and entries that are not there.
#[must_use]
pub fn errors(pipeline: &ValidatedPipeline, secrets: &Secrets) -> Vec<FieldError> {
    let mut wanted: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    if let Some(s3) = &pipeline.storage.s3 {
        if let Some(name) = &s3.credentials {
            let entries = vec!["access_key_id", "secret_access_key"];
            wanted.push(("spec.storage.s3.credentialsSecretRef", name, entries));
        }
        if let Some(ca) = &s3.ca {
            wanted.push(("spec.storage.s3.caSecretRef", &ca.name, vec![ca.key()]));
        }
    }
    if let Some(name) = &pipeline.clickhouse.credentials {
        wanted.push(("spec.clickhouse.credentialsSecretRef", name, vec!["username", "password"]));
    }
    if let Some(ca) = &pipeline.clickhouse.ca {
        wanted.push(("spec.clickhouse.caSecretRef", &ca.name, vec![ca.key()]));
    }
    if let Some(name) = &pipeline.ingest.tls {
        wanted.push(("spec.ingest.tls.secretRef", name, vec!["tls.crt", "tls.key"]));
    }
    wanted.into_iter().filter_map(|(path, name, entries)| error(path, name, &entries, secrets)).collect()
}

fn error(path: &str, name: &str, wanted: &[&str], secrets: &Secrets) -> Option<FieldError> {
    let problem = match secrets.entries(name) {
        None => Problem::NoSecret { secret: name.to_owned() },
        Some(entries) => {
            let lacking = wanted.iter().filter(|entry| !entries.contains_key(**entry));
            Problem::lacking(name, lacking.map(|&entry| entry.to_owned()).collect())?
        }
    };
    Some(FieldError { path: path.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_a_secret_lacks_is_said_at_once() {
        let secret = |entries: serde_json::Value| -> Secrets {
            let secret = json!({"metadata": {"name": "s3"}, "stringData": entries});
            [serde_json::from_value(secret).unwrap()].into_iter().collect()
        };
        let wanted = ["access_key_id", "secret_access_key"];
        for (entries, expected) in [
            (
                json!({"accessKey": "a"}),
                Some("x: Secret \"s3\" has no entries access_key_id, secret_access_key; add them"),
            ),
            (json!({"access_key_id": "a"}), Some("x: Secret \"s3\" has no entry secret_access_key; add it")),
            (json!({"access_key_id": "a", "secret_access_key": "b"}), None),
        ] {
            let said = error("x", "s3", &wanted, &secret(entries)).map(|error| error.to_string());
            assert_eq!(said.as_deref(), expected);
        }
    }
}
