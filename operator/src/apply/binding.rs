//! Whom the syncer's Role is bound to. When the account changes, syncers that run under the old one keep their Lease
//! until they are gone, however long a refused migration or a broken rollout holds that up.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{RoleBinding, Subject};
use kube::Api;

use super::{pace::Pace, settled::Settled};
use crate::{
    ctx::Ctx,
    errors::{ApiError, call},
    plan::{Manifest, Plan},
    target::Target,
};

const ACCOUNT: &str = "ServiceAccount";

/// The RoleBinding to apply. The live one is read only until nobody but the wanted account is bound.
pub(super) async fn binding(
    ctx: &Ctx,
    target: &Target,
    plan: &Plan,
    manifest: &Manifest,
    settled: Settled,
    pace: &mut Pace,
) -> Result<Manifest, ApiError> {
    let wanted = &plan.objects.syncer_role_binding;
    let account = wanted.subjects.iter().flatten().next().map(|subject| subject.name.clone());
    if pace.bound == account {
        return Ok(manifest.clone());
    }
    let api: Api<RoleBinding> = Api::namespaced(ctx.client.clone(), &target.namespace);
    let what = format!("read RoleBinding {}", manifest.name);
    let live = call(what.clone(), api.get_opt(&manifest.name)).await?;
    let subjects = subjects(wanted, live.as_ref(), settled);
    if subjects.len() == 1 {
        pace.bound = account;
    }
    let value = serde_json::to_value(RoleBinding { subjects: Some(subjects), ..wanted.clone() })
        .map_err(|source| ApiError::Json { what, source })?;
    Ok(Manifest { value, ..manifest.clone() })
}

/// The wanted ones, and until the old pods are gone the accounts that are bound already.
fn subjects(wanted: &RoleBinding, live: Option<&RoleBinding>, settled: Settled) -> Vec<Subject> {
    let mut subjects = wanted.subjects.clone().unwrap_or_default();
    if settled.old_pods_are_gone {
        return subjects;
    }
    let known: BTreeSet<String> = subjects.iter().map(|subject| subject.name.clone()).collect();
    let live = live.into_iter().flat_map(|live| live.subjects.iter().flatten());
    let old: BTreeSet<String> = live
        .filter(|subject| subject.kind == ACCOUNT && subject.namespace == wanted.metadata.namespace)
        .map(|subject| subject.name.clone())
        .filter(|name| !known.contains(name))
        .collect();
    subjects.extend(old.into_iter().map(|name| Subject {
        kind: ACCOUNT.to_owned(),
        name,
        namespace: wanted.metadata.namespace.clone(),
        api_group: None,
    }));
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(accounts: &[&str]) -> RoleBinding {
        let subjects: Vec<_> = accounts
            .iter()
            .map(|name| serde_json::json!({"kind": "ServiceAccount", "name": name, "namespace": "ns"}))
            .collect();
        let binding = serde_json::json!({
            "metadata": {"name": "logs-syncer", "namespace": "ns"},
            "roleRef": {"apiGroup": "", "kind": "Role", "name": "logs-syncer"},
            "subjects": subjects,
        });
        serde_json::from_value(binding).unwrap()
    }

    #[test]
    fn syncers_keep_their_lease_when_the_account_changes_until_they_are_gone() {
        let gone = Settled { now: true, old_pods_are_gone: true };
        for (what, live, settled, expected) in [
            ("made", None, Settled::default(), &["new"][..]),
            ("changed", Some(&["old"][..]), Settled::default(), &["new", "old"]),
            (
                "rolling out, or held by a refused migration",
                Some(&["new", "old"]),
                Settled::default(),
                &["new", "old"],
            ),
            ("changed twice", Some(&["newer", "old"]), Settled::default(), &["new", "newer", "old"]),
            (
                "old pods are ending",
                Some(&["new", "old"]),
                Settled { now: true, ..Settled::default() },
                &["new", "old"],
            ),
            ("gone", Some(&["new", "old"]), gone, &["new"]),
            ("the same", Some(&["new"]), Settled::default(), &["new"]),
            ("emptied by hand", Some(&[]), Settled::default(), &["new"]),
        ] {
            let live = live.map(binding);
            let subjects = subjects(&binding(&["new"]), live.as_ref(), settled);
            let names: Vec<_> = subjects.iter().map(|subject| subject.name.as_str()).collect();
            assert_eq!(names, expected, "{what}");
        }
        let mut foreign = binding(&["elsewhere"]);
        foreign.subjects.iter_mut().flatten().for_each(|subject| subject.namespace = Some("other".into()));
        assert_eq!(subjects(&binding(&["new"]), Some(&foreign), Settled::default()).len(), 1);
    }
}
