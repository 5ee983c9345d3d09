//! Whether an object has to be applied: decided from what was applied last and what the watches tell, so that at
//! rest nothing is asked and nothing written.

use crate::{inventory::Observed, kinds::Kind};

/// What was applied last, and how the server then described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Digest of the object as it was sent.
    pub(crate) desired: u64,
    pub(crate) uid: String,
    /// See [`Observed::ours`].
    pub(crate) ours: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is as it should be.
    Leave,
    /// It is there and ours; the uid goes along, so that the server refuses if it is another object by now.
    Apply { uid: String },
    /// The watches know of none: look first, because what is not labelled as ours is not watched. After the look:
    /// there is none.
    Create,
    /// It is there and ours, and the plan was made without knowing it.
    PlanAgain,
    /// It is there and somebody else's.
    NotOurs,
    /// It is an earlier pipeline's of the same name: the garbage collector is about to remove it.
    LeftBehind,
    /// It is being deleted: nothing can be done until it is gone.
    Leaving,
}

/// The owner that an object must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) uid: &'a str,
    pub(crate) name: &'a str,
}

pub(crate) fn step(
    desired: u64,
    pipeline: Owner<'_>,
    applied: Option<&Applied>,
    observed: Option<&Observed>,
) -> Step {
    let Some(observed) = observed else { return Step::Create };
    if observed.owner.as_deref() != Some(pipeline.uid) {
        let earlier = observed.owner_pipeline.as_deref() == Some(pipeline.name);
        return if earlier { Step::LeftBehind } else { Step::NotOurs };
    }
    if observed.leaving {
        return Step::Leaving;
    }
    let good = applied.is_some_and(|applied| {
        applied.desired == desired && applied.uid == observed.uid && applied.ours == observed.ours
    });
    if good { Step::Leave } else { Step::Apply { uid: observed.uid.clone() } }
}

/// What follows from the look that [`Step::Create`] asks for. A Deployment is planned by what it is, such as the
/// number of pods that an autoscaler has given it, so a plan that did not know it must not be applied to it.
pub(crate) fn looked(kind: Kind, pipeline: Owner<'_>, found: Option<&Observed>) -> Step {
    match step(0, pipeline, None, found) {
        Step::Apply { .. } if kind == Kind::Deployment => Step::PlanAgain,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: Owner<'_> = Owner { uid: "me", name: "logs" };

    #[test]
    fn an_object_is_applied_when_it_or_the_wish_changed_and_never_when_it_is_somebody_elses() {
        let observed = Observed { uid: "u".into(), owner: Some("me".into()), ours: 7, ..Observed::default() };
        let applied = Applied { desired: 1, uid: "u".into(), ours: 7 };
        let apply = Step::Apply { uid: "u".into() };
        let stolen = Observed { owner: Some("you".into()), ..observed.clone() };
        let earlier = Observed { owner_pipeline: Some("logs".into()), ..stolen.clone() };
        let neighbour = Observed { owner_pipeline: Some("traces".into()), ..stolen.clone() };
        let orphan = Observed { owner: None, ..observed.clone() };
        let leaving = Observed { leaving: true, ..observed.clone() };
        for (what, desired, applied, observed, expected) in [
            ("nothing changed", 1, Some(&applied), Some(&observed), Step::Leave),
            ("the wish changed", 2, Some(&applied), Some(&observed), apply.clone()),
            ("drift", 1, Some(&Applied { ours: 8, ..applied.clone() }), Some(&observed), apply.clone()),
            (
                "made again",
                1,
                Some(&Applied { uid: "v".into(), ..applied.clone() }),
                Some(&observed),
                apply.clone(),
            ),
            ("the operator has just started", 1, None, Some(&observed), apply),
            ("not there", 1, Some(&applied), None, Step::Create),
            ("another owner", 1, Some(&applied), Some(&stolen), Step::NotOurs),
            ("an earlier pipeline of this name", 1, None, Some(&earlier), Step::LeftBehind),
            ("another pipeline", 1, None, Some(&neighbour), Step::NotOurs),
            ("no owner", 1, None, Some(&orphan), Step::NotOurs),
            ("going", 1, Some(&applied), Some(&leaving), Step::Leaving),
        ] {
            assert_eq!(step(desired, PIPELINE, applied, observed), expected, "{what}");
        }
    }

    #[test]
    fn what_was_planned_for_no_deployment_is_never_applied_to_one_that_is_there() {
        let mine = Observed { uid: "u".into(), owner: Some("me".into()), ..Observed::default() };
        let stolen = Observed { owner: Some("you".into()), ..mine.clone() };
        let leaving = Observed { leaving: true, ..mine.clone() };
        for (what, kind, found, expected) in [
            ("nothing there", Kind::Deployment, None, Step::Create),
            ("ours without its labels", Kind::Deployment, Some(&mine), Step::PlanAgain),
            (
                "the plan knows nothing of Services",
                Kind::Service,
                Some(&mine),
                Step::Apply { uid: "u".into() },
            ),
            ("somebody else's", Kind::Deployment, Some(&stolen), Step::NotOurs),
            ("going", Kind::Deployment, Some(&leaving), Step::Leaving),
        ] {
            assert_eq!(looked(kind, PIPELINE, found), expected, "{what}");
        }
    }
}
