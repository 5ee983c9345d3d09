//! Rates of a tenant: a token bucket that lets a request into debt.
//!
//! What a request costs is known only after it was read, so the question "may it come in" is asked before
//! ("is there any debt?") and the cost is charged after. A bucket that refuses what is larger than itself,
//! as the common libraries do, would refuse a large request for ever.

use std::time::{Duration, Instant};

use spillway_model::settings::LimitSettings;

/// Tokens that come back at a steady rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    per_second: f64,
    capacity: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Full, with `burst_seconds` worth of tokens.
    #[must_use]
    pub fn new(per_second: f64, burst_seconds: f64, now: Instant) -> Self {
        let capacity = (per_second * burst_seconds).max(1.0);
        Self { per_second, capacity, tokens: capacity, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + seconds * self.per_second).min(self.capacity);
        self.at = self.at.max(now);
    }

    /// Whole tokens there are now; none while in debt.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.refill(now);
        self.tokens.max(0.0) as u64
    }

    /// Takes tokens, into debt if need be.
    pub fn charge(&mut self, tokens: u64, now: Instant) {
        self.refill(now);
        self.tokens -= tokens as f64;
    }

    /// How long until there is at least one token.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.refill(now);
        if self.tokens >= 1.0 {
            return Duration::ZERO;
        }
        // A debt may be anything; an hour is as good as for ever to whoever waits.
        Duration::from_secs_f64(((1.0 - self.tokens) / self.per_second).clamp(0.0, 3600.0))
    }
}

/// The rates of one tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimits {
    records: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl RateLimits {
    #[must_use]
    pub fn new(settings: &LimitSettings, now: Instant) -> Self {
        let burst = f64::from(settings.burst.unwrap_or(1));
        let bucket = |rate: u64| Bucket::new(rate as f64, burst, now);
        Self {
            records: settings.records_per_second.map(bucket),
            bytes: settings.bytes_per_second.map(|b| bucket(b.0)),
        }
    }

    /// # Errors
    /// How long to wait, when a bucket is empty or in debt.
    pub fn check(&mut self, now: Instant) -> Result<(), Duration> {
        let wait = [&mut self.records, &mut self.bytes]
            .into_iter()
            .flatten()
            .map(|bucket| bucket.wait(now))
            .max()
            .unwrap_or_default();
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// What an admitted request cost.
    pub fn charge(&mut self, records: u64, bytes: u64, now: Instant) {
        if let Some(bucket) = &mut self.records {
            bucket.charge(records, now);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(bytes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(records: u64, burst: u32, now: Instant) -> RateLimits {
        let settings =
            LimitSettings { records_per_second: Some(records), burst: Some(burst), ..Default::default() };
        RateLimits::new(&settings, now)
    }

    #[test]
    fn a_tenant_in_debt_waits_until_it_is_paid() {
        let now = Instant::now();
        let mut limits = limits(100, 2, now);
        assert_eq!(limits.check(now), Ok(()));
        limits.charge(500, 0, now);
        let wait = limits.check(now).unwrap_err();
        assert!((wait.as_secs_f64() - 3.01).abs() < 0.001, "{wait:?}");
        assert!(limits.check(now + Duration::from_secs(3)).is_err());
        assert_eq!(limits.check(now + Duration::from_millis(3020)), Ok(()));
    }

    #[test]
    fn tokens_never_exceed_the_burst() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10.0, 3.0, now);
        assert_eq!(bucket.available(now + Duration::from_secs(1000)), 30);
    }

    #[test]
    fn no_limit_never_waits() {
        let now = Instant::now();
        let mut limits = RateLimits::new(&LimitSettings::default(), now);
        limits.charge(u64::MAX, u64::MAX, now);
        assert_eq!(limits.check(now), Ok(()));
    }

    #[test]
    fn a_clock_that_stands_still_gives_no_tokens() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10.0, 1.0, now);
        bucket.charge(10, now);
        assert_eq!(bucket.available(now), 0);
        assert_eq!(bucket.wait(now), Duration::from_millis(100));
    }
}
