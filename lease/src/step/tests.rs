use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::*;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn me() -> Identity {
    Identity::new("me").unwrap()
}

fn config() -> Config {
    Config::default()
}

fn creating() -> Config {
    Config { create: true, ..Config::default() }
}

/// A lease as the server has it: renewed for the `renewals`th time, by a clock that may say anything.
fn held_at(holder: &str, renewed: Timestamp) -> Lease {
    let spec = LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        renew_time: Some(MicroTime(renewed)),
        ..LeaseSpec::default()
    };
    let metadata = ObjectMeta { uid: Some("1".to_owned()), ..ObjectMeta::default() };
    Lease { metadata, spec: Some(spec) }
}

fn held(holder: &str, renewals: i64) -> Lease {
    held_at(holder, Timestamp::from_second(renewals).unwrap())
}

fn made_anew(mut lease: Lease) -> Lease {
    lease.metadata.uid = Some("2".to_owned());
    lease
}

/// A candidate that read these at these times.
fn seen(reads: &[(u64, Option<Lease>)]) -> Observed {
    let mut observed = Observed::default();
    for (at, lease) in reads {
        observed.read(s(*at), lease.clone(), &me(), &config());
    }
    observed
}

/// A holder whose last write was sent at this time, answered a second later.
fn holding(sent: u64) -> Observed {
    let mut observed = Observed::default();
    observed.written(s(sent), s(sent + 1), held("me", 0), &me(), &config());
    observed
}

fn at(observed: &Observed, now: u64) -> Decision {
    step(observed, s(now), &me(), &config())
}

#[test]
fn a_candidate_reads_before_it_decides() {
    assert_eq!(at(&Observed::default(), 0), Decision::Read);
    let mut observed = seen(&[(0, Some(held("other", 0)))]);
    assert_eq!(at(&observed, 0), Decision::Rest);
    observed.rested(s(0), s(3));
    assert_eq!(at(&observed, 2), Decision::Wait(s(3)));
    assert_eq!(at(&observed, 3), Decision::Read);
}

#[test]
fn a_lease_is_taken_when_it_stood_still_for_its_duration_on_the_own_clock() {
    let other = |renewals| Some(held("other", renewals));
    for (what, reads, now, expected) in [
        ("seen just now", vec![(100, other(0))], 100, Decision::Rest),
        ("unchanged for almost its duration", vec![(100, other(0)), (114, other(0))], 114, Decision::Rest),
        ("unchanged for its duration", vec![(100, other(0)), (115, other(0))], 115, Decision::Claim),
        ("renewed in between", vec![(100, other(0)), (114, other(1))], 128, Decision::Rest),
        ("renewed, then unchanged", vec![(100, other(0)), (114, other(1))], 129, Decision::Claim),
        ("nobody's", vec![(100, Some(held("", 0)))], 100, Decision::Claim),
        ("released", vec![(100, other(0)), (101, Some(held("", 1)))], 101, Decision::Claim),
        ("without a spec", vec![(100, Some(Lease::default()))], 100, Decision::Claim),
        ("mine from an earlier life", vec![(100, Some(held("me", 0)))], 100, Decision::Claim),
    ] {
        assert_eq!(at(&seen(&reads), now), expected, "{what}");
    }
}

#[test]
fn the_holders_clock_is_of_no_importance() {
    for renewed in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::now(), Timestamp::MAX] {
        let observed = seen(&[(100, Some(held_at("other", renewed)))]);
        assert_eq!(at(&observed, 114), Decision::Rest, "{renewed}");
        assert_eq!(at(&observed, 115), Decision::Claim, "{renewed}");
    }
    // A clock that is set back renews as well.
    let back = [(100, Some(held("other", 50))), (110, Some(held("other", 10)))];
    assert_eq!(at(&seen(&back), 124), Decision::Rest);
}

