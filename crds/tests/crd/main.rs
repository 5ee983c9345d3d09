//! The CustomResourceDefinition as a whole: what it accepts and refuses, that it is bounded and documented, and that
//! the pages and examples beside it fit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails may say so by panicking"
)]

mod bounds;
mod examples;
mod fields;
mod page;
mod rules;
mod structural;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;

/// The schema of the only version.
fn schema() -> JSONSchemaProps {
    let version = spillway_crds::crd().spec.versions.remove(0);
    version.schema.unwrap().open_api_v3_schema.unwrap()
}
