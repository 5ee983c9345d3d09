//! What is said about a pipeline, and how it becomes conditions.

use std::fmt;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Longest message of a condition that is written; the API server takes 32 KiB.
const LONGEST_MESSAGE: usize = 4_000;

/// Types of conditions, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Type {
    /// Records are received and loaded.
    Ready,
    /// The spec and everything that it names can be used.
    SpecValid,
    /// Every tenant can send.
    TenantsValid,
    /// The bucket is there and can be written conditionally.
    BucketReady,
    /// Table and views are as the spec says.
    SchemaReady,
    /// Ingest pods answer.
    IngestAvailable,
    /// A syncer is at work.
    SyncerAvailable,
}

impl Type {
    const ALL: [Self; 7] = [
        Self::Ready,
        Self::SpecValid,
        Self::TenantsValid,
        Self::BucketReady,
        Self::SchemaReady,
        Self::IngestAvailable,
        Self::SyncerAvailable,
    ];

    /// `None`: somebody else's.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|type_| type_.to_string() == name)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Why a condition is as it is: for programs, never free text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    // SpecValid
    Valid,
    Invalid,
    Unreadable,
    NoCredentials,
    SecretUnusable,
    SecretUnreadable,
    // TenantsValid
    AllValid,
    NoTenants,
    TenantsLeftOut,
    // BucketReady, SchemaReady
    Configured,
    PartlyConfigured,
    DataInDanger,
    Applied,
    SpecInvalid,
    NotLookedAt,
    // IngestAvailable, SyncerAvailable
    NotOurs,
    ApplyFailed,
    Available,
    RollingOut,
    NoPodsReady,
    PodsFailing,
    WaitingForBucket,
    WaitingForSchema,
    ScaledToZero,
    NoLeader,
    StatusStale,
    // Ready
    Ready,
    Deleting,
    Paused,
    Suspended,
    Suspending,
    // What a library calls its error.
    Outside(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside(reason) => f.write_str(reason),
            own => fmt::Debug::fmt(own, f),
        }
    }
}

/// What is said of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) status: Truth,
    pub(crate) reason: Reason,
    /// What it is and, unless all is well, what to do.
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn good(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: Truth::True, reason, message: message.into() }
    }

    pub(crate) fn bad(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: Truth::False, reason, message: message.into() }
    }

    pub(crate) fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: Truth::Unknown, reason, message: message.into() }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.status == Truth::True
    }
}

/// A condition's change that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) type_: Type,
    pub(crate) to: Truth,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Ours of the conditions, in order. What others say of the pipeline stays theirs: applied along, it would be ours,
/// and each of their changes would be undone.
pub(crate) fn ours(conditions: &[Condition]) -> Vec<Condition> {
    let mut ours: Vec<_> =
        conditions.iter().filter(|condition| Type::named(&condition.type_).is_some()).cloned().collect();
    ours.sort_by_key(|condition| Type::named(&condition.type_));
    ours
}

/// The conditions that say `findings`, in order; ours that nothing is said of are kept. `lastTransitionTime` moves
/// only with the status.
pub(crate) fn next(
    old: &[Condition],
    findings: &[(Type, Finding)],
    generation: Option<i64>,
    now: Timestamp,
) -> (Vec<Condition>, Vec<Change>) {
    let mut changes = Vec::new();
    let mut all = Vec::new();
    for (type_, finding) in findings {
        let name = type_.to_string();
        let status = finding.status.as_str();
        let before = old.iter().find(|condition| condition.type_ == name);
        let same = before.filter(|before| before.status == status);
        let reason = finding.reason.to_string();
        if before.is_none_or(|before| before.status != status || before.reason != reason) {
            let message = finding.message.clone();
            changes.push(Change { type_: *type_, to: finding.status, reason: reason.clone(), message });
        }
        all.push(Condition {
            type_: name,
            status: status.to_owned(),
            reason,
            message: finding.message.chars().take(LONGEST_MESSAGE).collect(),
            observed_generation: generation,
            last_transition_time: same.map_or(Time(now), |same| same.last_transition_time.clone()),
        });
    }
    let said =
        |condition: &&Condition| findings.iter().any(|(type_, _)| type_.to_string() == condition.type_);
    all.extend(old.iter().filter(|condition| !said(condition)).cloned());
    (ours(&all), changes)
}