#[test]
fn a_change_of_labels_is_no_renewal() {
    let mut labelled = held("other", 0);
    labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    labelled.metadata.resource_version = Some("9".to_owned());
    assert_eq!(at(&seen(&[(100, Some(held("other", 0))), (110, Some(labelled))]), 115), Decision::Claim);
}

#[test]
fn a_lease_without_a_usable_duration_is_left_alone_for_the_own_one() {
    for seconds in [None, Some(0), Some(-1)] {
        let mut lease = held("other", 0);
        lease.spec.as_mut().unwrap().lease_duration_seconds = seconds;
        let observed = seen(&[(100, Some(lease))]);
        assert_eq!(at(&observed, 114), Decision::Rest, "{seconds:?}");
        assert_eq!(at(&observed, 115), Decision::Claim, "{seconds:?}");
    }
}

#[test]
fn a_candidate_wakes_when_the_lease_runs_out() {
    let mut observed = seen(&[(100, Some(held("other", 0)))]);
    observed.rested(s(113), s(4));
    assert_eq!(at(&observed, 113), Decision::Wait(s(115)));
    observed.rested(s(115), s(4));
    assert_eq!(at(&observed, 115), Decision::Wait(s(119)));
}

#[test]
fn a_missing_lease_is_created_only_by_those_who_may() {
    let observed = seen(&[(100, None)]);
    assert_eq!(at(&observed, 100), Decision::Rest);
    assert_eq!(step(&observed, s(100), &me(), &creating()), Decision::Create);
}

#[test]
fn a_lease_that_was_made_anew_is_left_alone_until_the_old_ones_holder_has_noticed() {
    let other = || Some(held("other", 0));
    let anew = |holder| Some(made_anew(held(holder, 0)));
    for (what, reads, free_at) in [
        ("deleted and made anew", vec![(100, other()), (110, anew(""))], 125),
        ("made anew later", vec![(100, other()), (110, None), (130, anew(""))], 145),
        ("made anew and taken", vec![(100, other()), (110, None), (112, anew("third"))], 127),
        ("nobody's before", vec![(100, Some(held("", 0))), (110, anew(""))], 125),
        ("mine before", vec![(100, Some(held("me", 0))), (110, anew(""))], 125),
        ("seen again", vec![(100, other()), (110, anew("")), (120, anew(""))], 125),
    ] {
        let observed = seen(&reads);
        assert_eq!(at(&observed, free_at - 1), Decision::Rest, "{what}");
        assert_eq!(at(&observed, free_at), Decision::Claim, "{what}");
    }
    // One that wasn't there yet when this candidate began is no second one.
    assert_eq!(at(&seen(&[(100, None), (110, anew(""))]), 110), Decision::Claim);
}

#[test]
fn a_holder_renews_every_retry_period_and_counts_from_when_it_sent() {
    let observed = holding(100);
    assert_eq!(observed.held_until(&config()), Some(s(110)));
    for (now, expected) in [
        (101, Decision::Wait(s(102))),
        (102, Decision::Claim),
        (109, Decision::Claim),
        (110, Decision::Lose(Loss::Deadline)),
        // A pause of the process.
        (5_000, Decision::Lose(Loss::Deadline)),
    ] {
        assert_eq!(at(&observed, now), expected, "{now}");
    }
}

#[test]
fn an_answer_after_the_deadline_makes_no_holder() {
    let mut observed = Observed::default();
    observed.written(s(100), s(111), held("me", 0), &me(), &config());
    assert_eq!(at(&observed, 111), Decision::Lose(Loss::Deadline));
}

#[test]
fn an_api_server_that_is_away_ends_it_at_the_deadline() {
    let mut observed = holding(100);
    for now in [104, 106, 108] {
        observed.failed(s(now), s(2));
        assert_eq!(at(&observed, now), Decision::Wait(s(now + 2)));
    }
    assert_eq!(at(&observed, 110), Decision::Lose(Loss::Deadline));
    // What is waited for is never later than the deadline.
    observed.failed(s(109), s(2));
    assert_eq!(at(&observed, 109), Decision::Wait(s(110)));
}

