//! What a manifest asks for that only a cluster can give. Nothing of it is passed over in silence.

use spillway_crds::ValidatedPipeline;
use spillway_crds::validate::Scale;

/// Settings that change what is promised: with these the pipeline is not run here.
#[must_use]
pub fn refused(pipeline: &ValidatedPipeline) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if pipeline.ingest.tls.is_some() {
        fields.push("spec.ingest.tls: `spillway up` receives in clear text; leave it out, or put a TLS proxy before --http");
    }
    if pipeline.suspend {
        fields.push("spec.suspend: the pipeline is suspended; set it to false to run it");
    }
    if pipeline.paused {
        fields.push("spec.paused: it tells the operator to leave everything alone; set it to false to run the pipeline here");
    }
    fields
}

/// Settings that are left to the operator, to be said once.
#[must_use]
pub fn left_out(pipeline: &ValidatedPipeline) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if pipeline.storage.policy.is_some() {
        fields.push("spec.storage.bucketPolicy: the bucket is used as it is");
    }
    if !matches!(pipeline.ingest.scale, Scale::Fixed(_)) {
        fields.push("spec.ingest.autoscaling: one process receives and loads");
    }
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spillway_crds::{LogPipeline, validate};

    use super::*;

    fn pipeline(spec: serde_json::Value) -> ValidatedPipeline {
        validate(&LogPipeline::new("logs", serde_json::from_value(spec).unwrap())).unwrap()
    }

    #[test]
    fn what_changes_a_promise_is_refused_by_name() {
        let asked = pipeline(json!({"suspend": true, "ingest": {"tls": {"secretRef": {"name": "t"}}}}));
        let refused = refused(&asked);
        assert_eq!(refused.len(), 2);
        assert!(refused[0].starts_with("spec.ingest.tls"));
        assert!(refused[1].starts_with("spec.suspend"));
    }

    #[test]
    fn a_plain_pipeline_has_nothing_to_say() {
        let plain = pipeline(json!({"ingest": {"replicas": 1}}));
        assert!(refused(&plain).is_empty());
        assert!(left_out(&plain).is_empty());
    }
}
