//! What to do next: no clock, no connection.

use std::time::Duration;

use crate::config::{Config, Identity};
use crate::observed::Observed;
use crate::record::{self, Holder};

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Read the Lease, then [`Observed::read`].
    Read,
    /// Create a Lease that nobody holds, then [`Observed::written`].
    Create,
    /// Write this candidate's name and the time into the Lease that was observed, then [`Observed::written`].
    Claim,
    /// It is somebody else's: [`Observed::rested`].
    Rest,
    /// Nothing before this time.
    Wait(Duration),
    /// Stop the work, then [`Observed::lost`].
    Lose(Loss),
}

/// Why a holder holds it no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It could not be renewed in time.
    Deadline,
    /// It is somebody else's, or nobody's.
    Taken,
    /// It is gone: there is nothing by which others could see that it is held.
    Deleted,
}

impl Loss {
    /// A short label.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Deadline => "RenewDeadline",
            Self::Taken => "Taken",
            Self::Deleted => "Deleted",
        }
    }
}

/// See the module's text. `now` is on the clock that `observed` was told times of.
#[must_use]
pub fn step(observed: &Observed, now: Duration, me: &Identity, config: &Config) -> Decision {
    match observed.held_until(config) {
        Some(until) if now >= until => Decision::Lose(Loss::Deadline),
        Some(until) => hold(observed, now, until, me),
        None => stand_by(observed, now, me, config),
    }
}

fn hold(observed: &Observed, now: Duration, until: Duration, me: &Identity) -> Decision {
    match observed.lease.as_ref().map(|lease| record::holder(lease, me)) {
        Some(Holder::Other(_) | Holder::Nobody) => Decision::Lose(Loss::Taken),
        None => Decision::Lose(Loss::Deleted),
        Some(Holder::Me) if now < observed.next => Decision::Wait(observed.next.min(until)),
        Some(Holder::Me) if !observed.fresh => Decision::Read,
        Some(Holder::Me) => Decision::Claim,
    }
}

fn stand_by(observed: &Observed, now: Duration, me: &Identity, config: &Config) -> Decision {
    if now < observed.next {
        return Decision::Wait(observed.next);
    }
    if !observed.fresh {
        return Decision::Read;
    }
    match observed.lease.as_ref().map(|lease| record::holder(lease, me)) {
        // Written in an earlier life, or by a request that was given up.
        Some(Holder::Me) => Decision::Claim,
        Some(_) if now >= observed.others_until => Decision::Claim,
        None if config.create => Decision::Create,
        _ => Decision::Rest,
    }
}

#[cfg(test)]
mod tests;
