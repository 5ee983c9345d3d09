//! What may be in memory at once: requests that are not answered and bytes that are not staged, in all and
//! per tenant. Who does not fit is refused at once, before anything is read.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use spillway_model::TenantName;
use spillway_model::settings::QueueSettings;

/// Bytes and requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub requests: u64,
}

/// Bounds in all and for one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub total: Usage,
    pub tenant: Usage,
}

/// Why something does not fit now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    #[error("the server's buffers are full")]
    Bytes,
    #[error("the server has as many requests under way as it takes")]
    Requests,
    #[error("the tenant's share of the server's buffers is full")]
    TenantBytes,
    #[error("the tenant has as many requests under way as it may")]
    TenantRequests,
    #[error("the tenant has as many services with waiting records as it may ({limit})")]
    TenantStreams { limit: u64 },
    #[error(
        "the request is larger than what one tenant may buffer ({limit} bytes); send it in smaller requests"
    )]
    NeverFits { limit: u64 },
}

impl Overload {
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Bytes => "queue_bytes",
            Self::Requests => "queue_requests",
            Self::TenantBytes => "tenant_bytes",
            Self::TenantRequests => "tenant_requests",
            Self::TenantStreams { .. } => "tenant_streams",
            Self::NeverFits { .. } => "never_fits",
        }
    }

    /// Whether another tenant would have been let in: 429 and not 503.
    #[must_use]
    pub fn is_tenants_own(self) -> bool {
        matches!(self, Self::TenantBytes | Self::TenantRequests | Self::TenantStreams { .. })
    }
}

impl Bounds {
    #[must_use]
    pub fn new(settings: &QueueSettings) -> Self {
        let share = |n: u64| ((n as f64 * settings.tenant_share).ceil() as u64).max(1);
        Self {
            total: Usage { bytes: settings.max_bytes.0, requests: settings.max_requests },
            tenant: Usage { bytes: share(settings.max_bytes.0), requests: share(settings.max_requests) },
        }
    }

    /// # Errors
    /// When `more` does not fit beside what is there.
    pub fn admit(&self, total: Usage, tenant: Usage, more: Usage) -> Result<(), Overload> {
        if more.bytes > self.tenant.bytes {
            return Err(Overload::NeverFits { limit: self.tenant.bytes });
        }
        // The tenant first: a tenant over its share is told so even when the server is full as well.
        if tenant.requests + more.requests > self.tenant.requests {
            return Err(Overload::TenantRequests);
        }
        if more.bytes > 0 && tenant.bytes + more.bytes > self.tenant.bytes {
            return Err(Overload::TenantBytes);
        }
        if total.requests + more.requests > self.total.requests {
            return Err(Overload::Requests);
        }
        if more.bytes > 0 && total.bytes + more.bytes > self.total.bytes {
            return Err(Overload::Bytes);
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct State {
    total: Usage,
    tenants: HashMap<TenantName, Usage>,
}

/// The books of what is in memory.
#[derive(Debug)]
pub struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
}

impl Queue {
    #[must_use]
    pub fn new(settings: &QueueSettings) -> Arc<Self> {
        Arc::new(Self { bounds: Bounds::new(settings), state: Mutex::default() })
    }

    /// Lets a request of so many bytes in.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn enter(self: &Arc<Self>, tenant: &TenantName, bytes: u64) -> Result<Slot, Overload> {
        self.add(tenant, Usage { bytes, requests: 1 })?;
        Ok(Slot { _request: self.held(tenant, 0, 1), bytes: self.held(tenant, bytes, 0) })
    }

    fn held(self: &Arc<Self>, tenant: &TenantName, bytes: u64, requests: u64) -> Held {
        Held { queue: Arc::clone(self), tenant: tenant.clone(), usage: Usage { bytes, requests } }
    }

    fn add(&self, tenant: &TenantName, more: Usage) -> Result<(), Overload> {
        let State { total, tenants } = &mut *self.state.lock();
        let now = tenants.get(tenant).copied().unwrap_or_default();
        self.bounds.admit(*total, now, more)?;
        let of_tenant = tenants.entry(tenant.clone()).or_default();
        for usage in [total, of_tenant] {
            usage.bytes += more.bytes;
            usage.requests += more.requests;
        }
        Ok(())
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        self.state.lock().total
    }
}

/// A part of the queue that something takes up until it is dropped.
#[derive(Debug)]
pub struct Held {
    queue: Arc<Queue>,
    tenant: TenantName,
    usage: Usage,
}

impl Held {
    /// Takes up so many bytes from now on, whether they fit or not: for what is in memory already.
    fn set_bytes(&mut self, bytes: u64) {
        let State { total, tenants } = &mut *self.queue.state.lock();
        let of_tenant = tenants.entry(self.tenant.clone()).or_default();
        for usage in [total, of_tenant] {
            usage.bytes = (usage.bytes + bytes).saturating_sub(self.usage.bytes);
        }
        self.usage.bytes = bytes;
    }

