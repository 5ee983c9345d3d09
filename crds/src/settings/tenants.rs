//! The tenants file: digests of API keys, never the keys.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use spillway_model::settings::{KeyDigest, LimitSettings, SETTINGS_VERSION, TenantSettings, TenantsFile};

use crate::{
    FieldError, Problem, Secrets, ValidatedPipeline,
    validate::{Limits, RefusedTenant, Tenant},
};

/// Shorter keys could be guessed.
const SHORTEST_KEY: usize = 16;

/// The tenants whose keys can be used, and those that are left out because theirs can't.
pub fn tenants_file(pipeline: &ValidatedPipeline, secrets: &Secrets) -> (TenantsFile, Vec<RefusedTenant>) {
    let (mut tenants, mut refused) = (Vec::new(), Vec::new());
    let mut owners: BTreeMap<[u8; 32], String> = BTreeMap::new();
    for tenant in &pipeline.tenants {
        match keys(tenant, secrets, &owners) {
            Ok(keys) => {
                owners.extend(keys.iter().map(|key| (key.0, tenant.name.to_string())));
                tenants.push(settings(tenant, keys));
            }
            Err(problem) => {
                let path = format!("spec.tenants[{}].apiKeysSecretRef", tenant.index);
                let errors = vec![FieldError { path, problem }];
                refused.push(RefusedTenant { name: tenant.name.to_string(), errors });
            }
        }
    }
    (TenantsFile { version: SETTINGS_VERSION, tenants }, refused)
}

fn keys(
    tenant: &Tenant,
    secrets: &Secrets,
    owners: &BTreeMap<[u8; 32], String>,
) -> Result<Vec<KeyDigest>, Problem> {
    let secret = &tenant.api_keys_secret;
    let entries = secrets.entries(secret).ok_or_else(|| Problem::NoSecret { secret: secret.clone() })?;
    if entries.is_empty() {
        return Err(Problem::NoEntry { secret: secret.clone(), entry: "<any name>".to_owned() });
    }
    let mut digests = Vec::new();
    for (entry, value) in entries {
        // A file put into a Secret often ends with a line break.
        let key = value.trim_ascii();
        if key.len() < SHORTEST_KEY || !key.iter().all(u8::is_ascii_graphic) {
            return Err(Problem::BadKey {
                secret: secret.clone(),
                entry: entry.clone(),
                shortest: SHORTEST_KEY,
            });
        }
        let digest: [u8; 32] = Sha256::digest(key).into();
        if let Some(owner) = owners.get(&digest) {
            let (secret, entry, owner) = (secret.clone(), entry.clone(), owner.clone());
            return Err(Problem::KeyTaken { secret, entry, owner });
        }
        digests.push(KeyDigest(digest));
    }
    Ok(digests)
}

fn settings(tenant: &Tenant, keys: Vec<KeyDigest>) -> TenantSettings {
    let Limits { records_per_second, bytes_per_second, burst, max_record_bytes } = &tenant.limits;
    TenantSettings {
        name: tenant.name.clone(),
        keys,
        projects: tenant.projects.clone(),
        retention_days: Some(tenant.retention_days),
        limits: LimitSettings {
            records_per_second: records_per_second.map(u64::from),
            bytes_per_second: *bytes_per_second,
            burst: *burst,
            max_record_bytes: *max_record_bytes,
        },
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;
    use crate::{LogPipeline, validate};

    fn pipeline(tenants: &[(&str, &str, &str)]) -> ValidatedPipeline {
        let tenants: Vec<_> = tenants
            .iter()
            .map(|(name, project, secret)| {
                json!({"name": name, "projects": [project], "apiKeysSecretRef": {"name": secret}})
            })
            .collect();
        let spec = serde_json::from_value(json!({"tenants": tenants})).unwrap();
        validate(&LogPipeline::new("logs", spec)).unwrap()
    }

    fn secrets(all: &[(&str, &str)]) -> Secrets {
        let secret = |(name, key): &(&str, &str)| -> Secret {
            serde_json::from_value(json!({"metadata": {"name": name}, "stringData": {"key": key}})).unwrap()
        };
        all.iter().map(secret).collect()
    }

    #[test]
    fn a_key_becomes_its_digest() {
        let pipeline = pipeline(&[("a", "shop", "s")]);
        let (file, refused) = tenants_file(&pipeline, &secrets(&[("s", "0123456789abcdef\n")]));
        assert_eq!(refused, []);
        assert_eq!(file.tenants[0].keys, [KeyDigest(Sha256::digest(b"0123456789abcdef").into())]);
        assert!(file.validate().is_ok());
    }

    #[test]
    fn a_tenant_without_usable_keys_is_left_out_and_the_others_go_on() {
        let tenants = [
            ("a", "p1", "missing"),
            ("b", "p2", "good"),
            ("c", "p3", "short"),
            ("d", "p4", "good"),
            ("e", "p5", "own"),
        ];
        let all = secrets(&[("good", "0123456789abcdef"), ("short", "hunter2"), ("own", "fedcba9876543210")]);
        let (file, refused) = tenants_file(&pipeline(&tenants), &all);
        let kept: Vec<_> = file.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        assert_eq!(kept, ["b", "e"]);
        let reasons: Vec<_> =
            refused.iter().map(|tenant| (tenant.name.as_str(), tenant.errors[0].problem.reason())).collect();
        assert_eq!(reasons, [("a", "NoSecret"), ("c", "BadKey"), ("d", "KeyTaken")]);
        assert!(!refused[1].errors[0].to_string().contains("hunter2"));
    }
}
