//! The pipeline's status, as a function of what it was and what was seen. Written only when it differs.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use serde_json::Value;
use spillway_crds::status::{Backlog, LogPipelineStatus};

use crate::conditions::{self, Change, Finding, Type};

/// What was seen besides the conditions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) generation: Option<i64>,
    /// Ingest pods that there are, ready ones, and the selector, once the Deployment is there.
    pub(crate) ingest: Option<Ingest>,
    pub(crate) syncer_holder: Option<String>,
    /// Backlog and lag, of which there is none while no syncer is to run. `None`: not known now, what was known stays.
    pub(crate) progress: Option<(Backlog, Option<String>)>,
    /// Whether a change of the progress alone is worth a write; once a minute it is.
    pub(crate) progress_due: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ingest {
    pub(crate) replicas: i32,
    pub(crate) available: i32,
    pub(crate) wanted: i32,
    pub(crate) selector: String,
}

/// The next status, and what of the conditions people should hear of. `None`: it is the same.
pub(crate) fn next(
    old: &LogPipelineStatus,
    findings: &[(Type, Finding)],
    facts: Facts,
    now: Timestamp,
) -> Option<(LogPipelineStatus, Vec<Change>)> {
    let old = &LogPipelineStatus { conditions: conditions::ours(&old.conditions), ..old.clone() };
    let (conditions, changes) = conditions::next(&old.conditions, findings, facts.generation, now);
    let mut new = LogPipelineStatus {
        observed_generation: facts.generation,
        conditions,
        syncer_holder: facts.syncer_holder,
        ..old.clone()
    };
    if let Some(ingest) = facts.ingest {
        new.replicas = Some(ingest.replicas);
        new.selector = Some(ingest.selector);
        new.ingest = Some(format!("{}/{}", ingest.available, ingest.wanted));
    }
    let progress_only = new == *old;
    if let Some((backlog, lag)) = facts.progress
        && (!progress_only || facts.progress_due)
    {
        new.backlog = Some(backlog);
        new.lag = lag;
    }
    (new != *old).then_some((new, changes))
}

/// The status of an object that can't be read: all of it stays but what is said now. Without the image in it the pods
/// would go on with another one.
pub(crate) fn next_raw(
    old: &Value,
    findings: &[(Type, Finding)],
    generation: Option<i64>,
    now: Timestamp,
) -> Option<(Value, Vec<Change>)> {
    let all = old.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let all: Vec<Condition> = all.filter_map(|one| serde_json::from_value(one.clone()).ok()).collect();
    let before = conditions::ours(&all);
    let (after, changes) = conditions::next(&before, findings, generation, now);
    if after == before {
        return None;
    }
    let mut new = old.as_object().cloned().unwrap_or_default();
    new.insert("conditions".to_owned(), serde_json::to_value(after).ok()?);
    if let Some(generation) = generation {
        new.insert("observedGeneration".to_owned(), generation.into());
    }
    Some((new.into(), changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Reason;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    fn progress(objects: i64) -> Option<(Backlog, Option<String>)> {
        Some((Backlog { objects, ..Backlog::default() }, Some("<10s".to_owned())))
    }

    #[test]
    fn an_object_that_cant_be_read_keeps_all_of_its_status_but_what_is_said_now() {
        let condition = |type_: &str| {
            serde_json::json!({
                "type": type_, "status": "True", "reason": "Fine", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let old = serde_json::json!({
            "image": "spillway:1", "replicas": 2, "lag": {"of": "a newer version"},
            "conditions": [condition("SchemaReady"), condition("SpecValid")],
        });
        let findings = [(Type::SpecValid, Finding::bad(Reason::Unreadable, "no"))];
        let (new, changes) = next_raw(&old, &findings, Some(4), now()).unwrap();
        assert_eq!(
            (&new["image"], &new["replicas"], &new["lag"]),
            (&old["image"], &old["replicas"], &old["lag"])
        );
        assert_eq!(
            (&new["conditions"][1], &new["conditions"][0]["reason"]),
            (&condition("SchemaReady"), &"Unreadable".into())
        );
        assert_eq!(changes.len(), 1);
        assert_eq!(next_raw(&new, &findings, Some(4), Timestamp::from_second(9_000).unwrap()), None);
    }

    #[test]
    fn what_others_say_of_a_pipeline_is_no_reason_to_write() {
        let findings = [(Type::SpecValid, Finding::good(Reason::Valid, ""))];
        let (mut first, _) = next(&LogPipelineStatus::default(), &findings, Facts::default(), now()).unwrap();
        let foreign = Condition { type_: "example.com/Backed".to_owned(), ..first.conditions[0].clone() };
        first.conditions.insert(0, foreign);
        assert_eq!(next(&first, &findings, Facts::default(), now()), None);
    }

    #[test]
    fn nothing_new_is_no_write() {
        let findings = [(Type::SpecValid, Finding::good(Reason::Valid, ""))];
        let facts =
            || Facts { generation: Some(3), progress: progress(5), progress_due: true, ..Facts::default() };
        let (first, _) = next(&LogPipelineStatus::default(), &findings, facts(), now()).unwrap();
        let later = Timestamp::from_second(9_000).unwrap();
        assert_eq!(next(&first, &findings, facts(), later), None);
    }

    #[test]
    fn a_backlog_alone_is_written_when_it_is_due_and_along_with_anything_else() {
        let old = LogPipelineStatus::default();
        let facts = |due| Facts { progress: progress(7), progress_due: due, ..Facts::default() };
        assert_eq!(next(&old, &[], facts(false), now()), None);
        assert!(next(&old, &[], facts(true), now()).is_some());
        let holder = Some("pod-1".to_owned());
        let (new, _) = next(&old, &[], Facts { syncer_holder: holder, ..facts(false) }, now()).unwrap();
        assert_eq!(new.backlog.map(|backlog| backlog.objects), Some(7));
    }

    #[test]
    fn a_pipeline_at_rest_has_no_lag_and_is_written_once() {
        let facts = |progress| Facts { progress, progress_due: true, ..Facts::default() };
        let (before, _) = next(&LogPipelineStatus::default(), &[], facts(progress(7)), now()).unwrap();
        let rest = || facts(Some((Backlog::default(), None)));
        let (resting, _) = next(&before, &[], rest(), now()).unwrap();
        assert_eq!((resting.lag.as_deref(), &resting.backlog), (None, &Some(Backlog::default())));
        assert_eq!(next(&resting, &[], rest(), now()), None);
        // Released: so it stays until a syncer tells.
        assert_eq!(next(&resting, &[], facts(None), now()), None);
        let (released, _) = next(&resting, &[], facts(progress(2)), now()).unwrap();
        assert_eq!(released.lag.as_deref(), Some("<10s"));
    }

    #[test]
    fn what_is_not_known_now_stays_as_it_was_known_and_the_image_stays_for_ever() {
        let old = LogPipelineStatus {
            image: Some("spillway:1".into()),
            lag: Some("5m".into()),
            replicas: Some(2),
            ..LogPipelineStatus::default()
        };
        let facts = Facts { generation: Some(1), ..Facts::default() };
        let (new, _) = next(&old, &[], facts, now()).unwrap();
        assert_eq!(
            (new.image.as_deref(), new.lag.as_deref(), new.replicas),
            (Some("spillway:1"), Some("5m"), Some(2))
        );
    }
}
