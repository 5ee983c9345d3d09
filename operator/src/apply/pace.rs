//! What must not follow at once: pods act by objects for a while after others have taken their place. Kept in memory;
//! after a restart everything waits once more.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Longer than kubelet takes to bring a Secret, touched or not.
const BRINGING: Duration = Duration::from_secs(120);
/// Longer than a pod may take to end. A Deployment doesn't count pods that are on their way out.
const ENDING: Duration = Duration::from_secs(60);
/// Longer than the garbage collector takes as a rule.
const COLLECTING: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Names of the tenants' Secrets, and since when all of them are as wanted.
    tenants: Option<(BTreeSet<String>, Instant)>,
    /// Since when the Deployments are done with what is wanted now.
    settled: Option<Instant>,
    /// Since when objects of an earlier pipeline of this name are in the way.
    left_behind: Option<Instant>,
    /// The account to which alone the syncer's Role is bound.
    pub(super) bound: Option<String>,
}

impl Pace {
    /// Whether Secrets of tenants that aren't wanted any more may go: tenants that were in them have been brought
    /// to all pods by another. `whole`: all that are wanted were written in this pass.
    pub(super) fn surplus_tenants_go(&mut self, whole: bool, wanted: BTreeSet<String>, now: Instant) -> bool {
        if !whole {
            self.tenants = None;
            return false;
        }
        match &self.tenants {
            Some((same, since)) if *same == wanted => now.duration_since(*since) >= BRINGING,
            _ => {
                self.tenants = Some((wanted, now));
                false
            }
        }
    }

    /// Whether no pod acts by older objects any more.
    pub(super) fn old_pods_are_gone(&mut self, settled: bool, now: Instant) -> bool {
        lasts(&mut self.settled, settled, now, ENDING)
    }

    /// Whether people should hear of objects of an earlier pipeline.
    pub(super) fn left_behind_lasts(&mut self, any: bool, now: Instant) -> bool {
        lasts(&mut self.left_behind, any, now, COLLECTING)
    }
}

fn lasts(since: &mut Option<Instant>, so: bool, now: Instant, long: Duration) -> bool {
    if !so {
        *since = None;
        return false;
    }
    now.duration_since(*since.get_or_insert(now)) >= long
}

/// The tenants' Secrets of one pass, which are written in order: what leaves one of them is in another by then.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    broken: bool,
}

impl Tenants {
    /// After one that could not be written the rest stays as it is: a tenant could be in none of them.
    pub(super) fn go_on(&self) -> bool {
        !self.broken
    }

    pub(super) fn wrote(&mut self, good: bool) {
        self.broken |= !good;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn tenants_secrets_go_when_what_replaces_them_was_written_and_brought() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        let (four, one) = (["0", "1", "2", "3"], ["0"]);
        for (what, seconds, whole, wanted, go) in [
            ("four for long", 0, true, &four[..], false),
            ("now one, which could not be written", 600, false, &one[..], false),
            ("still not", 900, false, &one[..], false),
            ("written", 905, true, &one[..], false),
            ("not brought yet", 1_024, true, &one[..], false),
            ("brought", 1_025, true, &one[..], true),
            ("failed again", 1_030, false, &one[..], false),
            ("which begins anew", 1_090, true, &one[..], false),
            ("and lasts", 1_210, true, &one[..], true),
            ("back to four", 1_220, true, &four[..], false),
        ] {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(pace.surplus_tenants_go(whole, names(wanted), now), go, "{what}");
        }
    }

    #[test]
    fn after_one_tenants_secret_that_failed_no_other_is_written() {
        let mut tenants = Tenants::default();
        let mut written = Vec::new();
        for (name, good) in [("3", true), ("2", false), ("1", true), ("0", true)] {
            if tenants.go_on() {
                tenants.wrote(good);
                written.push(name);
            }
        }
        assert_eq!(written, ["3", "2"]);
        assert!(!tenants.go_on(), "the pass is not whole");
    }

    #[test]
    fn what_lasts_is_counted_from_its_beginning() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        for (seconds, settled, gone) in [
            (0, true, false),
            (59, true, false),
            (60, true, true),
            (61, false, false),
            (62, true, false),
            (122, true, true),
        ] {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(pace.old_pods_are_gone(settled, now), gone, "after {seconds} s");
        }
    }
}