#[test]
fn a_holder_that_lost_a_write_looks_before_it_writes_again() {
    let mut observed = holding(100);
    observed.conflicted(s(102), s(2));
    assert_eq!(at(&observed, 102), Decision::Read);
    let mut labelled = observed.clone();
    labelled.read(s(102), Some(held("me", 0)), &me(), &config());
    assert_eq!(at(&labelled, 102), Decision::Claim);
    // Not again and again without a pause.
    labelled.conflicted(s(103), s(2));
    assert_eq!(at(&labelled, 103), Decision::Wait(s(105)));
    for lease in [held("other", 1), held("", 1)] {
        let mut taken = observed.clone();
        taken.read(s(102), Some(lease), &me(), &config());
        assert_eq!(at(&taken, 102), Decision::Lose(Loss::Taken));
    }
}

#[test]
fn a_write_whose_answer_is_unknown_is_looked_for() {
    let mut observed = holding(100);
    observed.failed(s(107), s(2));
    assert_eq!(at(&observed, 109), Decision::Read);
    observed.read(s(109), Some(held("me", 3)), &me(), &config());
    // It did land, but when is unknown: only a new one counts.
    assert_eq!(observed.held_until(&config()), Some(s(110)));
    assert_eq!(at(&observed, 109), Decision::Claim);
}

#[test]
fn a_candidate_that_lost_a_write_waits() {
    let mut observed = seen(&[(100, Some(held("", 0)))]);
    assert_eq!(at(&observed, 100), Decision::Claim);
    observed.conflicted(s(100), s(3));
    assert_eq!(at(&observed, 100), Decision::Wait(s(103)));
    assert_eq!(at(&observed, 103), Decision::Read);
}

#[test]
fn a_holder_whose_lease_is_deleted_stops() {
    let mut observed = holding(100);
    observed.read(s(103), None, &me(), &config());
    assert_eq!(at(&observed, 103), Decision::Lose(Loss::Deleted));
    assert_eq!(step(&observed, s(103), &me(), &creating()), Decision::Lose(Loss::Deleted));
}

#[test]
fn a_creation_makes_nobody_the_holder() {
    let mut observed = seen(&[(100, None)]);
    observed.written(s(100), s(101), record::empty("ns", "lease"), &me(), &creating());
    assert!(!observed.holds());
    assert_eq!(at(&observed, 101), Decision::Claim);
}

#[test]
fn one_that_lost_is_a_candidate_like_all() {
    let mut observed = holding(100);
    observed.lost(s(112), s(3));
    assert_eq!(at(&observed, 112), Decision::Wait(s(115)));
    assert_eq!(at(&observed, 115), Decision::Read);
    observed.read(s(115), Some(held("me", 0)), &me(), &config());
    assert_eq!(at(&observed, 115), Decision::Claim);
}

#[test]
fn of_two_candidates_one_wins_and_the_other_takes_over_when_it_is_silent() {
    let names = ["a", "b"].map(|name| Identity::new(name).unwrap());
    let [mut a, mut b] = [Observed::default(), Observed::default()];
    let config = config();
    let free = held("", 0);
    a.read(s(0), Some(free.clone()), &names[0], &config);
    b.read(s(0), Some(free), &names[1], &config);
    assert_eq!(step(&a, s(0), &names[0], &config), Decision::Claim);
    assert_eq!(step(&b, s(0), &names[1], &config), Decision::Claim);
    a.written(s(0), s(0), held("a", 1), &names[0], &config);
    b.conflicted(s(0), s(3));
    assert!(a.holds() && !b.holds());
    b.read(s(3), Some(held("a", 1)), &names[1], &config);
    // a is silent from here on.
    assert_eq!(step(&a, s(10), &names[0], &config), Decision::Lose(Loss::Deadline));
    assert_eq!(step(&b, s(17), &names[1], &config), Decision::Rest);
    assert_eq!(step(&b, s(18), &names[1], &config), Decision::Claim);
}
