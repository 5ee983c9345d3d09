//! What is in the cluster of the objects that pipelines own, as the watches tell it: metadata only, and of that a
//! handful of fields, because there are twenty objects per pipeline.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStatus},
        coordination::v1::Lease,
        core::v1::PodSpec,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource as _, runtime::watcher::Event};
use parking_lot::RwLock;
use spillway_crds::LogPipeline;

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
    /// Name of its controller, if that is a pipeline.
    pub(crate) owner_pipeline: Option<String>,
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

    /// Takes in what an answer told of a pipeline's object, for those that aren't watched: of their kind, or
    /// because somebody took their labels.
    pub(crate) fn note(&self, kind: Kind, pipeline: PipelineRef, seen: Seen) {
        if let Some(place) = seen.place(kind) {
            self.objects.write().insert(place, (pipeline, seen.observed()));
        }
    }

    /// Forgets an object that the server says is gone, if it is still the one that is known.
    pub(crate) fn gone(&self, namespace: &str, id: &Id, uid: &str) {
        let place = (namespace.to_owned(), id.clone());
        let mut objects = self.objects.write();
        if objects.get(&place).is_some_and(|(_, observed)| observed.uid == uid) {
            objects.remove(&place);
        }
    }

    /// Forgets every object of a kind whose CRD is gone.
    pub(crate) fn forget(&self, kind: Kind, scope: Option<&str>) -> Vec<PipelineRef> {
        self.drop_unseen(kind, scope, &HashSet::new())
    }

    fn put(&self, kind: Kind, seen: Seen) -> Vec<PipelineRef> {
        let Some(place) = seen.place(kind) else { return Vec::new() };
        let Some(pipeline) = seen.pipeline() else {
            // It says no longer whose it is.
            return self.objects.write().remove(&place).map(|(owner, _)| owner).into_iter().collect();
        };
        let observed = seen.observed();
        let before = self.objects.write().insert(place, (pipeline.clone(), observed.clone()));
        match before {
            Some((owner, old)) if owner == pipeline && old == observed => Vec::new(),
            Some((owner, _)) if owner != pipeline => vec![owner, pipeline],
            _ => vec![pipeline],
        }
    }

    fn drop_unseen(&self, kind: Kind, scope: Option<&str>, seen: &HashSet<(String, Id)>) -> Vec<PipelineRef> {
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

    fn pipeline(&self) -> Option<PipelineRef> {
        let label = self.metadata.labels.as_ref().and_then(|labels| labels.get(PIPELINE))?;
        Some(PipelineRef { namespace: self.metadata.namespace.clone()?, name: label.clone() })
    }

    pub(crate) fn observed(self) -> Observed {
        let Self { metadata, rollout, holder } = self;
        Observed {
            uid: metadata.uid.clone().unwrap_or_default(),
            owner: controller(&metadata),
            owner_pipeline: owner(&metadata)
                .filter(|owner| is_pipeline(owner))
                .map(|owner| owner.name.clone()),
            ours: ours(&metadata),
            leaving: metadata.deletion_timestamp.is_some(),
            rollout,
            holder,
        }
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
    owner(metadata).map(|owner| owner.uid.clone())
}

fn owner(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true))
}

fn is_pipeline(owner: &OwnerReference) -> bool {
    let group = owner.api_version.split('/').next();
    owner.kind == LogPipeline::kind(&()) && group == Some(&*LogPipeline::group(&()))
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
    fn what_a_look_has_found_is_known_without_labels_until_it_is_gone() {
        let inventory = Inventory::default();
        let object = serde_json::json!({
            "metadata": {
                "name": "logs-ingest", "namespace": "ns", "uid": "u",
                "ownerReferences": [{
                    "apiVersion": "spillway.dev/v1alpha1", "kind": "LogPipeline", "name": "logs", "uid": "me",
                    "controller": true,
                }],
            },
            "spec": {"replicas": 7, "selector": {}, "template": {}},
        });
        let found: Deployment = serde_json::from_value(object).unwrap();
        inventory.note(Kind::Deployment, logs(), Seen::from(found));
        let id = Id { kind: Kind::Deployment, name: "logs-ingest".into() };
        let known = inventory.of(&logs()).remove(&id).unwrap();
        // By this the next plan leaves the autoscaler's number alone.
        let workload = known.rollout.unwrap().workload;
        assert_eq!((workload.replicas, workload.replicas_are_ours), (7, false));
        assert_eq!((known.owner.as_deref(), known.owner_pipeline.as_deref()), (Some("me"), Some("logs")));
        inventory.gone("ns", &id, "another");
        assert_eq!(inventory.of(&logs()).len(), 1);
        inventory.gone("ns", &id, "u");
        assert_eq!(inventory.of(&logs()).len(), 0);
    }

    #[test]
    fn an_object_that_loses_the_pipelines_label_wakes_it() {
        let (inventory, mut relist) = (Inventory::default(), Relist::default());
        let mut take = |seen| inventory.take(Kind::Service, None, &mut relist, Event::Apply(seen));
        take(seen("a", "logs", "f:spec"));
        let mut bare = seen("a", "logs", "f:spec");
        bare.metadata.labels = None;
        assert_eq!(take(bare), [logs()]);
        assert_eq!(inventory.of(&logs()).len(), 0);
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
