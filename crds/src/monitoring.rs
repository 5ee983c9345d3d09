//! `spec.monitoring` and `spec.networkPolicy`: who looks at the pods, and who may reach them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::SpanText;

/// How metrics are collected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringSpec {
    /// `Auto`: a PodMonitor for ingest and one for the syncer, where the cluster has them. `Never`: none.
    /// Default: `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_monitor: Option<PodMonitorMode>,
    /// Labels of the PodMonitors, for a Prometheus that selects by them. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::embedded::labels")]
    pub labels: BTreeMap<String, String>,
    /// Time between two scrapes, `1s` to `1h`. Default: that of the Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<SpanText>,
}

/// Whether there are PodMonitors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::units::leave_description_to_the_field)]
pub enum PodMonitorMode {
    /// Where the cluster has them.
    #[default]
    Auto,
    /// None.
    Never,
}

/// Who may reach the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Close every port but those that logs and metrics come and go by. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Namespaces whose pods may read metrics. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_from: Option<NamespaceSelector>,
}

/// Namespaces by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// Labels that the namespace must have, such as `kubernetes.io/metadata.name: monitoring`. Default: none, so
    /// that every namespace is meant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::embedded::labels")]
    pub match_labels: BTreeMap<String, String>,
}
