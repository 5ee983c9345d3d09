//! What pods may do in the cluster: ingest nothing, the syncer read and write its Lease.

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use spillway_crds::ValidatedPipeline;

use super::names::{Component, Scope};

/// The account that a component's pods run under.
#[must_use]
pub fn account(pipeline: &ValidatedPipeline, own: &str) -> String {
    let theirs = pipeline.storage.s3.as_ref().and_then(|s3| s3.service_account.as_deref());
    theirs.unwrap_or(own).to_owned()
}

#[must_use]
pub fn service_account(scope: &Scope, component: Component) -> ServiceAccount {
    ServiceAccount {
        metadata: scope.meta(&scope.name(component), component),
        // Pods ask for a token themselves where they need one.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Nothing but this one Lease. It can't be created, which RBAC could not limit to a name: the operator does that.
#[must_use]
pub fn role(scope: &Scope) -> Role {
    Role {
        metadata: scope.meta(&scope.syncer(), Component::Syncer),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
            resources: Some(vec!["leases".to_owned()]),
            resource_names: Some(vec![scope.syncer()]),
            verbs: vec!["get".to_owned(), "update".to_owned()],
            ..PolicyRule::default()
        }]),
    }
}

#[must_use]
pub fn role_binding(scope: &Scope, account: &str) -> RoleBinding {
    RoleBinding {
        metadata: scope.meta(&scope.syncer(), Component::Syncer),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: scope.syncer(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: Some(scope.namespace().to_owned()),
            api_group: None,
        }]),
    }
}

#[must_use]
pub fn lease(scope: &Scope) -> Lease {
    Lease { metadata: scope.meta(&scope.syncer(), Component::Syncer), spec: None }
}
