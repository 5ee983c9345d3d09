//! What a Lease says, and what is written into it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::config::{Config, Identity, LONGEST};

/// Who holds it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Holder<'a> {
    Nobody,
    Me,
    Other(&'a str),
}

pub(crate) fn holder<'a>(lease: &'a Lease, me: &Identity) -> Holder<'a> {
    match lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) {
        None | Some("") => Holder::Nobody,
        Some(name) if name == me.as_str() => Holder::Me,
        Some(name) => Holder::Other(name),
    }
}

/// How long its holder must be left alone. What is no duration counts as ours: taking the lease at once would be
/// the other way to read it, and two would hold it.
pub(crate) fn duration(lease: &Lease, config: &Config) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    match seconds.map(u64::try_from) {
        Some(Ok(seconds)) if seconds > 0 => Duration::from_secs(seconds).min(LONGEST),
        _ => config.lease_duration,
    }
}

/// Whether nothing was written between the two that a holder writes. Others may change labels.
pub(crate) fn same(a: &Lease, b: &Lease) -> bool {
    same_object(a, b) && a.spec == b.spec
}

/// Not one that was deleted and another that was made under its name.
pub(crate) fn same_object(a: &Lease, b: &Lease) -> bool {
    a.metadata.uid == b.metadata.uid
}

/// A new one, held by nobody: a creation has no resourceVersion, so one that arrives long after it was given up
/// must not make anybody the holder.
pub(crate) fn empty(namespace: &str, name: &str) -> Lease {
    let (namespace, name) = (Some(namespace.to_owned()), Some(name.to_owned()));
    Lease {
        metadata: ObjectMeta { namespace, name, ..ObjectMeta::default() },
        spec: Some(LeaseSpec::default()),
    }
}

/// The same lease, renewed or taken by `me`. Everything else that is in it stays, the resourceVersion too: it
/// makes the write fail if anybody wrote in between.
pub(crate) fn claimed(found: &Lease, me: &Identity, config: &Config, wall: Timestamp) -> Lease {
    let mine = holder(found, me) == Holder::Me;
    let mut lease = found.clone();
    let spec = lease.spec.get_or_insert_default();
    let transitions = spec.lease_transitions.unwrap_or(0).max(0);
    spec.lease_transitions = Some(if mine { transitions } else { transitions.saturating_add(1) });
    if !mine || spec.acquire_time.is_none() {
        spec.acquire_time = Some(MicroTime(wall));
    }
    spec.holder_identity = Some(me.to_string());
    spec.lease_duration_seconds = Some(config.seconds());
    spec.renew_time = Some(MicroTime(wall));
    lease
}

/// Held by nobody, for a second: as client-go does, so that candidates built on it take it at once as well.
pub(crate) fn released(held: &Lease, wall: Timestamp) -> Lease {
    let mut lease = held.clone();
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    spec.acquire_time = Some(MicroTime(wall));
    spec.renew_time = Some(MicroTime(wall));
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity::new("me").unwrap()
    }

    fn lease(holder: &str, seconds: Option<i32>, transitions: Option<i32>) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            lease_transitions: transitions,
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { resource_version: Some("7".to_owned()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(spec) }
    }

    #[test]
    fn a_malformed_duration_counts_as_ours() {
        let config = Config::default();
        for (seconds, expected) in
            [(Some(40), 40), (None, 15), (Some(0), 15), (Some(-3), 15), (Some(i32::MAX), 3600)]
        {
            let found = duration(&lease("other", seconds, None), &config);
            assert_eq!(found, Duration::from_secs(expected), "{seconds:?}");
        }
        assert_eq!(duration(&Lease::default(), &config), config.lease_duration);
        assert_eq!(holder(&Lease::default(), &me()), Holder::Nobody);
    }

    #[test]
    fn transitions_count_changes_of_the_holder_only() {
        let wall = Timestamp::from_second(1_000).unwrap();
        for (before, transitions, after, acquired) in [
            ("other", Some(4), 5, wall),
            ("", Some(4), 5, wall),
            ("me", Some(4), 4, Timestamp::UNIX_EPOCH),
            ("other", None, 1, wall),
            ("other", Some(-9), 1, wall),
            ("other", Some(i32::MAX), i32::MAX, wall),
        ] {
            let claimed = claimed(&lease(before, Some(3), transitions), &me(), &Config::default(), wall);
            assert_eq!(claimed.metadata.resource_version.as_deref(), Some("7"));
            let spec = claimed.spec.unwrap();
            assert_eq!(spec.lease_transitions, Some(after), "{before:?} {transitions:?}");
            assert_eq!(spec.acquire_time, Some(MicroTime(acquired)));
            assert_eq!(spec.renew_time, Some(MicroTime(wall)));
            assert_eq!(spec.holder_identity.as_deref(), Some("me"));
            assert_eq!(spec.lease_duration_seconds, Some(15));
        }
    }

    #[test]
    fn a_release_names_nobody_and_lasts_a_second() {
        let wall = Timestamp::from_second(1_000).unwrap();
        let released = released(&lease("me", Some(15), Some(4)), wall);
        assert_eq!(holder(&released, &me()), Holder::Nobody);
        let spec = released.spec.unwrap();
        assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(1), Some(4)));
    }
}
