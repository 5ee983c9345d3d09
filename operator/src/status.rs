//! The pipeline's status, as a function of what it was and what was seen. Written only when it differs.

use k8s_openapi::jiff::Timestamp;
use spillway_crds::status::{Backlog, LogPipelineStatus};

use crate::conditions::{self, Change, Finding, Type};

/// What was seen besides the conditions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) generation: Option<i64>,
    /// Recorded once, when the pipeline is first seen.
    pub(crate) image: Option<String>,
    /// Ingest pods that there are, ready ones, and the selector, once the Deployment is there.
    pub(crate) ingest: Option<Ingest>,
    pub(crate) syncer_holder: Option<String>,
    /// `None`: not known now, what was known stays.
    pub(crate) progress: Option<(Backlog, String)>,
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
    let (conditions, changes) = conditions::next(&old.conditions, findings, facts.generation, now);
    let mut new = LogPipelineStatus {
        observed_generation: facts.generation,
        conditions,
        image: old.image.clone().or(facts.image),
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
        new.lag = Some(lag);
    }
    (new != *old).then_some((new, changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Reason;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    fn progress(objects: i64) -> Option<(Backlog, String)> {
        Some((Backlog { objects, ..Backlog::default() }, "<10s".to_owned()))
    }

    #[test]
    fn nothing_new_is_no_write() {
        let findings = [(Type::SpecValid, Finding::good(Reason::Valid, ""))];
        let facts = || Facts { generation: Some(3), progress: progress(5), progress_due: true, ..Facts::default() };
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
    fn what_is_not_known_now_stays_as_it_was_known_and_the_image_stays_for_ever() {
        let old = LogPipelineStatus {
            image: Some("spillway:1".into()),
            lag: Some("5m".into()),
            replicas: Some(2),
            ..LogPipelineStatus::default()
        };
        let facts = Facts { generation: Some(1), image: Some("spillway:2".into()), ..Facts::default() };
        let (new, _) = next(&old, &[], facts, now()).unwrap();
        assert_eq!((new.image.as_deref(), new.lag.as_deref(), new.replicas), (Some("spillway:1"), Some("5m"), Some(2)));
    }
}
