//! How long to wait after failures in a row. One pipeline's failures never slow another's, hence the counts are
//! kept by uid in [`crate::memory`]; kube's controller has no backoff per object (kube#1916).

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);

/// The wait after `failures` in a row: 5 s, 10 s, 20 s, 40 s, 60 s: one request a minute of a broken pipeline is nothing,
/// and what is mended outside of the cluster (a bucket, a name, a server) is seen soon after.
pub(crate) fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST)
}

/// `span`, more or less a tenth: `seed` (a uid) decides, so that many pipelines spread and one keeps its own beat.
pub(crate) fn jittered(span: Duration, seed: &str) -> Duration {
    let spread = f64::from(u32::try_from(crate::digest::number(seed.as_bytes()) % 2001).unwrap_or(1000));
    span.mul_f64(0.9 + 0.2 * spread / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_five_seconds_to_a_minute() {
        for (failures, seconds) in [(0, 5), (1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (u32::MAX, 60)] {
            assert_eq!(delay(failures).as_secs(), seconds, "{failures}");
        }
    }

    #[test]
    fn jitter_stays_within_a_tenth_and_differs_between_pipelines() {
        let span = Duration::from_secs(600);
        let all: Vec<_> = (0..50).map(|uid: u32| jittered(span, &uid.to_string())).collect();
        assert!(all.iter().all(|wait| (540..=660).contains(&wait.as_secs())));
        assert!(all.windows(2).any(|two| two[0] != two[1]));
    }
}
