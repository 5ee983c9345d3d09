//! The Deployment of the syncer: a leader and a warm standby.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, ObjectFieldSelector},
};
use spillway_crds::ValidatedPipeline;

use super::{
    Inputs, access,
    names::{Component, Scope},
    network,
    pod::{self, Mount, Pod},
    secrets,
    settings::{CLICKHOUSE_CA_DIR, CLICKHOUSE_DIR, SETTINGS_DIR, SETTINGS_FILE},
};

/// Open batches have 30 s to be finished; then the Lease is given back.
const GRACE_SECONDS: i64 = 45;

#[must_use]
pub fn deployment(
    pipeline: &ValidatedPipeline,
    scope: &Scope,
    inputs: &Inputs,
    settings: &ConfigMap,
    replicas: i32,
) -> Deployment {
    let mut mounts = vec![Mount::settings(settings)];
    mounts.extend(Mount::bucket(pipeline));
    let clickhouse = &pipeline.clickhouse;
    mounts.extend(
        clickhouse.credentials.as_ref().map(|secret| Mount::secret("clickhouse", secret, CLICKHOUSE_DIR)),
    );
    mounts.extend(clickhouse.ca.as_ref().map(|ca| Mount::authority("clickhouse-ca", ca, CLICKHOUSE_CA_DIR)));
    let observed = inputs.observed.syncer.as_ref().and_then(|there| there.ca_hash.as_deref());
    let pod = Pod {
        container: container(pipeline, &inputs.image),
        mounts,
        service_account: access::account(pipeline, &scope.syncer()),
        pull_secrets: pipeline.image_pull_secrets.clone(),
        scheduling: pipeline.syncer.scheduling.clone(),
        api_access: true,
        grace_seconds: GRACE_SECONDS,
        ca_hash: secrets::ca_hash(&secrets::syncer_authorities(pipeline), &inputs.secrets, observed),
    };
    pod::deployment(scope, Component::Syncer, Some(replicas), "50%", pod)
}

fn container(pipeline: &ValidatedPipeline, image: &str) -> Container {
    Container {
        image: Some(image.to_owned()),
        command: Some(vec!["spillway-syncer".to_owned()]),
        args: Some(vec![format!("--settings={SETTINGS_DIR}/{SETTINGS_FILE}")]),
        // Who it is when it asks for the Lease.
        env: Some(vec![field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")]),
        ports: Some(network::syncer_ports()),
        startup_probe: Some(pod::probe("/livez", 1, 60)),
        readiness_probe: Some(pod::probe("/readyz", 5, 1)),
        liveness_probe: Some(pod::probe("/livez", 10, 6)),
        resources: Some(pod::resources(pipeline.syncer.resources.as_ref(), "250m", "512Mi")),
        ..Container::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { field_path: path.to_owned(), api_version: None };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() }),
        value: None,
    }
}
