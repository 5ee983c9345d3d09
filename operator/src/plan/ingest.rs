//! The Deployment of ingest.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{
        ConfigMap, Container, ExecAction, KeyToPath, Lifecycle, LifecycleHandler, ProjectedVolumeSource,
        SecretProjection, Volume, VolumeProjection,
    },
};
use spillway_crds::{ValidatedPipeline, validate};
use spillway_model::settings::Span;

use super::{
    Inputs, access,
    names::{Component, Scope},
    network,
    pod::{self, Mount, Pod, SECRET_MODE},
    replicas::Replicas,
    secrets,
    settings::{SETTINGS_DIR, SETTINGS_FILE, TENANTS_DIR, TLS_DIR},
    tenants::ENTRY,
};

/// What ingest does when the spec says nothing. Written down here and not taken from the settings' defaults: a new
/// operator's must not change the pods of pipelines whose image knows the old ones.
const READINESS_DELAY: Span = Span::secs(5);
const REQUEST_TIMEOUT: Span = Span::secs(15);
const FLUSH_TIMEOUT: Span = Span::secs(30);
/// For the process to end after all of that.
const MARGIN: Duration = Duration::from_secs(5);

#[must_use]
pub fn deployment(
    pipeline: &ValidatedPipeline,
    scope: &Scope,
    inputs: &Inputs,
    settings: &ConfigMap,
    mounted_tenants: usize,
    replicas: Replicas,
) -> Deployment {
    let mut mounts = vec![Mount::settings(settings), tenants(scope, mounted_tenants)];
    mounts.extend(Mount::bucket(pipeline));
    mounts.extend(pipeline.ingest.tls.as_ref().map(|secret| Mount::secret("tls", secret, TLS_DIR)));
    let observed = inputs.observed.ingest.as_ref().and_then(|there| there.ca_hash.as_deref());
    let pod = Pod {
        container: container(pipeline, &inputs.image),
        mounts,
        service_account: access::account(pipeline, &scope.ingest()),
        pull_secrets: pipeline.image_pull_secrets.clone(),
        scheduling: pipeline.ingest.scheduling.clone(),
        api_access: false,
        grace_seconds: grace_seconds(&pipeline.ingest),
        ca_hash: secrets::ca_hash(&secrets::ingest_authorities(pipeline), &inputs.secrets, observed),
    };
    pod::deployment(scope, Component::Ingest, replicas.applied(), "25%", pod)
}

fn container(pipeline: &ValidatedPipeline, image: &str) -> Container {
    // `/drain` answers the pod alone, so kubelet can't ask for it itself.
    let drain = ExecAction { command: Some(["spillway-ingest", "drain"].map(str::to_owned).into()) };
    Container {
        image: Some(image.to_owned()),
        command: Some(vec!["spillway-ingest".to_owned()]),
        args: Some(vec![
            format!("--settings={SETTINGS_DIR}/{SETTINGS_FILE}"),
            format!("--tenants={TENANTS_DIR}"),
        ]),
        ports: Some(network::ingest_ports(pipeline)),
        startup_probe: Some(pod::probe("/livez", 1, 60)),
        readiness_probe: Some(pod::probe("/readyz", 5, 1)),
        liveness_probe: Some(pod::probe("/livez", 10, 6)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { exec: Some(drain), ..LifecycleHandler::default() }),
            ..Lifecycle::default()
        }),
        resources: Some(pod::resources(pipeline.ingest.resources.as_ref(), "250m", "256Mi")),
        ..Container::default()
    }
}

/// All Secrets of tenants as one folder. They are optional: how many there are changes without a restart.
fn tenants(scope: &Scope, mounted: usize) -> Mount {
    let source = |part: usize| VolumeProjection {
        secret: Some(SecretProjection {
            name: scope.tenants(part),
            items: Some(vec![KeyToPath {
                key: ENTRY.to_owned(),
                path: format!("tenants-{part}.json"),
                mode: None,
            }]),
            optional: Some(true),
        }),
        ..VolumeProjection::default()
    };
    let projected = ProjectedVolumeSource {
        default_mode: Some(SECRET_MODE),
        sources: Some((0..mounted).map(source).collect()),
    };
    let volume = Volume { name: "tenants".to_owned(), projected: Some(projected), ..Volume::default() };
    Mount { volume, path: TENANTS_DIR }
}

/// Long enough for the pod to be taken out of the load balancers, for its requests to be answered and its buffers to
/// reach the bucket. It runs from before preStop, which takes the first of the three.
fn grace_seconds(ingest: &validate::Ingest) -> i64 {
    let delay = ingest.drain_readiness_delay.unwrap_or(READINESS_DELAY).get();
    let requests = ingest.drain_request_timeout.unwrap_or(REQUEST_TIMEOUT).get();
    let flush = ingest.drain_flush_timeout.unwrap_or(FLUSH_TIMEOUT).get();
    let all = delay + requests + flush + MARGIN;
    i64::try_from(all.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use spillway_model::settings::DrainSettings;

    use super::*;

    /// If this fails, a default has changed: pipelines that were created before must keep both, the one in their image
    /// and the one here.
    #[test]
    fn the_grace_period_covers_what_ingest_does_by_default() {
        let DrainSettings { readiness_delay, request_timeout, flush_timeout } = DrainSettings::default();
        assert_eq!(
            (readiness_delay, request_timeout, flush_timeout),
            (READINESS_DELAY, REQUEST_TIMEOUT, FLUSH_TIMEOUT)
        );
    }
}
