//! What became of every record, kept so that at any moment, for each tenant,
//! `received = rejected + staged + buffered + in flight + lost`.

use std::collections::BTreeMap;

use spillway_model::{ProjectId, TenantName};

use crate::buffers::Tally;

/// Records of one project of one tenant, by where they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) buffered: u64,
    /// Taken for an object that is not confirmed yet.
    pub(crate) in_flight: u64,
    pub(crate) staged: u64,
    /// Given up at the drain's deadline, or not encodable.
    pub(crate) lost: u64,
    /// Bytes of staged rows before compression.
    pub(crate) staged_bytes: u64,
}

/// What one tenant sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) received: u64,
    /// Request bodies after decompression.
    pub(crate) received_bytes: u64,
    pub(crate) rejected: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) sent: BTreeMap<TenantName, Sent>,
    pub(crate) places: BTreeMap<(TenantName, ProjectId), Places>,
}

impl Books {
    pub(crate) fn count(&mut self, tenant: &TenantName, tally: &Tally) {
        let sent = self.sent.entry(tenant.clone()).or_default();
        sent.received += tally.received;
        sent.received_bytes += tally.bytes;
        for (reason, count) in &tally.rejected {
            *sent.rejected.entry(reason).or_default() += count;
        }
    }

    pub(crate) fn place(&mut self, tenant: &TenantName, project: &ProjectId) -> &mut Places {
        self.places.entry((tenant.clone(), project.clone())).or_default()
    }
}
