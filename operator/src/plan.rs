//! From a valid pipeline to everything that it needs: objects, the bucket, the schema. Pure: no client, no clock.
//!
//! Nothing here may depend on the operator's own version: whatever changes a pod template restarts the pods of every
//! pipeline there is. The golden files in `tests/golden` show what a change would do.

pub mod access;
pub mod availability;
pub mod digest;
pub mod ingest;
pub mod monitor;
pub mod names;
pub mod network;
pub mod notes;
pub mod objects;
pub mod observed;
pub mod pod;
pub mod render;
pub mod replicas;
pub mod secrets;
pub mod settings;
pub mod syncer;
pub mod tenants;

use std::collections::BTreeMap;

use spillway_bucket::configure::{Encryption, Policy};
use spillway_crds::{
    FieldError, Secrets, ValidatedPipeline,
    settings::SettingsError,
    storage::{self, BucketPolicySpec},
    validate::RefusedTenant,
};
use spillway_model::settings::{BucketSettings, ClickHouseSettings};
use spillway_schema::SchemaSpec;

use names::Component;
pub use notes::Note;
pub use objects::{Manifest, Objects, Presence, Scaled};
pub use observed::{Observed, Workload};
pub use replicas::Replicas;

/// What a plan follows from besides the pipeline.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The image that the pods run: `spec.image`, else `status.image`, else what the operator was started with.
    pub image: String,
    /// The Secrets that the pipeline names; one that is not there is left out.
    pub secrets: Secrets,
    /// `metadata.resourceVersion` of each of them. Not a digest of what is in them: that would stand in an annotation of
    /// the pods, and let whoever reads pods try passwords against it.
    pub secret_versions: BTreeMap<String, String>,
    /// The cluster knows PodMonitors.
    pub pod_monitor: bool,
    /// What is in the cluster already.
    pub observed: Observed,
}

/// Everything that a pipeline needs.
#[derive(Clone, Debug)]
pub struct Plan {
    pub objects: Objects,
    pub touch: Touch,
    pub bucket: BucketPlan,
    pub schema: SchemaPlan,
    /// Tenants that are left out: by the spec, or for want of usable keys.
    pub refused_tenants: Vec<RefusedTenant>,
    /// What is wrong with the Secrets of storage, ClickHouse and TLS. Pods can't start while one is missing.
    pub secret_errors: Vec<FieldError>,
    /// What a user should know and nothing refuses.
    pub notes: Vec<Note>,
}

/// Values of the annotation [`names::TOUCHED`] of running pods. A new value makes kubelet bring the pod's Secrets at
/// once rather than within 90 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    pub ingest: String,
    pub syncer: String,
}

/// The bucket and what is set up on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketPlan {
    /// Without the paths of credentials and CA, which are those of the pods.
    pub settings: BucketSettings,
    pub policy: Policy,
}

/// The server and what is to be on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaPlan {
    /// Without the paths of credentials and CA, which are those of the pods.
    pub settings: ClickHouseSettings,
    pub spec: SchemaSpec,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// What a pipeline needs in a cluster and does without on one machine.
    #[error("{}", crate::findings::text(.0))]
    Missing(Vec<FieldError>),
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl PlanError {
    /// A short label for conditions, metrics and events; never free text.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "Missing",
            Self::Settings(error) => error.reason(),
        }
    }
}

/// Plans a pipeline.
///
/// # Errors
/// When it can't run in a cluster.
pub fn plan(pipeline: &ValidatedPipeline, inputs: &Inputs) -> Result<Plan, PlanError> {
    let missing = pipeline.missing_in_a_cluster();
    if !missing.is_empty() {
        return Err(PlanError::Missing(missing));
    }
    let scope = names::Scope::of(pipeline);
    let tenants = tenants::split(pipeline, &inputs.secrets);
    let settings = settings::Settings::of(pipeline, &scope)?;
    let touch = Touch {
        ingest: digest::touch(&secrets::of_ingest(pipeline), &inputs.secret_versions, &tenants.without_keys),
        syncer: digest::touch(&secrets::of_syncer(pipeline), &inputs.secret_versions, ""),
    };
    let replicas =
        replicas::of_ingest(&pipeline.ingest.scale, pipeline.suspend, inputs.observed.ingest.as_ref());
    let syncers = replicas::of_syncer(pipeline.syncer.replicas, pipeline.suspend, inputs.observed.drained);
    let account = |component| {
        let name = scope.name(component);
        // A user who has bound a role to the account that we made may also name it.
        if access::account(pipeline, &name) == name {
            Presence::Present(access::service_account(&scope, component))
        } else {
            Presence::Absent { name }
        }
    };
    let objects = Objects {
        ingest_service_account: account(Component::Ingest),
        syncer_service_account: account(Component::Syncer),
        syncer_role: access::role(&scope),
        syncer_role_binding: access::role_binding(&scope, &access::account(pipeline, &scope.syncer())),
        syncer_lease: access::lease(&scope),
        ingest_settings: settings.ingest.clone(),
        syncer_settings: settings.syncer.clone(),
        ingest_tenants: tenants.secrets(&scope),
        ingest_service: network::service(pipeline, &scope),
        ingest_network_policy: network::ingest_policy(pipeline, &scope),
        syncer_network_policy: network::syncer_policy(pipeline, &scope),
        ingest_disruption_budget: availability::ingest_budget(pipeline, &scope),
        syncer_disruption_budget: availability::syncer_budget(pipeline, &scope),
        ingest_deployment: Scaled {
            deployment: ingest::deployment(
                pipeline,
                &scope,
                inputs,
                &settings.ingest,
                tenants.mounted,
                replicas,
            ),
            replicas,
        },
        syncer_deployment: syncer::deployment(pipeline, &scope, inputs, &settings.syncer, syncers),
        ingest_autoscaler: availability::autoscaler(pipeline, &scope),
        ingest_pod_monitor: inputs
            .pod_monitor
            .then(|| monitor::pod_monitor(pipeline, &scope, Component::Ingest)),
        syncer_pod_monitor: inputs
            .pod_monitor
            .then(|| monitor::pod_monitor(pipeline, &scope, Component::Syncer)),
    };
    let clickhouse = settings::clickhouse_outside(pipeline)?;
    Ok(Plan {
        objects,
        touch,
        bucket: BucketPlan {
            settings: settings::bucket_outside(pipeline)?,
            policy: policy(pipeline.storage.policy.as_ref()),
        },
        schema: SchemaPlan { spec: SchemaSpec::from_settings(&clickhouse), settings: clickhouse },
        notes: notes::of(pipeline),
        secret_errors: secrets::errors(pipeline, &inputs.secrets),
        refused_tenants: pipeline.refused_tenants.iter().cloned().chain(tenants.refused).collect(),
    })
}

/// What is set up on the bucket. Without a policy of the user's nothing is.
fn policy(spec: Option<&BucketPolicySpec>) -> Policy {
    let Some(spec) = spec else { return Policy::default() };
    // Taken apart in full, so that a new field can't be forgotten here.
    let BucketPolicySpec { create, encryption, versioning, block_public_access, dead_letter_expiry_days } =
        spec;
    Policy {
        create: create.unwrap_or(false),
        encryption: encryption.map(|encryption| match encryption {
            storage::Encryption::Aes256 => Encryption::Aes256,
            storage::Encryption::AwsKms => Encryption::AwsKms,
        }),
        versioning: *versioning,
        block_public_access: *block_public_access,
        dead_letter_expiry_days: *dead_letter_expiry_days,
        housekeeping: true,
    }
}
