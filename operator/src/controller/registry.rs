//! The pipelines of a scope: which Secrets they name, and what of them was last seen, to tell a change from a mere
//! status write.

use std::collections::{BTreeSet, HashMap, HashSet};

use kube::{
    Resource as _,
    runtime::{reflector::Lookup as _, watcher::Event},
};
use spillway_crds::DeletionPolicy;

use super::Ref;
use crate::{
    cleanup::{FINALIZER, what_is_kept},
    dereference::secret_names,
    digest,
    reconcile::Object,
};

#[derive(Debug, Default)]
pub(crate) struct Registry {
    known: HashMap<Ref, Known>,
    /// Seen since the watch began anew.
    listed: HashSet<Ref>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) uid: String,
    pub(crate) secrets: BTreeSet<String>,
    /// Digest of what is not status.
    fingerprint: u64,
    /// What a deletion leaves and why, unless there is a cleanup that says so.
    pub(crate) kept: Option<String>,
}

/// What an event means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) changed: Vec<Ref>,
    pub(crate) gone: Vec<(Ref, Known)>,
}

impl Registry {
    pub(crate) fn take(&mut self, event: &Event<Object>) -> News {
        match event {
            Event::Init => {
                self.listed.clear();
                News::default()
            }
            Event::InitApply(object) | Event::Apply(object) => {
                let reference = object.to_object_ref(());
                self.listed.insert(reference.clone());
                let now = known(object);
                let before = self.known.insert(reference.clone(), now.clone());
                let changed =
                    if before.as_ref() == Some(&now) { Vec::new() } else { vec![reference.clone()] };
                // Deleted and made again while the watch was away.
                let gone = before.filter(|before| before.uid != now.uid).map(|before| (reference, before));
                News { changed, gone: gone.into_iter().collect() }
            }
            Event::Delete(object) => {
                let reference = object.to_object_ref(());
                let gone = self.known.remove(&reference).map(|known| (reference, known));
                News { changed: Vec::new(), gone: gone.into_iter().collect() }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let gone: Vec<_> =
                    self.known.extract_if(|reference, _| !listed.contains(reference)).collect();
                News { changed: Vec::new(), gone }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Ref> {
        self.known.keys()
    }

    /// The pipelines of a namespace that name a Secret.
    pub(crate) fn naming(&self, namespace: &str, secret: &str) -> Vec<Ref> {
        let naming = self.known.iter().filter(|(reference, known)| {
            reference.namespace.as_deref() == Some(namespace) && known.secrets.contains(secret)
        });
        naming.map(|(reference, _)| reference.clone()).collect()
    }

    /// Secrets that any pipeline of a namespace names.
    pub(crate) fn named_in(&self, namespace: &str) -> HashSet<String> {
        let here =
            self.known.iter().filter(|(reference, _)| reference.namespace.as_deref() == Some(namespace));
        here.flat_map(|(_, known)| known.secrets.iter().cloned()).collect()
    }
}

fn known(object: &Object) -> Known {
    let metadata = object.meta();
    let spec = object.0.as_ref().ok().map(|pipeline| &pipeline.spec);
    let fingerprint = digest::json(&(
        metadata.generation,
        &metadata.finalizers,
        &metadata.labels,
        &metadata.annotations,
        &metadata.deletion_timestamp,
        object.0.as_ref().err().map(|unreadable| &unreadable.error),
    ));
    Known {
        uid: metadata.uid.clone().unwrap_or_default(),
        secrets: spec.map(secret_names).unwrap_or_default(),
        fingerprint,
        kept: kept(object),
    }
}

fn kept(object: &Object) -> Option<String> {
    if object.meta().finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER) {
        return None;
    }
    Some(match &object.0 {
        Err(_) => "bucket and tables are left: the operator could not read the pipeline".to_owned(),
        Ok(pipeline) => {
            let why = match pipeline.spec.deletion_policy.unwrap_or_default() {
                DeletionPolicy::Retain => "as deletionPolicy Retain says",
                DeletionPolicy::Delete => {
                    "because it was deleted before the operator could hold it for its cleanup"
                }
            };
            format!("{} are left, {why}", what_is_kept(pipeline))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[test]
    fn whoever_goes_without_a_cleanup_is_told_what_is_left() {
        for (finalizers, spec, expected) in [
            (json!([]), json!({}), Some("as deletionPolicy Retain says")),
            (json!([]), json!({"deletionPolicy": "Delete"}), Some("before the operator could hold it")),
            (json!([]), json!({"deletionPolicy": 5}), Some("could not read")),
            // Its cleanup says so.
            (json!([FINALIZER]), json!({"deletionPolicy": "Delete"}), None),
            (json!([FINALIZER]), json!({"deletionPolicy": "Retain"}), None),
        ] {
            let mut object = object("logs", "u", 1, json!({}));
            let metadata = object.meta_mut();
            metadata.finalizers = serde_json::from_value(finalizers).unwrap();
            let metadata = metadata.clone();
            let object = json!({"apiVersion": "spillway.dev/v1alpha1", "kind": "LogPipeline", "metadata": metadata, "spec": spec});
            let kept = kept(&serde_json::from_value(object).unwrap());
            match expected {
                Some(text) => assert!(kept.as_ref().is_some_and(|kept| kept.contains(text)), "{kept:?}"),
                None => assert_eq!(kept, None),
            }
        }
    }

    use super::*;

    fn object(name: &str, uid: &str, generation: i64, status: Value) -> Object {
        let object = json!({
            "apiVersion": "spillway.dev/v1alpha1", "kind": "LogPipeline",
            "metadata": {"name": name, "namespace": "ns", "uid": uid, "generation": generation},
            "spec": {"clickhouse": {"credentialsSecretRef": {"name": "ch"}}},
            "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_status_write_wakes_nobody_and_everything_else_does() {
        let mut registry = Registry::default();
        let mut changed = |event: Event<Object>| registry.take(&event).changed.len();
        assert_eq!(changed(Event::InitApply(object("logs", "u", 1, json!({})))), 1);
        assert_eq!(changed(Event::InitDone), 0);
        assert_eq!(changed(Event::Apply(object("logs", "u", 1, json!({"lag": "5m"})))), 0);
        assert_eq!(changed(Event::Apply(object("logs", "u", 2, json!({"lag": "5m"})))), 1);
        let mut annotated = object("logs", "u", 2, json!({}));
        annotated.meta_mut().annotations = Some([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(changed(Event::Apply(annotated)), 1);
    }

    #[test]
    fn a_pipeline_that_went_while_the_watch_was_away_is_missed() {
        let mut registry = Registry::default();
        registry.take(&Event::Apply(object("logs", "u", 1, json!({}))));
        registry.take(&Event::Init);
        let gone = registry.take(&Event::InitDone).gone;
        assert_eq!(gone.len(), 1);
        assert!(gone[0].1.kept.as_ref().unwrap().contains("spillway.logs"));
        registry.take(&Event::Apply(object("logs", "u", 1, json!({}))));
        let again = registry.take(&Event::Apply(object("logs", "v", 1, json!({}))));
        assert_eq!((again.changed.len(), again.gone.len()), (1, 1));
    }

    #[test]
    fn a_secret_leads_to_the_pipelines_of_its_namespace_that_name_it() {
        let mut registry = Registry::default();
        registry.take(&Event::Apply(object("logs", "u", 1, json!({}))));
        assert_eq!(registry.naming("ns", "ch").len(), 1);
        assert_eq!(registry.naming("ns", "other").len() + registry.naming("elsewhere", "ch").len(), 0);
    }
}
