//! Who a candidate is, and how long things last.

use std::fmt;
use std::time::Duration;

/// A lease may say that it lasts this long at most. Also a limit on what is believed of one that was written by
/// hand: nobody shall be kept out for years.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);
/// A standby pauses for up to this many times `retry_period` more, so that not all ask at once (client-go's).
const JITTER: f64 = 1.2;

/// How long things last. The defaults are those of client-go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Others leave a lease alone for this long after the last change that they saw. Whole seconds.
    pub lease_duration: Duration,
    /// A holder that could not renew for this long gives up.
    pub renew_deadline: Duration,
    /// Between two writes of the holder, and between two looks of the others.
    pub retry_period: Duration,
    /// Whether to create a Lease that isn't there. RBAC can't limit `create` to one name, so who has a Lease made
    /// for it needs no right to create any.
    pub create: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            create: false,
        }
    }
}

/// These can't work together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A Lease says its duration in whole seconds.
    #[error("the lease duration must be whole seconds, from 1 s to 1 h, not {0:?}")]
    LeaseDuration(Duration),
    /// The others would take over before the holder gives up.
    #[error("the renew deadline ({deadline:?}) must be shorter than the lease duration ({duration:?})")]
    RenewDeadline {
        /// What was asked for.
        deadline: Duration,
        /// See the message.
        duration: Duration,
    },
    /// The holder would have no second try.
    #[error(
        "the retry period ({retry:?}) must be more than 0 and, times 1.2, shorter than the renew deadline"
    )]
    RetryPeriod {
        /// What was asked for.
        retry: Duration,
    },
    /// Everybody would be everybody.
    #[error("a candidate needs a name: set POD_NAME or HOSTNAME")]
    NoName,
}

impl Config {
    /// # Errors
    /// Names the setting that can't work with the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let &Self { lease_duration: duration, renew_deadline: deadline, retry_period: retry, .. } = self;
        if duration.is_zero() || duration.subsec_nanos() != 0 || duration > LONGEST {
            return Err(ConfigError::LeaseDuration(duration));
        }
        if deadline >= duration {
            return Err(ConfigError::RenewDeadline { deadline, duration });
        }
        if retry.is_zero() || retry.mul_f64(JITTER) >= deadline {
            return Err(ConfigError::RetryPeriod { retry });
        }
        Ok(())
    }

    /// Until the next look of one that doesn't hold the lease; `random` is from 0 to 1.
    pub(crate) fn pause(&self, random: f64) -> Duration {
        self.retry_period.mul_f64(1.0 + JITTER * random)
    }

    /// One request may take so long; a hung one must leave time for another.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.renew_deadline / 2
    }

    /// Work that was told to end at the renew deadline is dropped this long after the last renewal: half-way to
    /// where others may begin, for clocks that don't run at the same rate.
    pub(crate) fn abandon_after(&self) -> Duration {
        (self.renew_deadline + self.lease_duration) / 2
    }

    #[allow(clippy::cast_possible_truncation, reason = "at most an hour, see validate")]
    pub(crate) fn seconds(&self) -> i32 {
        self.lease_duration.as_secs() as i32
    }
}

/// A candidate's name, as `kubectl get lease` shows it. No two processes may have the same at the same time; one
/// that has the name of one that ended goes on with its lease at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// # Errors
    /// When the name is empty.
    pub fn new(name: impl Into<String>) -> Result<Self, ConfigError> {
        let name = name.into();
        if name.trim().is_empty() { Err(ConfigError::NoName) } else { Ok(Self(name)) }
    }

    /// The name of this pod.
    ///
    /// `POD_NAME` (from the downward API) is taken as it is: a container that is started again in its pod goes on
    /// at once. `HOSTNAME` is the node's name in a pod on the host's network, and the machine's name outside of a
    /// cluster, so several processes may have the same: a random ending keeps them apart.
    ///
    /// # Errors
    /// When neither is set.
    pub fn of_this_pod() -> Result<Self, ConfigError> {
        let variable = |name: &str| std::env::var(name).ok();
        Self::from_names(variable("POD_NAME"), variable("HOSTNAME"), rand::random())
    }

    fn from_names(pod: Option<String>, host: Option<String>, random: u32) -> Result<Self, ConfigError> {
        let given = |name: &String| !name.trim().is_empty();
        match (pod.filter(given), host.filter(given)) {
            (Some(pod), _) => Self::new(pod),
            (None, Some(host)) => Self::new(format!("{host}_{random:08x}")),
            (None, None) => Err(ConfigError::NoName),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_under_which_two_could_hold_are_refused() {
        let config = |duration: u64, deadline: u64, retry: u64| Config {
            lease_duration: Duration::from_millis(duration),
            renew_deadline: Duration::from_millis(deadline),
            retry_period: Duration::from_millis(retry),
            create: false,
        };
        for (duration, deadline, retry, fine) in [
            (15_000, 10_000, 2_000, true),
            (1_000, 900, 100, true),
            (3_600_000, 10_000, 2_000, true),
            (3_601_000, 10_000, 2_000, false),
            (15_000, 15_000, 2_000, false),
            (15_000, 16_000, 2_000, false),
            // The Lease would say 2 s.
            (2_500, 2_200, 100, false),
            (0, 0, 0, false),
            (15_000, 10_000, 0, false),
            (15_000, 2_000, 2_000, false),
        ] {
            assert_eq!(
                config(duration, deadline, retry).validate().is_ok(),
                fine,
                "{duration} {deadline} {retry}"
            );
        }
        assert!(Config::default().validate().is_ok());
    }

    #[test]
    fn a_pods_name_is_taken_as_it_is_and_a_hosts_name_is_made_unique() {
        let some = |name: &str| Some(name.to_owned());
        let name = |pod, host| Identity::from_names(pod, host, 0xabc).map(|identity| identity.0);
        assert_eq!(name(some("logs-syncer-x"), some("node")), Ok("logs-syncer-x".to_owned()));
        assert_eq!(name(some(" "), some("node")), Ok("node_00000abc".to_owned()));
        assert_eq!(name(None, some("")), Err(ConfigError::NoName));
    }
}
