//! What has to be true of every plan.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Container, PodSpec, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use spillway_operator::plan::{Objects, Presence};

fn template(deployment: &Deployment) -> &PodTemplateSpec {
    &deployment.spec.as_ref().unwrap().template
}

fn labels(deployment: &Deployment) -> &BTreeMap<String, String> {
    template(deployment).metadata.as_ref().unwrap().labels.as_ref().unwrap()
}

fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Every selector of a component's objects selects its pods, and neither those of the other component nor those of
/// another pipeline.
pub(crate) fn selectors_fit(objects: &Objects, others: &Objects) {
    let ingest = &objects.ingest_deployment.deployment;
    let syncer = &objects.syncer_deployment;
    let all = [ingest, syncer, &others.ingest_deployment.deployment, &others.syncer_deployment];
    let fits = |what: &str, selector: &BTreeMap<String, String>, own: &Deployment| {
        assert!(!selector.is_empty(), "{what} selects everything");
        for deployment in all {
            let (name, mine) = (&deployment.metadata.name, std::ptr::eq(deployment, own));
            assert_eq!(selects(selector, labels(deployment)), mine, "{what} and {name:?}");
        }
    };
    let of = |selector: &LabelSelector| selector.match_labels.clone().unwrap_or_default();
    for own in [ingest, syncer] {
        fits("a Deployment", &of(&own.spec.as_ref().unwrap().selector), own);
        let pod = template(own).spec.as_ref().unwrap();
        let apart = pod.affinity.iter().flat_map(|affinity| &affinity.pod_anti_affinity);
        for term in apart
            .flat_map(|apart| apart.preferred_during_scheduling_ignored_during_execution.iter().flatten())
        {
            fits("an anti-affinity", &of(term.pod_affinity_term.label_selector.as_ref().unwrap()), own);
        }
    }
    let service = objects.ingest_service.spec.as_ref().unwrap();
    fits("the Service", service.selector.as_ref().unwrap(), ingest);
    for (own, budget, policy, monitor) in [
        (
            ingest,
            &objects.ingest_disruption_budget,
            &objects.ingest_network_policy,
            &objects.ingest_pod_monitor,
        ),
        (
            syncer,
            &objects.syncer_disruption_budget,
            &objects.syncer_network_policy,
            &objects.syncer_pod_monitor,
        ),
    ] {
        if let Presence::Present(budget) = budget {
            fits("a budget", &of(budget.spec.as_ref().unwrap().selector.as_ref().unwrap()), own);
        }
        if let Presence::Present(policy) = policy {
            fits("a policy", &of(policy.spec.as_ref().unwrap().pod_selector.as_ref().unwrap()), own);
        }
        if let Some(Presence::Present(monitor)) = monitor {
            fits("a monitor", &of(&monitor.spec.selector), own);
        }
    }
}

/// The restricted level of the Pod Security Standards, and a read-only root besides.
pub(crate) fn restricted(deployment: &Deployment) {
    let PodTemplateSpec { spec: Some(pod), .. } = template(deployment) else { panic!("no pod") };
    let PodSpec { host_network, host_pid, host_ipc, host_users: _, init_containers, .. } = pod;
    assert!([host_network, host_pid, host_ipc].iter().all(|host| host.is_none()));
    assert!(init_containers.is_none());
    pod.volumes.iter().flatten().for_each(allowed_volume);
    let security = pod.security_context.as_ref().unwrap();
    assert_eq!(security.run_as_non_root, Some(true));
    assert!(security.run_as_user.is_some_and(|user| user > 0));
    assert_eq!(security.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
    assert!(security.sysctls.is_none() && security.windows_options.is_none());
    assert!(security.app_armor_profile.is_none() && security.se_linux_options.is_none());
    assert!(!pod.containers.is_empty());
    pod.containers.iter().for_each(restricted_container);
}

fn restricted_container(container: &Container) {
    let security = container.security_context.as_ref().unwrap();
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let capabilities = security.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.drop.as_deref(), Some(["ALL".to_owned()].as_slice()));
    assert!(capabilities.add.is_none());
    // The pod's own hold.
    assert!(security.privileged.is_none() && security.proc_mount.is_none());
    assert!(security.run_as_non_root.is_none() && security.run_as_user.is_none());
    assert!(security.seccomp_profile.is_none());
    assert!(container.ports.iter().flatten().all(|port| port.host_port.is_none()));
}

fn allowed_volume(volume: &Volume) {
    let value = serde_json::to_value(volume).unwrap();
    let kinds: Vec<&String> = value.as_object().unwrap().keys().filter(|key| *key != "name").collect();
    let allowed = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    assert!(kinds.len() == 1 && allowed.contains(&kinds[0].as_str()), "{kinds:?}");
}
