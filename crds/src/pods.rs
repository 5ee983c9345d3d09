//! Where pods run and how many may be away at once.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::util::intstr::IntOrString};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which nodes pods run on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulingSpec {
    /// Labels that a node must have. Default: every node will do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::embedded::labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods put up with. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::tolerations")]
    pub tolerations: Vec<Toleration>,
    /// PriorityClass of the pods. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Labels of nodes whose values the pods are spread over, as far as that is possible; an empty list spreads
    /// nothing. Default: `[topology.kubernetes.io/zone, kubernetes.io/hostname]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 317)), extend("x-kubernetes-list-type" = "atomic"))]
    pub topology_keys: Option<Vec<String>>,
}

/// How many pods may be away at once when nodes are emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionSpec {
    /// Pods, or percent of them such as `25%`, that may be away at once when nodes are emptied. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::pods_or_percent")]
    pub max_unavailable: Option<IntOrString>,
}
