//! What a candidate knows, from its own reads and writes. Times are on its own monotonic clock, counted from any
//! fixed moment.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use crate::config::{Config, Identity};
use crate::record::{self, Holder};

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// As last read or written; `None`: not there, or not read yet.
    pub(crate) lease: Option<Lease>,
    /// Whether it was ever there.
    pub(crate) known: bool,
    /// Read or written since the last pause.
    pub(crate) fresh: bool,
    /// Until then somebody else may believe to hold it.
    pub(crate) others_until: Duration,
    /// When the last write that made or kept it ours was sent; `None`: not ours.
    confirmed: Option<Duration>,
    /// Nothing is to be done before.
    pub(crate) next: Duration,
    /// A write of the holder was refused and none has succeeded since.
    contested: bool,
}

impl Observed {
    /// Whether this candidate took the lease and has not been told [`crate::Decision::Lose`] since.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.confirmed.is_some()
    }

    /// Until when a holder may work.
    #[must_use]
    pub fn held_until(&self, config: &Config) -> Option<Duration> {
        self.confirmed.map(|sent| sent + config.renew_deadline)
    }

    /// From when on a holder's work must not be touched any more, even if it hasn't ended.
    #[must_use]
    pub fn abandon_at(&self, config: &Config) -> Option<Duration> {
        self.confirmed.map(|sent| sent + config.abandon_after())
    }

    /// It was read, or was not there.
    pub fn read(&mut self, now: Duration, lease: Option<Lease>, me: &Identity, config: &Config) {
        self.others_until = self.others_after(now, lease.as_ref(), me, config);
        self.known |= lease.is_some();
        self.lease = lease;
        self.fresh = true;
    }

    /// The server's answer to a creation or claim that was sent at `sent`.
    pub fn written(&mut self, sent: Duration, now: Duration, lease: Lease, me: &Identity, config: &Config) {
        let mine = record::holder(&lease, me) == Holder::Me;
        self.read(now, Some(lease), me, config);
        if mine {
            self.confirmed = Some(sent);
            self.contested = false;
            self.next = sent + config.retry_period;
        }
    }

    /// A write found another version than the one it was made from. The holder looks at once to whom it lost (it
    /// may have been a change of labels); the others have lost to somebody and can wait.
    pub fn conflicted(&mut self, now: Duration, pause: Duration) {
        self.fresh = false;
        let at_once = self.holds() && !self.contested;
        self.contested = true;
        self.next = if at_once { now } else { now + pause };
    }

    /// A request failed or its outcome is unknown.
    pub fn failed(&mut self, now: Duration, pause: Duration) {
        self.fresh = false;
        self.next = now + pause;
    }

    /// Somebody else's: nothing to do for a while. Looks again when it may have run out, if that is sooner.
    pub fn rested(&mut self, now: Duration, pause: Duration) {
        self.fresh = false;
        self.next = now + pause;
        if self.others_until > now {
            self.next = self.next.min(self.others_until);
        }
    }

    /// The work has ended; this is a candidate again.
    pub fn lost(&mut self, now: Duration, pause: Duration) {
        self.confirmed = None;
        self.contested = false;
        self.failed(now, pause);
    }

    fn others_after(&self, now: Duration, new: Option<&Lease>, me: &Identity, config: &Config) -> Duration {
        let Some(new) = new else { return self.others_until };
        let before = self.lease.as_ref().filter(|old| record::same_object(old, new));
        match record::holder(new, me) {
            Holder::Me => Duration::ZERO,
            Holder::Other(_) if before.is_some_and(|old| record::same(old, new)) => self.others_until,
            Holder::Other(_) => now + record::duration(new, config),
            Holder::Nobody => match before.map(|old| record::holder(old, me)) {
                // Released by its holder.
                Some(Holder::Other(_)) => Duration::ZERO,
                Some(_) => self.others_until,
                // Made anew: the holder of the one that was deleted may not know yet.
                None if self.known => now + config.lease_duration,
                None => Duration::ZERO,
            },
        }
    }
}
