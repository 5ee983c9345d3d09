//! Whose objects the bucket does not take at the moment. Beyond a few objects each their rows wait in the
//! buffers: what is denied to one tenant must not use up the PUTs of all.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use spillway_model::TenantName;

/// Objects that were tried in vain, by whose they are. Packed ones are nobody's: they lie in a folder of their
/// own, and what is wrong with it is no fault of the tenants in them.
#[derive(Debug)]
pub(crate) struct Failing {
    most: usize,
    objects: Mutex<HashMap<Option<TenantName>, usize>>,
}

/// Who has as many failing objects as one may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeldBack {
    pub(crate) tenants: HashSet<TenantName>,
    /// No objects are shared.
    pub(crate) packed: bool,
}

/// Counts as a failing object until it is dropped.
#[derive(Debug)]
pub(crate) struct FailingObject {
    all: Arc<Failing>,
    owner: Option<TenantName>,
}

impl Failing {
    /// One owner may have a quarter of the PUTs that may be under way, and at least one: without it nobody
    /// would find out when the bucket takes its objects again.
    pub(crate) fn new(put_concurrency: usize) -> Arc<Self> {
        Arc::new(Self { most: (put_concurrency / 4).max(1), objects: Mutex::default() })
    }

    pub(crate) fn add(self: &Arc<Self>, owner: Option<TenantName>) -> FailingObject {
        *self.objects.lock().entry(owner.clone()).or_default() += 1;
        FailingObject { all: Arc::clone(self), owner }
    }

    pub(crate) fn held_back(&self) -> HeldBack {
        let mut held_back = HeldBack::default();
        for (owner, count) in self.objects.lock().iter() {
            match owner {
                _ if *count < self.most => {}
                Some(tenant) => {
                    held_back.tenants.insert(tenant.clone());
                }
                None => held_back.packed = true,
            }
        }
        held_back
    }
}

impl Drop for FailingObject {
    fn drop(&mut self) {
        let mut objects = self.all.objects.lock();
        if let Some(count) = objects.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                objects.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_its_share_of_failing_objects_is_held_back_until_one_is_staged() {
        let failing = Failing::new(8);
        let acme = TenantName::parse("acme").unwrap();
        let first = failing.add(Some(acme.clone()));
        let packed = [failing.add(None), failing.add(None)];
        assert_eq!(failing.held_back(), HeldBack { tenants: [].into(), packed: true });
        let second = failing.add(Some(acme.clone()));
        drop(packed);
        assert_eq!(failing.held_back(), HeldBack { tenants: [acme].into(), packed: false });
        drop(first);
        assert_eq!(failing.held_back(), HeldBack::default());
        drop(second);
        assert!(failing.objects.lock().is_empty());
    }
}
