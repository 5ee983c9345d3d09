//! The CustomResourceDefinition as it is handed out.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::LogPipeline;

/// The CustomResourceDefinition of [`LogPipeline`].
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = LogPipeline::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            finish(schema);
        }
    }
    crd
}

/// What the derived schema says otherwise than the API server wants it.
fn finish(schema: &mut JSONSchemaProps) {
    // A null then means the same as nothing: the API server drops it, and no rule meets one.
    schema.nullable = None;
    // The API server knows no unsigned formats and warns of them at every apply.
    schema.format = schema.format.take().map(|format| match format.as_str() {
        "uint8" | "uint16" => "int32".to_owned(),
        "uint32" | "uint64" => "int64".to_owned(),
        _ => format,
    });
    schema.properties.iter_mut().flatten().for_each(|(_, property)| finish(property));
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        finish(values);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        finish(items);
    }
}
