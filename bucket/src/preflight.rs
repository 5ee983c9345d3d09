//! Does this store do what the commit protocol relies on? Asked once at start, before anything is accepted.
//!
//! A store that takes a conditional write and ignores the condition works in every demonstration and loses
//! data on the first race, so nothing is believed: each promise is tried on probe keys.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use spillway_model::time::UnixMs;

use crate::{Bucket, BucketError, Put, PutMeta, Swap, Tag};

/// Where the probes are written; they are deleted again.
pub const PROBE_DIR: &str = "_spillway/preflight/";

/// AWS refuses requests at 15 minutes; take-over and tombstones count on less.
const SKEW_ERROR: Duration = Duration::from_secs(5 * 60);
const SKEW_WARNING: Duration = Duration::from_secs(30);
const RACERS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    Reach,
    List,
    Get,
    Put,
    Delete,
    ConditionalCreate,
    ConditionalSwap,
    ClockSkew,
}

impl Check {
    /// A short label for conditions and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Reach => "BucketUnreachable",
            Self::List => "CannotList",
            Self::Get => "CannotGet",
            Self::Put => "CannotPut",
            Self::Delete => "CannotDelete",
            Self::ConditionalCreate => "NoConditionalCreate",
            Self::ConditionalSwap => "NoConditionalSwap",
            Self::ClockSkew => "ClockSkew",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Starting would put data at risk or can't work.
    Error,
    Warning,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub check: Check,
    pub level: Level,
    pub message: String,
    pub remedy: String,
    /// Whether waiting may be enough (the store is away), so that a caller may try again.
    pub is_transient: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.check.reason(), self.message, self.remedy)
    }
}

/// Tries every promise on `bucket` and reports what does not hold; empty: all is well. `now` reads the local
/// clock.
pub async fn preflight(bucket: &Bucket, now: impl Fn() -> UnixMs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let before = now();
    match bucket.server_time().await {
        Ok(Some(server)) => findings.extend(judge_clock(before, now(), server)),
        Ok(None) => {}
        Err(error) => {
            findings.push(failed(Check::Reach, &error));
            // The rest would only say the same again, each after its own timeout.
            return findings;
        }
    }
    if let Err(error) = bucket.list(PROBE_DIR, None, 1).await {
        findings.push(failed(Check::List, &error));
    }
    let keys = [Probe::Create, Probe::Swap].map(Probe::fresh_key);
    let [create, swap] = &keys;
    findings.extend(try_create(bucket, create).await);
    findings.extend(try_swap(bucket, swap).await);
    match bucket.delete_many(&keys).await {
        Err(error) => findings.push(failed(Check::Delete, &error)),
        Ok(kept) => findings.extend(kept.first().map(|(_, error)| failed(Check::Delete, error))),
    }
    findings
}

#[derive(Clone, Copy)]
enum Probe {
    Create,
    Swap,
}

impl Probe {
    fn fresh_key(self) -> String {
        let kind = match self {
            Self::Create => "create",
            Self::Swap => "swap",
        };
        format!("{PROBE_DIR}{kind}-{:016x}", rand::random::<u64>())
    }
}

/// Two different bodies for one new key: the second must be refused and the first must stay.
async fn try_create(bucket: &Bucket, key: &str) -> Option<Finding> {
    let meta = PutMeta::default();
    let first = Bytes::from_static(b"first");
    match bucket.put_if_absent(key, first.clone(), &meta).await {
        Ok(Put::Created(_)) => {}
        Ok(Put::Exists) => return Some(ignored(Check::ConditionalCreate, "a new key was said to exist")),
        Err(error) => return Some(failed(Check::Put, &error)),
    }
    match bucket.put_if_absent(key, Bytes::from_static(b"second"), &meta).await {
        Ok(Put::Exists) => {}
        Ok(Put::Created(_)) => {
            return Some(ignored(
                Check::ConditionalCreate,
                "If-None-Match: * was ignored, an object was overwritten",
            ));
        }
        Err(error) => return Some(failed(Check::ConditionalCreate, &error)),
    }
    match bucket.get(key).await {
        Ok(Some((bytes, _))) if bytes == first => None,
        Ok(Some(_)) => Some(ignored(Check::ConditionalCreate, "a refused write changed the object")),
        Ok(None) => Some(ignored(Check::Get, "an object just written can't be read")),
        Err(error) => Some(failed(Check::Get, &error)),
    }
}

