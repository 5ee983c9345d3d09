//! Schemas of what the spec borrows from Kubernetes: bounded, and with descriptions of a line, because the whole CRD
//! must fit into the annotation that `kubectl apply` keeps (262,144 bytes), and because the API server refuses rules
//! over lists and texts that have no bounds.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Labels of an object, or those that a selector asks for.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
        },
    })
}

/// Annotations of an object.
pub(crate) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// `requests` and `limits` of a container. No `claims`: those need an entry in the pod, which is not the user's.
pub(crate) fn resources(_: &mut SchemaGenerator) -> Schema {
    let amounts = |description: &str| {
        json_schema!({
            "type": "object",
            "description": description,
            "maxProperties": 16,
            "additionalProperties": {
                "x-kubernetes-int-or-string": true,
                "maxLength": 32,
                "pattern": "^[0-9]+([.][0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
            },
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "limits": amounts("Most of each resource, such as `memory: 1Gi`. Default: no limit."),
            "requests": amounts("What is set aside of each, such as `cpu: 500m`. Default: `limits`."),
        },
    })
}

/// `behavior` of a HorizontalPodAutoscaler.
pub(crate) fn scaling_behavior(_: &mut SchemaGenerator) -> Schema {
    let rules = |description: &str| {
        json_schema!({
            "type": "object",
            "description": description,
            "properties": {
                "policies": {
                    "type": "array",
                    "description": "How much may change in what time. Default: that of Kubernetes.",
                    "maxItems": 16,
                    "x-kubernetes-list-type": "atomic",
                    "items": {
                        "type": "object",
                        "required": ["periodSeconds", "type", "value"],
                        "properties": {
                            "periodSeconds": {
                                "type": "integer", "format": "int32", "minimum": 1, "maximum": 1800,
                                "description": "Seconds over which the change is counted.",
                            },
                            "type": {
                                "type": "string", "enum": ["Pods", "Percent"],
                                "description": "What `value` counts.",
                            },
                            "value": {
                                "type": "integer", "format": "int32", "minimum": 1, "maximum": 1_000_000,
                                "description": "Pods, or percent of those that there are.",
                            },
                        },
                    },
                },
                "selectPolicy": {
                    "type": "string", "enum": ["Max", "Min", "Disabled"],
                    "description": "Which of the policies counts. Default: `Max`.",
                },
                "stabilizationWindowSeconds": {
                    "type": "integer", "format": "int32", "minimum": 0, "maximum": 3600,
                    "description": "Seconds whose recommendations are weighed. Default: 0 up, 300 down.",
                },
                "tolerance": {
                    "x-kubernetes-int-or-string": true, "maxLength": 32,
                    "pattern": "^[0-9]+([.][0-9]+)?m?$",
                    "description": "Deviation from the target that changes nothing. Default: that of the cluster.",
                },
            },
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "scaleDown": rules("Going down. Default: that of Kubernetes."),
            "scaleUp": rules("Going up. Default: that of Kubernetes."),
        },
    })
}

/// Tolerations of a pod.
pub(crate) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "properties": {
                "effect": {
                    "type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"],
                    "description": "Effect of the taint. Default: every effect.",
                },
                "key": {
                    "type": "string", "maxLength": 317,
                    "description": "Key of the taint. Default: every key.",
                },
                "operator": {
                    "type": "string", "enum": ["Exists", "Equal"],
                    "description": "How `value` is compared. Default: `Equal`.",
                },
                "tolerationSeconds": {
                    "type": "integer", "format": "int64", "minimum": 0, "maximum": 31_536_000,
                    "description": "Seconds that a pod stays once the taint is there. Default: for ever.",
                },
                "value": {
                    "type": "string", "maxLength": 63,
                    "description": "Value of the taint. Default: none.",
                },
            },
        },
    })
}

/// A number of pods, or a share of them.
pub(crate) fn pods_or_percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 1000,
        "maxLength": 4,
        "pattern": "^([1-9][0-9]?|100)%$",
    })
}

/// Conditions as in `meta/v1`, which brings no bounds along.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "lastTransitionTime": {
                    "type": "string", "format": "date-time",
                    "description": "When `status` last changed.",
                },
                "message": {
                    "type": "string", "maxLength": 32_768,
                    "description": "What is the matter, and what to do about it.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0,
                    "description": "`metadata.generation` that the condition speaks of.",
                },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "One word of why.",
                },
                "status": {
                    "type": "string", "enum": ["True", "False", "Unknown"],
                    "description": "Whether it is so.",
                },
                "type": {
                    "type": "string", "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                    "description": "Which condition.",
                },
            },
        },
    })
}
