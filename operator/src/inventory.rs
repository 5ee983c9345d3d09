//! What is in the cluster of the objects that pipelines own, as the watches tell it: metadata only, and of that a
//! handful of fields, because there are twenty objects per pipeline.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStatus},
        coordination::v1::Lease,
        core::v1::PodSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::runtime::watcher::Event;
use parking_lot::RwLock;

use crate::{
    digest,
    kinds::{Id, Kind},
    plan::{
        self,
        names::{FIELD_MANAGER, PIPELINE},
    },
};

/// An object as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) uid: String,
    /// Uid of its controller.
    pub(crate) owner: Option<String>,
    /// Digest of what our field manager owns of it. Whoever changes one of our values takes the field's ownership,
    /// so this differs when and only when something of ours was changed; status updates leave it alone.
    pub(crate) ours: u64,
    /// It has a deletion timestamp.
    pub(crate) leaving: bool,
    pub(crate) rollout: Option<Rollout>,
    /// Holder of a Lease.
    pub(crate) holder: Option<String>,
}

/// How far a Deployment is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rollout {
    /// What of it decides the plan.
    pub(crate) workload: plan::Workload,
    /// ConfigMaps that its template names.
    pub(crate) config_maps: Vec<String>,
    /// `spec.replicas`.
    pub(crate) wanted: i32,
    /// Pods that there are.
    pub(crate) pods: i32,
    pub(crate) updated: i32,
    pub(crate) available: i32,
    /// Its controller has seen its newest spec.
    pub(crate) current: bool,
    /// Why pods can't be made or don't come up, in the Deployment controller's words.
    pub(crate) trouble: Option<String>,
}

impl Rollout {
    /// Every pod is of the newest template and no old one is left.
    pub(crate) fn settled(&self) -> bool {
        self.current && self.updated == self.pods && self.pods == self.wanted
    }
}

/// Where an object is: which pipeline it says it belongs to is a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PipelineRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

type Objects = HashMap<(String, Id), (PipelineRef, Observed)>;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    objects: RwLock<Objects>,
}

/// One watch: what it saw since it began anew.
#[derive(Debug, Default)]
pub(crate) struct Relist(HashSet<(String, Id)>);

impl Inventory {
    /// What a pipeline's objects are, those of other owners with its label included.
    pub(crate) fn of(&self, pipeline: &PipelineRef) -> BTreeMap<Id, Observed> {
        let objects = self.objects.read();
        let mine = objects.iter().filter(|((namespace, _), (owner, _))| {
            *namespace == pipeline.namespace && owner.name == pipeline.name
        });
        mine.map(|((_, id), (_, observed))| (id.clone(), observed.clone())).collect()
    }

    /// Takes an event of a watch on `kind` in `scope` (a namespace; `None`: all) in. Returns the pipelines whose
    /// objects changed in what matters.
    pub(crate) fn take(
        &self,
        kind: Kind,
        scope: Option<&str>,
        relist: &mut Relist,
        event: Event<Seen>,
    ) -> Vec<PipelineRef> {
        match event {
            Event::Init => {
                relist.0.clear();
                Vec::new()
            }
            Event::InitApply(seen) => {
                relist.0.extend(seen.place(kind));
                self.put(kind, seen)
            }
            Event::Apply(seen) => self.put(kind, seen),
            Event::Delete(seen) => {
                let Some(place) = seen.place(kind) else { return Vec::new() };
                self.objects.write().remove(&place).map(|(owner, _)| owner).into_iter().collect()
            }
            Event::InitDone => self.drop_unseen(kind, scope, &std::mem::take(&mut relist.0)),
        }
    }

    /// Takes in what an answer told, for kinds that aren't watched.
    pub(crate) fn note(&self, kind: Kind, seen: Seen) {
        self.put(kind, seen);
    }

    /// Forgets every object of a kind whose CRD is gone.
    pub(crate) fn forget(&self, kind: Kind, scope: Option<&str>) -> Vec<PipelineRef> {
        self.drop_unseen(kind, scope, &HashSet::new())
    }

    fn put(&self, kind: Kind, seen: Seen) -> Vec<PipelineRef> {
        let Some((place, pipeline, observed)) = seen.placed(kind) else { return Vec::new() };
        let before = self.objects.write().insert(place, (pipeline.clone(), observed.clone()));
        match before {
            Some((owner, old)) if owner == pipeline && old == observed => Vec::new(),
            Some((owner, _)) if owner != pipeline => vec![owner, pipeline],
            _ => vec![pipeline],
        }
    }

    fn drop_unseen(
        &self,
        kind: Kind,
        scope: Option<&str>,
        seen: &HashSet<(String, Id)>,
    ) -> Vec<PipelineRef> {
        let mut gone = Vec::new();
        self.objects.write().retain(|place, (pipeline, _)| {
            let (namespace, id) = place;
            let watched = id.kind == kind && scope.is_none_or(|scope| scope == namespace);
            let keep = !watched || seen.contains(place);
            if !keep {
                gone.push(pipeline.clone());
            }
            keep
        });
        gone
    }
}

/// What a watch brings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) metadata: ObjectMeta,
    pub(crate) rollout: Option<Rollout>,
    pub(crate) holder: Option<String>,
}

impl Seen {
    fn place(&self, kind: Kind) -> Option<(String, Id)> {
        let ObjectMeta { namespace, name, .. } = &self.metadata;
        Some((namespace.clone()?, Id { kind, name: name.clone()? }))
    }