/// Several swaps from one state at once: exactly one must win. Then one more from that outdated state: lost.
async fn try_swap(bucket: &Bucket, key: &str) -> Option<Finding> {
    let start = match bucket.swap(key, None, Bytes::from_static(b"start")).await {
        Ok(Swap::Swapped(tag)) => tag,
        Ok(Swap::Lost) => return Some(ignored(Check::ConditionalSwap, "a new key was said to exist")),
        Err(error) => return Some(failed(Check::Put, &error)),
    };
    let races =
        (0..RACERS).map(|racer| bucket.swap(key, Some(&start), Bytes::from(format!("racer {racer}"))));
    let mut winners = 0;
    for outcome in join_all(races).await {
        match outcome {
            Ok(Swap::Swapped(_)) => winners += 1,
            Ok(Swap::Lost) => {}
            Err(error) => return Some(failed(Check::ConditionalSwap, &error)),
        }
    }
    if winners != 1 {
        let message = format!("of {RACERS} swaps from the same state {winners} succeeded instead of one");
        return Some(ignored(Check::ConditionalSwap, &message));
    }
    stale_swap(bucket, key, &start).await
}

async fn stale_swap(bucket: &Bucket, key: &str, stale: &Tag) -> Option<Finding> {
    match bucket.swap(key, Some(stale), Bytes::from_static(b"stale")).await {
        Ok(Swap::Lost) => None,
        Ok(Swap::Swapped(_)) => Some(ignored(
            Check::ConditionalSwap,
            "If-Match with an outdated tag was ignored, an object was overwritten",
        )),
        Err(error) => Some(failed(Check::ConditionalSwap, &error)),
    }
}

fn ignored(check: Check, message: &str) -> Finding {
    Finding {
        check,
        level: Level::Error,
        message: message.to_owned(),
        remedy: "use a store that honours conditional writes (AWS S3, MinIO since 2024-11, Cloudflare R2, Ceph since 19) and check that no proxy strips If-Match and If-None-Match".to_owned(),
        is_transient: false,
    }
}

fn failed(check: Check, error: &BucketError) -> Finding {
    Finding {
        check,
        level: Level::Error,
        message: error.what(),
        remedy: error.remedy().to_owned(),
        is_transient: error.is_transient(),
    }
}

/// The server's clock has whole seconds and was read between `before` and `after`: only what is beyond both
/// counts as skew.
fn judge_clock(before: UnixMs, after: UnixMs, server: UnixMs) -> Option<Finding> {
    let UnixMs(server) = server;
    let skew_ms = if server > after.0 {
        server - after.0
    } else if server + 999 < before.0 {
        server + 999 - before.0
    } else {
        0
    };
    let skew = Duration::from_millis(skew_ms.unsigned_abs());
    if skew < SKEW_WARNING {
        return None;
    }
    let direction = if skew_ms > 0 { "behind" } else { "ahead of" };
    Some(Finding {
        check: Check::ClockSkew,
        level: if skew > SKEW_ERROR { Level::Error } else { Level::Warning },
        message: format!("this machine's clock is {} s {direction} the store's", skew.as_secs()),
        remedy: "synchronise the clock with NTP (chronyd, systemd-timesyncd); more than 300 s is refused"
            .to_owned(),
        is_transient: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skew_is_judged_by_its_size_in_both_directions() {
        let at = |seconds: i64| UnixMs(1_000_000_000_000 + seconds * 1000);
        for (server, expected) in [
            (at(0), None),
            (at(-29), None),
            (at(29), None),
            (at(-40), Some(Level::Warning)),
            (at(40), Some(Level::Warning)),
            (at(-600), Some(Level::Error)),
            (at(600), Some(Level::Error)),
        ] {
            assert_eq!(
                judge_clock(at(0), at(0), server).map(|finding| finding.level),
                expected,
                "{server:?}"
            );
        }
    }

    #[test]
    fn a_slow_answer_is_no_skew() {
        assert_eq!(judge_clock(UnixMs(0), UnixMs(400_000), UnixMs(200_000)), None);
    }

    #[test]
    fn the_finding_names_the_skew_and_its_direction() {
        let finding = judge_clock(UnixMs(0), UnixMs(0), UnixMs(600_000)).unwrap();
        assert!(finding.message.contains("600 s behind"), "{}", finding.message);
    }
}
