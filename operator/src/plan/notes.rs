//! What a user should know and nothing refuses.

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use spillway_crds::{ValidatedPipeline, validate::Scale};

/// What a user should know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    #[error(
        "ingest is autoscaled by CPU, but spec.ingest.resources requests none, so the autoscaler has nothing to go by; add requests.cpu"
    )]
    AutoscalingWithoutCpuRequest,
    #[error("spec.tenants is empty: every request is refused; add a tenant")]
    NoTenants,
}

impl Note {
    /// A short label; never free text.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AutoscalingWithoutCpuRequest => "AutoscalingWithoutCpuRequest",
            Self::NoTenants => "NoTenants",
        }
    }
}

/// What is to be known of a pipeline.
#[must_use]
pub fn of(pipeline: &ValidatedPipeline) -> Vec<Note> {
    let mut notes = Vec::new();
    let autoscaled = matches!(pipeline.ingest.scale, Scale::Auto { .. });
    if autoscaled && pipeline.ingest.resources.as_ref().is_some_and(|resources| !requests_cpu(resources)) {
        notes.push(Note::AutoscalingWithoutCpuRequest);
    }
    if pipeline.tenants.is_empty() && pipeline.refused_tenants.is_empty() {
        notes.push(Note::NoTenants);
    }
    notes
}

/// A limit without a request is one.
fn requests_cpu(resources: &ResourceRequirements) -> bool {
    [&resources.requests, &resources.limits]
        .into_iter()
        .flatten()
        .any(|list| list.get("cpu").is_some_and(|Quantity(cpu)| cpu != "0"))
}