    fn placed(self, kind: Kind) -> Option<((String, Id), PipelineRef, Observed)> {
        let place = self.place(kind)?;
        let Self { metadata, rollout, holder } = self;
        let label = metadata.labels.as_ref().and_then(|labels| labels.get(PIPELINE))?.clone();
        let pipeline = PipelineRef { namespace: place.0.clone(), name: label };
        let observed = Observed {
            uid: metadata.uid.clone().unwrap_or_default(),
            owner: controller(&metadata),
            ours: ours(&metadata),
            leaving: metadata.deletion_timestamp.is_some(),
            rollout,
            holder,
        };
        Some((place, pipeline, observed))
    }
}

impl From<Deployment> for Seen {
    fn from(deployment: Deployment) -> Self {
        let rollout = Some(rollout(&deployment));
        Self { metadata: deployment.metadata, rollout, holder: None }
    }
}

impl From<Lease> for Seen {
    fn from(lease: Lease) -> Self {
        let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
        Self { metadata: lease.metadata, rollout: None, holder }
    }
}

/// Uid of the controller.
pub(crate) fn controller(metadata: &ObjectMeta) -> Option<String> {
    let owners = metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
}

/// See [`Observed::ours`].
pub(crate) fn ours(metadata: &ObjectMeta) -> u64 {
    let entries = metadata.managed_fields.iter().flatten();
    let mut mine = entries.filter(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    mine.next().map_or(0, |entry| digest::json(&entry.fields_v1))
}

fn rollout(deployment: &Deployment) -> Rollout {
    let spec: DeploymentSpec = deployment.spec.clone().unwrap_or_default();
    let status: DeploymentStatus = deployment.status.clone().unwrap_or_default();
    let failing = status.conditions.iter().flatten().find(|condition| {
        (condition.type_ == "ReplicaFailure" && condition.status == "True")
            || (condition.type_ == "Progressing" && condition.status == "False")
    });
    Rollout {
        workload: plan::Workload::of(deployment),
        config_maps: config_maps(spec.template.spec.as_ref()),
        wanted: spec.replicas.unwrap_or(1),
        pods: status.replicas.unwrap_or(0),
        updated: status.updated_replicas.unwrap_or(0),
        available: status.available_replicas.unwrap_or(0),
        current: status.observed_generation >= deployment.metadata.generation,
        trouble: failing.map(|condition| condition.message.clone().unwrap_or_default()),
    }
}

/// ConfigMaps that pods mount.
pub(crate) fn config_maps(pods: Option<&PodSpec>) -> Vec<String> {
    let volumes = pods.and_then(|pods| pods.volumes.as_ref()).into_iter().flatten();
    volumes.filter_map(|volume| volume.config_map.as_ref()).map(|map| map.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, pipeline: &str, fields: &str) -> Seen {
        let metadata = serde_json::json!({
            "name": name, "namespace": "ns", "uid": format!("uid-{name}"),
            "labels": {PIPELINE: pipeline},
            "managedFields": [
                {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:x": {}}},
                {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {fields: {}}},
            ],
        });
        Seen { metadata: serde_json::from_value(metadata).unwrap(), ..Seen::default() }
    }

    fn logs() -> PipelineRef {
        PipelineRef { namespace: "ns".into(), name: "logs".into() }
    }

    #[test]
    fn only_a_change_of_our_own_fields_is_news() {
        let (inventory, mut relist) = (Inventory::default(), Relist::default());
        let mut take = |seen| inventory.take(Kind::Service, None, &mut relist, Event::Apply(seen));
        assert_eq!(take(seen("a", "logs", "f:spec")), [logs()]);
        assert_eq!(take(seen("a", "logs", "f:spec")), []);
        assert_eq!(take(seen("a", "logs", "f:less")), [logs()]);
    }

    #[test]
    fn an_object_that_vanished_while_the_watch_was_away_is_missed_within_its_scope_only() {
        let (inventory, mut relist) = (Inventory::default(), Relist::default());
        for name in ["a", "b"] {
            inventory.take(Kind::Service, Some("ns"), &mut relist, Event::Apply(seen(name, "logs", "f:x")));
        }
        let mut elsewhere = Relist::default();
        for event in [Event::Init, Event::InitDone] {
            assert_eq!(inventory.take(Kind::Service, Some("other"), &mut elsewhere, event), []);
            assert_eq!(inventory.of(&logs()).len(), 2);
        }
        inventory.take(Kind::Service, Some("ns"), &mut relist, Event::Init);
        inventory.take(Kind::Service, Some("ns"), &mut relist, Event::InitApply(seen("b", "logs", "f:x")));
        assert_eq!(inventory.take(Kind::Service, Some("ns"), &mut relist, Event::InitDone), [logs()]);
        let left: Vec<_> = inventory.of(&logs()).into_keys().map(|id| id.name).collect();
        assert_eq!(left, ["b"]);
    }

    #[test]
    fn a_deployment_is_settled_when_its_controller_has_nothing_left_to_do() {
        let deployment = |generation: i64, replicas: i32, updated: i32| -> Rollout {
            let object = serde_json::json!({
                "metadata": {"generation": 2}, "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {"observedGeneration": generation, "replicas": replicas, "updatedReplicas": updated},
            });
            rollout(&serde_json::from_value(object).unwrap())
        };
        assert!(deployment(2, 2, 2).settled());
        assert!(!deployment(1, 2, 2).settled());
        assert!(!deployment(2, 3, 2).settled());
        assert!(!deployment(2, 2, 1).settled());
    }
}