/// What conditions say, without their reasons.
pub(crate) fn said(conditions: &[Condition]) -> Vec<(Type, Finding)> {
    let finding = |condition: &Condition| {
        let status = match condition.status.as_str() {
            "True" => Truth::True,
            "False" => Truth::False,
            _ => Truth::Unknown,
        };
        Finding { status, reason: Reason::Outside("Said"), message: condition.message.clone() }
    };
    let typed = |condition: &Condition| Some((Type::named(&condition.type_)?, finding(condition)));
    conditions.iter().filter_map(typed).collect()
}

/// Whether all is well, from what is said of the parts: the first that isn't is the reason.
pub(crate) fn ready(findings: &[(Type, Finding)]) -> Finding {
    let decisive = |truth: Truth| {
        // A tenant that is left out is that tenant's matter; the others are received and loaded.
        findings.iter().find(|(type_, finding)| *type_ != Type::TenantsValid && finding.status == truth)
    };
    match decisive(Truth::False).or_else(|| decisive(Truth::Unknown)) {
        None => Finding::good(Reason::Ready, "records are received and loaded"),
        Some((type_, finding)) => Finding {
            status: Truth::False,
            reason: finding.reason,
            message: format!("{type_}: {}", finding.message),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_of_transition_moves_only_with_the_status() {
        let good = (Type::BucketReady, Finding::good(Reason::Configured, "fine"));
        let (first, changes) = next(&[], std::slice::from_ref(&good), Some(1), at(10));
        assert_eq!(changes.len(), 1);
        let (same, changes) = next(&first, std::slice::from_ref(&good), Some(1), at(20));
        assert_eq!((&same, changes), (&first, vec![]));

        let other_text = (Type::BucketReady, Finding::good(Reason::Configured, "fine, too"));
        let (reworded, changes) = next(&first, &[other_text], Some(2), at(30));
        assert_eq!(reworded[0].last_transition_time.0, at(10));
        assert_eq!((reworded[0].observed_generation, changes), (Some(2), vec![]));

        let bad = (Type::BucketReady, Finding::bad(Reason::Outside("Denied"), "no"));
        let (worse, changes) = next(&first, &[bad], Some(2), at(40));
        assert_eq!(worse[0].last_transition_time.0, at(40));
        assert_eq!((worse[0].reason.as_str(), changes[0].reason.as_str()), ("Denied", "Denied"));
    }

    #[test]
    fn conditions_that_nothing_is_said_of_are_kept() {
        let (first, _) = next(&[], &[(Type::SchemaReady, Finding::good(Reason::Applied, ""))], None, at(1));
        let bucket = (Type::BucketReady, Finding::good(Reason::Configured, ""));
        let (both, _) = next(&first, &[bucket], None, at(2));
        let types: Vec<_> = both.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(types, ["BucketReady", "SchemaReady"]);
    }

    #[test]
    fn what_others_say_is_not_taken_over() {
        let bucket = (Type::BucketReady, Finding::good(Reason::Configured, ""));
        let (mut old, _) = next(&[], std::slice::from_ref(&bucket), None, at(1));
        let ours = old.clone();
        old.insert(0, Condition { type_: "example.com/Backed".to_owned(), ..old[0].clone() });
        assert_eq!(next(&old, &[bucket], None, at(2)), (ours, vec![]));
    }

    #[test]
    fn what_is_wrong_decides_over_what_is_unknown_and_a_tenant_over_nothing() {
        let good = || Finding::good(Reason::Valid, "");
        let unknown = || Finding::unknown(Reason::NotLookedAt, "not yet");
        let bad = || Finding::bad(Reason::Outside("Denied"), "no");
        for (findings, status, reason) in [
            (vec![(Type::SpecValid, good()), (Type::BucketReady, good())], Truth::True, Reason::Ready),
            (vec![(Type::SpecValid, good()), (Type::TenantsValid, bad())], Truth::True, Reason::Ready),
            (vec![(Type::BucketReady, unknown())], Truth::False, Reason::NotLookedAt),
            (
                vec![(Type::BucketReady, unknown()), (Type::SchemaReady, bad())],
                Truth::False,
                Reason::Outside("Denied"),
            ),
        ] {
            let ready = ready(&findings);
            assert_eq!((ready.status, ready.reason), (status, reason), "{findings:?}");
        }
    }
}
