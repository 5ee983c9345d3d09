//! What is said of a pipeline, from what was seen and done. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use spillway_crds::{FieldError, validate::RefusedTenant};

use crate::{
    conditions::{self, Finding, Reason, Truth, Type, ready},
    gate::Decision,
    inventory::Rollout,
    kinds::Id,
    lag::{Progress, rounded},
    outside::progress::Staged,
    plan::Note,
};

/// How a component's pods are, and what is in their way.
#[derive(Clone, Debug)]
pub(crate) struct Component<'a> {
    pub(crate) rollout: Option<&'a Rollout>,
    pub(crate) decision: Decision,
    /// Why the decision is not to apply: bucket or schema.
    pub(crate) schema_is_bad: bool,
    pub(crate) not_ours: Vec<&'a Id>,
    pub(crate) failed: Vec<String>,
    /// What the pods themselves say.
    pub(crate) pods: Option<&'a str>,
    pub(crate) suspend: bool,
    /// Pods that the operator asks for; `None`: somebody else says how many.
    pub(crate) planned: Option<i32>,
}

/// Mistakes in one line. Each has a `;` before what to do about it, hence another sign between them.
pub(crate) fn text(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

pub(crate) fn spec(secrets: &[FieldError], notes: &[Note]) -> Finding {
    if !secrets.is_empty() {
        return Finding::bad(Reason::SecretUnusable, text(secrets));
    }
    if notes.is_empty() {
        return Finding::good(Reason::Valid, "the spec and everything that it names can be used");
    }
    let notes: Vec<_> = notes.iter().map(ToString::to_string).collect();
    Finding::good(Reason::Valid, notes.join(" | "))
}

pub(crate) fn tenants(refused: &[RefusedTenant], total: usize) -> Finding {
    if total == 0 {
        return Finding::good(Reason::NoTenants, "nobody can send yet: add spec.tenants");
    }
    if refused.is_empty() {
        return Finding::good(Reason::AllValid, format!("{total} of {total} tenants can send"));
    }
    let why: Vec<_> =
        refused.iter().map(|tenant| format!("{}: {}", tenant.name, text(&tenant.errors))).collect();
    let left = total.saturating_sub(refused.len());
    let message = format!("{left} of {total} tenants can send, left out: {}", why.join(" | "));
    Finding::bad(Reason::TenantsLeftOut, message)
}

pub(crate) fn ingest(component: &Component<'_>) -> Finding {
    if let Some(finding) = in_the_way(component) {
        return finding;
    }
    let Some(rollout) = component.rollout else {
        return Finding::bad(Reason::NoPodsReady, "the Deployment has just been made");
    };
    if component.suspend {
        return if rollout.pods == 0 {
            Finding::bad(Reason::Suspended, "ingest is scaled to zero; set spec.suspend: false to go on")
        } else {
            Finding::bad(Reason::Suspending, "ingest writes what it has and ends")
        };
    }
    // Pods that are asked for come as soon as the Deployment is seen with its new number.
    if rollout.wanted == 0 && component.planned.is_none_or(|planned| planned == 0) {
        let message = match component.planned {
            Some(_) => "no pods are wanted; set spec.ingest.replicas",
            None => "the Deployment is scaled to zero, where autoscalers leave it; scale it up by hand",
        };
        return Finding::bad(Reason::ScaledToZero, message);
    }
    pods(component, rollout, "can receive")
}

pub(crate) fn syncer(
    component: &Component<'_>,
    holder: Option<&str>,
    progress: Option<&Progress>,
) -> Finding {
    if let Some(finding) = in_the_way(component) {
        return finding;
    }
    let Some(rollout) = component.rollout else {
        return Finding::bad(Reason::NoPodsReady, "the Deployment has just been made");
    };
    if component.suspend && rollout.wanted == 0 {
        return Finding::bad(Reason::Suspended, "everything is loaded; set spec.suspend: false to go on");
    }
    if let Some(trouble) = progress.and_then(|progress| progress.trouble.as_ref()) {
        return Finding::bad(Reason::Outside(trouble.reason), trouble.message.clone());
    }
    let pods = pods(component, rollout, "are ready");
    if !pods.is_good() {
        return pods;
    }
    if holder.is_none() {
        return Finding::bad(Reason::NoLeader, "no syncer holds the Lease yet; see their logs if this lasts");
    }
    if progress.is_some_and(|progress| progress.stale) {
        let message = "the syncer has not written its status for 2 minutes; see its log";
        return Finding::bad(Reason::StatusStale, message);
    }
    pods
}

/// What keeps a component from being applied.
fn in_the_way(component: &Component<'_>) -> Option<Finding> {
    if !component.not_ours.is_empty() {
        let names: Vec<_> = component.not_ours.iter().map(ToString::to_string).collect();
        let message = format!(
            "{} is there and belongs to somebody else or to an earlier pipeline of this name, so it was left alone; delete or rename it, or rename the pipeline",
            names.join(", ")
        );
        return Some(Finding::bad(Reason::NotOurs, message));
    }
    if !component.failed.is_empty() {
        return Some(Finding::bad(Reason::ApplyFailed, component.failed.join(" | ")));
    }
    match component.decision {
        Decision::Apply | Decision::Keep => None,
        Decision::Wait if component.schema_is_bad => {
            Some(Finding::bad(Reason::WaitingForSchema, "pods are made when SchemaReady is True"))
        }
        Decision::Wait => Some(Finding::bad(
            Reason::WaitingForBucket,
            "pods are made when bucket, schema and the first manifest are there",
        )),
    }
}

fn pods(component: &Component<'_>, rollout: &Rollout, what: &str) -> Finding {
    let wanted = component.planned.filter(|_| rollout.wanted == 0).unwrap_or(rollout.wanted);
    let count = format!("{} of {wanted} pods {what}", rollout.available);
    let trouble = component.pods.map(str::to_owned).or_else(|| rollout.trouble.clone());
    if rollout.available == 0 {
        return match trouble {
            Some(trouble) => Finding::bad(Reason::PodsFailing, format!("{count}: {trouble}")),
            None => Finding::bad(Reason::NoPodsReady, count),
        };
    }
    if rollout.settled() && rollout.available >= rollout.wanted {
        return Finding::good(Reason::Available, count);
    }
    match trouble {
        // Those that run go on.
        Some(trouble) => Finding::good(Reason::PodsFailing, format!("{count}: {trouble}")),
        None => Finding::good(Reason::RollingOut, count),
    }
}

/// All conditions of a paused pipeline, Ready first: as what was last `said` of the parts that nobody looks at, and as
/// its pods are now.
pub(crate) fn paused(parts: Vec<(Type, Finding)>, said: &[Condition]) -> Vec<(Type, Finding)> {
    let mut known = conditions::said(said);
    known
        .retain(|(type_, _)| *type_ != Type::Ready && !parts.iter().any(|(looked_at, _)| looked_at == type_));
    known.extend(parts.iter().cloned());
    let Finding { status, message, .. } = ready(&known);
    let message = format!("the operator leaves everything as it is (spec.paused); {message}");
    let mut all = vec![(Type::Ready, Finding { status, reason: Reason::Paused, message })];
    all.extend(parts);
    all
}

/// All conditions, Ready first. `staged`: what is left of a suspended pipeline, once its last ingest pod has gone.
pub(crate) fn all(
    parts: Vec<(Type, Finding)>,
    suspend: bool,
    staged: Option<Staged>,
) -> Vec<(Type, Finding)> {
    let mut whole = ready(&parts);
    if suspend {
        let stopped = |(type_, finding): &(Type, Finding)| {
            !matches!(type_, Type::IngestAvailable | Type::SyncerAvailable)
                || finding.reason == Reason::Suspended
        };
        let (reason, message) = if parts.iter().all(stopped) {
            (
                Reason::Suspended,
                "ingest is stopped and everything is loaded; set spec.suspend: false to go on".to_owned(),
            )
        } else {
            (Reason::Suspending, suspending(staged))
        };
        whole = Finding { status: Truth::False, reason, message };
    }
    let mut all = vec![(Type::Ready, whole)];
    all.extend(parts);
    all
}

fn suspending(staged: Option<Staged>) -> String {
    match staged {
        None => "ingest ends, then the syncer loads what is left".to_owned(),
        Some(Staged { objects: 0, .. }) => "everything is loaded, and the syncer ends".to_owned(),
        Some(Staged { objects, at_least }) => {
            let more = if at_least { "at least " } else { "" };
            let plural = if objects == 1 { "" } else { "s" };
            format!(
                "ingest has ended, and the syncer loads what is left: {more}{} staged object{plural}, deleted syncer.deleteGrace after they are loaded",
                rounded(objects)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_suspended_pipeline_waits_for_is_said() {
        let staged = |objects, at_least| Some(Staged { objects, at_least });
        for (staged, said) in [
            (None, "ingest ends"),
            (staged(12, false), "left: 12 staged objects"),
            // In few words, that change seldom.
            (staged(987, true), "left: at least 990 staged objects"),
            (staged(0, false), "everything is loaded"),
        ] {
            let ready =
                all(vec![(Type::IngestAvailable, Finding::bad(Reason::Suspending, ""))], true, staged);
            assert!(ready[0].1.message.contains(said), "{ready:?}");
        }
    }

    fn rollout(wanted: i32, available: i32) -> Rollout {
        Rollout { wanted, available, pods: wanted, updated: wanted, current: true, ..Rollout::default() }
    }

    fn component(rollout: Option<&Rollout>) -> Component<'_> {
        Component {
            rollout,
            decision: Decision::Apply,
            schema_is_bad: false,
            not_ours: Vec::new(),
            failed: Vec::new(),
            pods: None,
            suspend: false,
            planned: rollout.map(|rollout| rollout.wanted),
        }
    }

    #[test]
    fn ingest_is_available_while_any_pod_is() {
        let (all, one, none, zero) = (rollout(2, 2), rollout(2, 1), rollout(2, 0), rollout(0, 0));
        let id = Id { kind: crate::kinds::Kind::Service, name: "logs-ingest".into() };
        for (component, status, reason) in [
            (component(Some(&all)), Truth::True, Reason::Available),
            (component(Some(&one)), Truth::True, Reason::RollingOut),
            (
                Component { pods: Some("ImagePullBackOff"), ..component(Some(&one)) },
                Truth::True,
                Reason::PodsFailing,
            ),
            (
                Component { pods: Some("ImagePullBackOff"), ..component(Some(&none)) },
                Truth::False,
                Reason::PodsFailing,
            ),
            (component(Some(&none)), Truth::False, Reason::NoPodsReady),
            (component(None), Truth::False, Reason::NoPodsReady),
            (component(Some(&zero)), Truth::False, Reason::ScaledToZero),
            (Component { planned: None, ..component(Some(&zero)) }, Truth::False, Reason::ScaledToZero),
            // Resumed a moment ago.
            (Component { planned: Some(2), ..component(Some(&zero)) }, Truth::False, Reason::NoPodsReady),
            (Component { suspend: true, ..component(Some(&zero)) }, Truth::False, Reason::Suspended),
            (Component { suspend: true, ..component(Some(&all)) }, Truth::False, Reason::Suspending),
            (
                Component { decision: Decision::Wait, ..component(None) },
                Truth::False,
                Reason::WaitingForBucket,
            ),
            (Component { not_ours: vec![&id], ..component(Some(&all)) }, Truth::False, Reason::NotOurs),
        ] {
            let finding = ingest(&component);
            assert_eq!((finding.status, finding.reason), (status, reason), "{component:?}");
        }
    }

    #[test]
    fn a_syncer_is_available_when_one_leads_and_gets_on() {
        let all = rollout(2, 2);
        let progress = |stale, trouble| Progress {
            backlog: Default::default(),
            lag: String::new(),
            empty: true,
            stale,
            held_up: false,
            trouble,
        };
        let fault = Some(crate::lag::Trouble { reason: "ServerAtFault", message: String::new() });
        for (holder, progress, reason) in [
            (Some("a"), None, Reason::Available),
            (Some("a"), Some(progress(false, None)), Reason::Available),
            (None, Some(progress(false, None)), Reason::NoLeader),
            (Some("a"), Some(progress(true, None)), Reason::StatusStale),
            (Some("a"), Some(progress(false, fault)), Reason::Outside("ServerAtFault")),
        ] {
            let finding = syncer(&component(Some(&all)), holder, progress.as_ref());
            assert_eq!(finding.reason, reason, "{holder:?} {progress:?}");
        }
    }

    #[test]
    fn paused_and_suspended_are_said_first() {
        let good = || {
            vec![
                (Type::SpecValid, Finding::good(Reason::Valid, "")),
                (Type::IngestAvailable, Finding::good(Reason::Available, "")),
            ]
        };
        let stopped = vec![
            (Type::IngestAvailable, Finding::bad(Reason::Suspended, "")),
            (Type::SyncerAvailable, Finding::bad(Reason::Suspended, "")),
        ];
        for (parts, suspend, status, reason) in [
            (good(), false, Truth::True, Reason::Ready),
            (good(), true, Truth::False, Reason::Suspending),
            (stopped, true, Truth::False, Reason::Suspended),
        ] {
            let ready = all(parts, suspend, None).remove(0).1;
            assert_eq!((ready.status, ready.reason), (status, reason));
        }
    }

    #[test]
    fn a_paused_pipeline_is_as_ready_as_it_was_and_as_its_pods_are() {
        let said = |bucket: Finding| {
            let findings = [
                (Type::Ready, Finding::bad(Reason::Outside("Denied"), "")),
                (Type::TenantsValid, Finding::bad(Reason::TenantsLeftOut, "")),
                (Type::BucketReady, bucket),
                (Type::IngestAvailable, Finding::bad(Reason::NoPodsReady, "")),
            ];
            conditions::next(&[], &findings, None, k8s_openapi::jiff::Timestamp::UNIX_EPOCH).0
        };
        let pods = |good| {
            let finding = if good {
                Finding::good(Reason::Available, "")
            } else {
                Finding::bad(Reason::NoPodsReady, "none")
            };
            vec![(Type::IngestAvailable, finding)]
        };
        let (fine, denied) =
            (|| Finding::good(Reason::Configured, ""), || Finding::bad(Reason::Outside("Denied"), "no"));
        for (bucket, good, status, text) in [
            (fine(), true, Truth::True, "received and loaded"),
            (fine(), false, Truth::False, "IngestAvailable: none"),
            (denied(), true, Truth::False, "BucketReady: no"),
        ] {
            let all = paused(pods(good), &said(bucket));
            let (type_, ready) = &all[0];
            assert_eq!(
                (*type_, ready.status, ready.reason, all.len()),
                (Type::Ready, status, Reason::Paused, 2)
            );
            assert!(ready.message.contains(text), "{}", ready.message);
        }
    }

    #[test]
    fn every_type_of_condition_has_the_name_that_the_crd_gives_it() {
        let types = [
            Type::Ready,
            Type::SpecValid,
            Type::TenantsValid,
            Type::BucketReady,
            Type::SchemaReady,
            Type::IngestAvailable,
            Type::SyncerAvailable,
        ];
        assert_eq!(types.map(|type_| type_.to_string()), spillway_crds::status::conditions::ALL);
    }
}
