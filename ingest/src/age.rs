//! How old a connection may become. A Service of Kubernetes balances connections and not requests: as long as senders
//! keep theirs, a pod that is added gets only what connects anew.

use std::time::{Duration, Instant};

/// How far a connection's own bound may be from the one that is set, so that those which were opened together, at a
/// rollout for instance, don't end together.
const JITTER: f64 = 0.1;

/// A connection's age, and the one at which it has to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Age {
    since: Instant,
    most: Option<Duration>,
}

impl Age {
    /// Of a connection that begins now; 0: it may become as old as it likes.
    pub(crate) fn new(most: Duration) -> Self {
        Self { since: Instant::now(), most: jittered(most, rand::random()) }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.most.is_some_and(|most| self.since.elapsed() >= most)
    }

    /// Waits until it is.
    pub(crate) async fn over(&self) {
        match self.most {
            Some(most) => tokio::time::sleep(most.saturating_sub(self.since.elapsed())).await,
            None => std::future::pending().await,
        }
    }
}

/// `random` is from 0 to 1.
fn jittered(most: Duration, random: f64) -> Option<Duration> {
    (!most.is_zero()).then(|| most.mul_f64(1.0 - JITTER + 2.0 * JITTER * random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_within_a_tenth_of_what_is_set_and_none_when_that_is_0() {
        let ms = Duration::from_millis;
        for (most, random, expected) in [
            (ms(300_000), 0.0, Some(ms(270_000))),
            (ms(300_000), 0.5, Some(ms(300_000))),
            (ms(300_000), 1.0, Some(ms(330_000))),
            (ms(1000), 0.25, Some(ms(950))),
            (ms(0), 0.0, None),
            (ms(0), 1.0, None),
        ] {
            assert_eq!(jittered(most, random), expected, "{most:?}, {random}");
        }
        // The longest that a settings file can say.
        assert!(jittered(ms(u64::MAX), 1.0).is_some());
    }
}