    /// Splits off so many bytes, at most what it has.
    fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.usage.bytes);
        self.usage.bytes -= bytes;
        let usage = Usage { bytes, requests: 0 };
        Self { queue: Arc::clone(&self.queue), tenant: self.tenant.clone(), usage }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let State { total, tenants } = &mut *self.queue.state.lock();
        total.bytes = total.bytes.saturating_sub(self.usage.bytes);
        total.requests = total.requests.saturating_sub(self.usage.requests);
        if let Some(usage) = tenants.get_mut(&self.tenant) {
            usage.bytes = usage.bytes.saturating_sub(self.usage.bytes);
            usage.requests = usage.requests.saturating_sub(self.usage.requests);
            if *usage == Usage::default() {
                tenants.remove(&self.tenant);
            }
        }
    }
}

/// A request's place in the queue.
#[derive(Debug)]
pub struct Slot {
    _request: Held,
    bytes: Held,
}

impl Slot {
    /// The request turns out to need `bytes` in all.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Overload> {
        if bytes <= self.bytes.usage.bytes {
            return Ok(());
        }
        let more = Usage { bytes: bytes - self.bytes.usage.bytes, requests: 0 };
        self.bytes.queue.add(&self.bytes.tenant, more)?;
        self.bytes.usage.bytes = bytes;
        Ok(())
    }

    /// The body became rows of these sizes: their bytes outlive the request.
    pub(crate) fn hand_over(&mut self, rows: impl Iterator<Item = u64> + Clone) -> Vec<Held> {
        self.bytes.set_bytes(rows.clone().sum());
        rows.map(|bytes| self.bytes.split(bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_model::settings::ByteSize;

    fn settings() -> QueueSettings {
        QueueSettings {
            max_bytes: ByteSize(1000),
            max_requests: 10,
            tenant_share: 0.5,
            ..QueueSettings::default()
        }
    }

    fn usage(bytes: u64, requests: u64) -> Usage {
        Usage { bytes, requests }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_whose_bound_it_is() {
        let bounds = Bounds::new(&settings());
        let one = usage(100, 1);
        let cases = [
            (usage(0, 0), usage(0, 0), one, Ok(())),
            (usage(900, 9), usage(400, 4), one, Ok(())),
            (usage(901, 9), usage(0, 0), one, Err(Overload::Bytes)),
            (usage(0, 10), usage(0, 0), one, Err(Overload::Requests)),
            (usage(401, 1), usage(401, 1), one, Err(Overload::TenantBytes)),
            (usage(0, 5), usage(0, 5), one, Err(Overload::TenantRequests)),
            (usage(1000, 10), usage(500, 5), one, Err(Overload::TenantRequests)),
            (usage(0, 0), usage(0, 0), usage(501, 1), Err(Overload::NeverFits { limit: 500 })),
            // Full buffers do not keep an empty request out.
            (usage(2000, 1), usage(2000, 1), usage(0, 1), Ok(())),
        ];
        for (total, tenant, more, expected) in cases {
            assert_eq!(bounds.admit(total, tenant, more), expected, "{total:?} {tenant:?} {more:?}");
        }
    }

    #[test]
    fn the_books_are_empty_when_everything_is_gone() {
        let queue = Queue::new(&settings());
        let tenant = TenantName::parse("a").unwrap();
        let mut slot = queue.enter(&tenant, 100).unwrap();
        slot.grow(300).unwrap();
        assert_eq!(slot.grow(501), Err(Overload::NeverFits { limit: 500 }).or(Err(Overload::TenantBytes)));
        assert_eq!(queue.usage(), usage(300, 1));
        let rows = slot.hand_over([200, 50].into_iter());
        assert_eq!(queue.usage(), usage(250, 1));
        drop(slot);
        assert_eq!(queue.usage(), usage(250, 0));
        drop(rows);
        assert_eq!(queue.usage(), Usage::default());
        assert!(queue.state.lock().tenants.is_empty());
    }

    #[test]
    fn rows_that_are_larger_than_their_body_are_counted_all_the_same() {
        let queue = Queue::new(&settings());
        let mut slot = queue.enter(&TenantName::parse("a").unwrap(), 400).unwrap();
        let rows = slot.hand_over([900].into_iter());
        assert_eq!(queue.usage(), usage(900, 1));
        drop((slot, rows));
        assert_eq!(queue.usage(), Usage::default());
    }
}
