//! What a manifest asks for that only a cluster can give. Nothing of it is passed over in silence.

use spillway_crds::ValidatedPipeline;
use spillway_crds::validate::Scale;

/// Settings that change what is promised: with these the pipeline is not run here.
#[must_use]
pub fn refused(pipeline: &ValidatedPipeline) -> Vec<&'static str> {
    let mut fields = Vec::new();
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
    if pipeline.ingest.scheduling.said || pipeline.syncer.scheduling.said {
        fields.push("spec.ingest.scheduling, spec.syncer.scheduling: there are no nodes to choose from");
    }
    if pipeline.image.is_some() || !pipeline.image_pull_secrets.is_empty() {
        fields.push("spec.image, spec.imagePullSecrets: this program is what runs");
    }
    if pipeline.monitoring.said {
        fields.push("spec.monitoring: metrics are at --admin and --syncer-admin");
    }
    if pipeline.network_policy.said {
        fields.push(
            "spec.networkPolicy: who reaches --http, --admin and --syncer-admin is this machine's matter",
        );
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
        for (spec, field) in
            [(json!({"suspend": true}), "spec.suspend"), (json!({"paused": true}), "spec.paused")]
        {
            let refused = refused(&pipeline(spec));
            assert!(refused.len() == 1 && refused[0].starts_with(field), "{refused:?}");
        }
    }

    #[test]
    fn what_only_a_cluster_can_do_is_left_out_by_name() {
        let asked = pipeline(json!({
            "image": "registry/spillway:1", "monitoring": {"podMonitor": "Never"}, "networkPolicy": {},
            "ingest": {"scheduling": {"nodeSelector": {"disk": "fast"}}, "autoscaling": {"max": 3}},
        }));
        let left_out = left_out(&asked);
        for field in ["autoscaling", "scheduling", "image", "monitoring", "networkPolicy"] {
            assert!(left_out.iter().any(|line| line.contains(field)), "{field}: {left_out:?}");
        }
    }

    #[test]
    fn a_plain_pipeline_has_nothing_to_say() {
        let plain = pipeline(json!({"ingest": {"replicas": 1}}));
        assert!(refused(&plain).is_empty());
        assert!(left_out(&plain).is_empty());
    }
}
