//! Tenants and the digests of their keys, over as many Secrets as they need: the API server takes 1 MiB in each.
//!
//! One Secret holds all of them while they fit. Beyond that a tenant's Secret follows from its name, so that adding
//! one moves no other: kubelet brings Secrets one by one, and for a moment a tenant that moves could be in neither.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use spillway_crds::{
    FieldError, Problem, Secrets, ValidatedPipeline, settings::tenants_file, validate::RefusedTenant,
};
use spillway_model::settings::{SETTINGS_VERSION, TenantSettings, TenantsFile};

use super::{
    digest::hash10,
    names::{Component, Scope},
};

/// Bytes of tenants in one Secret.
const LARGEST_PART: usize = 900_000;
/// Numbers of Secrets. Pods mount four at least, so that needing more restarts none.
const COUNTS: [usize; 5] = [1, 4, 8, 16, 32];
const MOUNTED_AT_LEAST: usize = 4;
/// What a document has around its tenants.
const FRAME: usize = 64;

/// Tenants over Secrets.
#[derive(Debug)]
pub struct Parts {
    /// Documents by the number of their Secret.
    pub parts: BTreeMap<usize, String>,
    /// All tenants without the digests of their keys.
    pub without_keys: String,
    /// Secrets that pods mount, whether they are there or not.
    pub mounted: usize,
    /// Tenants that are left out.
    pub refused: Vec<RefusedTenant>,
}

/// Splits the tenants whose keys can be used.
#[must_use]
pub fn split(pipeline: &ValidatedPipeline, secrets: &Secrets) -> Parts {
    let (file, mut refused) = tenants_file(pipeline, secrets);
    let (tenants, too_large) = sized(file.tenants, LARGEST_PART - FRAME);
    let index = |tenant: &TenantSettings| {
        pipeline.tenants.iter().find(|spec| spec.name == tenant.name).map_or(0, |spec| spec.index)
    };
    refused.extend(too_large.iter().map(|tenant| refuse(tenant, index(tenant))));
    let keyless =
        |(_, tenant): &(usize, TenantSettings)| TenantSettings { keys: Vec::new(), ..tenant.clone() };
    let without_keys = document(tenants.iter().map(keyless).collect());
    let (count, parts, overflow) = place(tenants);
    refused.extend(overflow.iter().map(|tenant| refuse(tenant, index(tenant))));
    Parts {
        parts: parts.into_iter().map(|(part, tenants)| (part, document(tenants))).collect(),
        without_keys,
        mounted: count.max(MOUNTED_AT_LEAST),
        refused,
    }
}

fn refuse(tenant: &TenantSettings, index: usize) -> RefusedTenant {
    let problem = Problem::Malformed {
        text: tenant.name.to_string(),
        why: "has more projects and keys than fit into a Secret",
        remedy: "remove keys that are no longer used, or make several tenants of it",
    };
    let path = format!("spec.tenants[{index}].apiKeysSecretRef");
    RefusedTenant { name: tenant.name.to_string(), errors: vec![FieldError { path, problem }] }
}

/// A tenant and the bytes it takes, or the tenants that take too many.
fn sized(tenants: Vec<TenantSettings>, most: usize) -> (Vec<(usize, TenantSettings)>, Vec<TenantSettings>) {
    let (mut good, mut too_large) = (Vec::new(), Vec::new());
    for tenant in tenants {
        // With the comma behind it.
        let size = serde_json::to_string(&tenant).map_or(0, |text| text.len()) + 1;
        if size > most { too_large.push(tenant) } else { good.push((size, tenant)) }
    }
    (good, too_large)
}

type Placed = BTreeMap<usize, Vec<TenantSettings>>;

/// The fewest Secrets into which all tenants fit, and what of them is in each. What does not even fit into the most
/// that there may be is left over.
fn place(tenants: Vec<(usize, TenantSettings)>) -> (usize, Placed, Vec<TenantSettings>) {
    let most = COUNTS[COUNTS.len() - 1];
    let fits = |count: &usize| {
        let mut sizes = vec![FRAME; *count];
        tenants.iter().all(|(size, tenant)| {
            let sum = &mut sizes[part(tenant, *count)];
            *sum += size;
            *sum <= LARGEST_PART
        })
    };
    let count = COUNTS.into_iter().find(fits).unwrap_or(most);
    let (mut sizes, mut placed, mut overflow) = (vec![FRAME; count], Placed::new(), Vec::new());
    for (size, tenant) in tenants {
        let part = part(&tenant, count);
        if sizes[part] + size > LARGEST_PART {
            overflow.push(tenant);
        } else {
            sizes[part] += size;
            placed.entry(part).or_default().push(tenant);
        }
    }
    // Each is there in any case: a file without tenants says that the operator knows none, and a tenant that was
    // the only one of its Secret is out with the next write.
    for part in 0..count {
        placed.entry(part).or_default();
    }
    (count, placed, overflow)
}

