//! What the pods of both components have in common. They meet the restricted Pod Security Standard.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Affinity, Capabilities, ConfigMap, ConfigMapVolumeSource, Container, HTTPGetAction, KeyToPath,
            LocalObjectReference, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec,
            PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
            SecurityContext, Volume, VolumeMount, WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::ResourceExt as _;
use spillway_crds::{ValidatedPipeline, reference::SecretKeyRef, validate::Scheduling};

use super::{
    names::{CA_HASH, Component, Scope},
    network::ADMIN,
    settings::{CA_FILE, S3_CA_DIR, S3_DIR, SETTINGS_DIR},
};

/// User and group that programs run as; the image makes no other assumption.
const USER: i64 = 65_532;
/// Files of Secrets: read by owner and group.
pub const SECRET_MODE: i32 = 0o440;

/// Earlier templates that are kept, each with its settings.
const REVISIONS: i32 = 3;

/// A component's pods.
pub struct Pod {
    pub container: Container,
    pub mounts: Vec<Mount>,
    pub service_account: String,
    pub pull_secrets: Vec<String>,
    pub scheduling: Scheduling,
    /// The component speaks to the API server.
    pub api_access: bool,
    pub grace_seconds: i64,
    pub ca_hash: Option<String>,
}

/// A volume and where it is seen.
pub struct Mount {
    pub volume: Volume,
    pub path: &'static str,
}

impl Mount {
    /// Every entry of a Secret.
    #[must_use]
    pub fn secret(name: &str, secret: &str, path: &'static str) -> Self {
        let source = SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        };
        Self { volume: Volume { name: name.to_owned(), secret: Some(source), ..Volume::default() }, path }
    }

    /// A certificate authority alone: its Secret may hold more than pods need to know.
    #[must_use]
    pub fn authority(name: &str, ca: &SecretKeyRef, path: &'static str) -> Self {
        let mut mount = Self::secret(name, &ca.name, path);
        if let Some(source) = &mut mount.volume.secret {
            let item = KeyToPath { key: ca.key().to_owned(), path: CA_FILE.to_owned(), mode: None };
            source.items = Some(vec![item]);
        }
        mount
    }

    /// A settings file.
    #[must_use]
    pub fn settings(settings: &ConfigMap) -> Self {
        let source = ConfigMapVolumeSource { name: settings.name_any(), ..ConfigMapVolumeSource::default() };
        let volume = Volume { name: "settings".to_owned(), config_map: Some(source), ..Volume::default() };
        Self { volume, path: SETTINGS_DIR }
    }

    /// Credentials and authority of the bucket.
    #[must_use]
    pub fn bucket(pipeline: &ValidatedPipeline) -> Vec<Self> {
        let Some(s3) = &pipeline.storage.s3 else { return Vec::new() };
        let credentials = s3.credentials.as_ref().map(|secret| Self::secret("s3", secret, S3_DIR));
        let ca = s3.ca.as_ref().map(|ca| Self::authority("s3-ca", ca, S3_CA_DIR));
        credentials.into_iter().chain(ca).collect()
    }
}

/// A component's pods as a Deployment. None goes before another has taken its place, and `surge` more come at a time.
#[must_use]
pub fn deployment(
    scope: &Scope,
    component: Component,
    replicas: Option<i32>,
    surge: &str,
    pod: Pod,
) -> Deployment {
    let strategy = DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_unavailable: Some(IntOrString::Int(0)),
            max_surge: Some(IntOrString::String(surge.to_owned())),
        }),
    };
    Deployment {
        metadata: scope.meta(&scope.name(component), component),
        spec: Some(DeploymentSpec {
            replicas,
            selector: scope.selector(component),
            strategy: Some(strategy),
            revision_history_limit: Some(REVISIONS),
            template: template(scope, component, pod),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The template of a component's pods.
fn template(scope: &Scope, component: Component, pod: Pod) -> PodTemplateSpec {
    let Pod {
        mut container,
        mounts,
        service_account,
        pull_secrets,
        scheduling,
        api_access,
        grace_seconds,
        ca_hash,
    } = pod;
    let Scheduling { node_selector, tolerations, priority_class_name, topology_keys, .. } = scheduling;
    let apart: Vec<_> = topology_keys.iter().map(|key| apart(scope, component, key)).collect();
    let pull_secrets: Vec<_> = pull_secrets.into_iter().map(|name| LocalObjectReference { name }).collect();
    container.name = component.name().to_owned();
    // So that `kubectl describe` says why a pod ended.
    container.termination_message_policy = Some("FallbackToLogsOnError".to_owned());
    container.security_context = Some(container_security());
    container.volume_mounts = Some(
        mounts
            .iter()
            .map(|mount| VolumeMount {
                name: mount.volume.name.clone(),
                mount_path: mount.path.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            })
            .collect(),
    );
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(scope.labels(component)),
            annotations: ca_hash.map(|hash| BTreeMap::from([(CA_HASH.to_owned(), hash)])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container],
            volumes: Some(mounts.into_iter().map(|mount| mount.volume).collect()),
            service_account_name: Some(service_account),
            automount_service_account_token: Some(api_access),
            // A namespace with many Services would fill the environment.
            enable_service_links: Some(false),
            security_context: Some(pod_security()),
            termination_grace_period_seconds: Some(grace_seconds),
            affinity: some(apart).map(|apart| Affinity {
                pod_anti_affinity: Some(PodAntiAffinity {
                    preferred_during_scheduling_ignored_during_execution: Some(apart),
                    ..PodAntiAffinity::default()
                }),
                ..Affinity::default()
            }),
            image_pull_secrets: some(pull_secrets),
            node_selector: (!node_selector.is_empty()).then_some(node_selector),
            tolerations: some(tolerations),
            priority_class_name,
            ..PodSpec::default()
        }),
    }
}

/// A list, unless there is nothing in it.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        // So that files of Secrets, which belong to root, can be read.
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// Apart where there is room, and never unscheduled for want of it. Only pods of one template are counted: during a
/// rollout those that are about to go would push the new ones together.
///
/// Topology spread constraints would say it more directly, but of several the scheduler scores none on nodes that lack
/// one of the labels: where nodes have no zone, pods would not be kept on different nodes either.
fn apart(scope: &Scope, component: Component, topology: &str) -> WeightedPodAffinityTerm {
    WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            topology_key: topology.to_owned(),
            label_selector: Some(scope.selector(component)),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..PodAffinityTerm::default()
        },
    }
}

/// A question to the admin port.
#[must_use]
pub fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// What the user asked for, else requests that a quiet pipeline can live with. No limits: one of CPU slows the
/// answers of a busy pod, and one of memory has to fit the queue, which is the user's to know.
#[must_use]
pub fn resources(asked: Option<&ResourceRequirements>, cpu: &str, memory: &str) -> ResourceRequirements {
    asked.cloned().unwrap_or_else(|| ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ])),
        ..ResourceRequirements::default()
    })
}
