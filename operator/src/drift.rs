//! Whether an object has to be applied: decided from what was applied last and what the watches tell, so that at
//! rest nothing is asked and nothing written.

use crate::inventory::Observed;

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
    /// The watches know of none: look first, because what is not labelled as ours is not watched.
    Create,
    /// It is there and somebody else's.
    NotOurs,
    /// It is being deleted: nothing can be done until it is gone.
    Leaving,
}

/// `pipeline` is the uid of the owner that it must have.
pub(crate) fn step(
    desired: u64,
    pipeline: &str,
    applied: Option<&Applied>,
    observed: Option<&Observed>,
) -> Step {
    let Some(observed) = observed else { return Step::Create };
    if observed.owner.as_deref() != Some(pipeline) {
        return Step::NotOurs;
    }
    if observed.leaving {
        return Step::Leaving;
    }
    let good = applied.is_some_and(|applied| {
        applied.desired == desired && applied.uid == observed.uid && applied.ours == observed.ours
    });
    if good { Step::Leave } else { Step::Apply { uid: observed.uid.clone() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_applied_when_it_or_the_wish_changed_and_never_when_it_is_somebody_elses() {
        let observed = Observed { uid: "u".into(), owner: Some("me".into()), ours: 7, ..Observed::default() };
        let applied = Applied { desired: 1, uid: "u".into(), ours: 7 };
        let apply = Step::Apply { uid: "u".into() };
        let stolen = Observed { owner: Some("you".into()), ..observed.clone() };
        let orphan = Observed { owner: None, ..observed.clone() };
        let leaving = Observed { leaving: true, ..observed.clone() };
        for (what, desired, applied, observed, expected) in [
            ("nothing changed", 1, Some(&applied), Some(&observed), Step::Leave),
            ("the wish changed", 2, Some(&applied), Some(&observed), apply.clone()),
            ("drift", 1, Some(&Applied { ours: 8, ..applied.clone() }), Some(&observed), apply.clone()),
            ("made again", 1, Some(&Applied { uid: "v".into(), ..applied.clone() }), Some(&observed), apply.clone()),
            ("the operator has just started", 1, None, Some(&observed), apply),
            ("not there", 1, Some(&applied), None, Step::Create),
            ("another owner", 1, Some(&applied), Some(&stolen), Step::NotOurs),
            ("no owner", 1, None, Some(&orphan), Step::NotOurs),
            ("going", 1, Some(&applied), Some(&leaving), Step::Leaving),
        ] {
            assert_eq!(step(desired, "me", applied, observed), expected, "{what}");
        }
    }
}