fn part(tenant: &TenantSettings, count: usize) -> usize {
    let hash = hash10([tenant.name.as_str().as_bytes()]);
    u64::from_str_radix(&hash, 16).map_or(0, |hash| (hash % count as u64) as usize)
}

fn document(tenants: Vec<TenantSettings>) -> String {
    // Tenants are structs of plain values: they have a JSON form.
    serde_json::to_string(&TenantsFile { version: SETTINGS_VERSION, tenants }).unwrap_or_default()
}

/// The entry of a Secret of tenants.
pub const ENTRY: &str = "tenants.json";

impl Parts {
    /// The Secrets, the first one last: what moves out of it is in another by then, and a tenant that is there twice
    /// for a moment makes ingest keep what it has.
    #[must_use]
    pub fn secrets(&self, scope: &Scope) -> Vec<Secret> {
        let secret = |(part, document): (&usize, &String)| Secret {
            metadata: scope.meta(&scope.tenants(*part), Component::Ingest),
            data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(document.clone().into_bytes()))])),
            type_: Some("spillway.dev/tenants".to_owned()),
            ..Secret::default()
        };
        self.parts.iter().rev().map(secret).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use spillway_model::{TenantName, settings::LimitSettings};

    use super::*;

    fn tenant(number: usize, size: usize) -> (usize, TenantSettings) {
        let name = TenantName::parse(&format!("tenant-{number}")).unwrap();
        let limits = LimitSettings::default();
        (size, TenantSettings { name, keys: vec![], projects: vec![], retention_days: None, limits })
    }

    fn tenants(count: usize, size: usize) -> Vec<(usize, TenantSettings)> {
        (0..count).map(|number| tenant(number, size)).collect()
    }

    fn homes(placed: &Placed) -> BTreeSet<(usize, String)> {
        let home = |(part, tenants): (&usize, &Vec<TenantSettings>)| {
            tenants.iter().map(|tenant| (*part, tenant.name.to_string())).collect::<Vec<_>>()
        };
        placed.iter().flat_map(home).collect()
    }

    #[test]
    fn all_tenants_are_in_one_secret_while_they_fit() {
        let (count, placed, overflow) = place(tenants(800, 1_000));
        assert_eq!((count, placed.len(), overflow.len()), (1, 1, 0));
        assert_eq!(place(vec![]).0, 1);
        assert_eq!(place(vec![]).1.len(), 1, "an empty file, which says that there are no tenants");
    }

    #[test]
    fn every_tenant_is_in_one_secret_and_no_secret_is_too_large() {
        for (tenants_there, most) in [(2_000, 4), (5_000, 8), (10_000, 16), (20_000, 32)] {
            let (count, placed, overflow) = place(tenants(tenants_there, 1_000));
            assert_eq!((count, overflow.len()), (most, 0), "{tenants_there}");
            assert_eq!(homes(&placed).len(), tenants_there);
            assert!(placed.values().all(|part| part.len() * 1_000 + FRAME <= LARGEST_PART));
        }
    }

    #[test]
    fn a_secret_that_loses_its_last_tenant_says_so_and_stays() {
        // Two of them don't fit into one Secret, and they are in two of four.
        let large = LARGEST_PART / 2 + 1;
        let two = [tenant(0, large), tenant(1, large), tenant(2, large)];
        let (count, placed, overflow) = place(two.to_vec());
        assert!(count > 1 && overflow.is_empty());
        assert_eq!(placed.keys().copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn one_tenant_more_or_less_moves_no_other() {
        let (count, before, _) = place(tenants(2_000, 1_000));
        let mut fewer = tenants(2_000, 1_000);
        fewer.remove(7);
        for changed in [tenants(2_001, 1_000), fewer] {
            let (same, after, _) = place(changed);
            assert_eq!(same, count);
            assert_eq!(homes(&before).symmetric_difference(&homes(&after)).count(), 1);
        }
    }

    #[test]
    fn what_fits_nowhere_is_left_out_and_the_others_go_on() {
        let (count, placed, overflow) = place(tenants(40_000, 1_000));
        assert_eq!(count, 32);
        assert_eq!(homes(&placed).len() + overflow.len(), 40_000);
        assert!(
            !overflow.is_empty() && placed.values().all(|part| part.len() * 1_000 + FRAME <= LARGEST_PART)
        );

        let tenant = |number, projects: usize| TenantSettings {
            projects: (0..projects)
                .map(|project| spillway_model::ProjectId::parse(&format!("project-{project}")).unwrap())
                .collect(),
            ..tenant(number, 0).1
        };
        let (good, too_large) = sized(vec![tenant(1, 1), tenant(2, 1_000), tenant(3, 2)], 1_000);
        assert_eq!((good.len(), too_large.len()), (2, 1));
        assert_eq!(too_large[0].name.as_str(), "tenant-2");
    }
}
