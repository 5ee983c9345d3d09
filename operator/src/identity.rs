//! As whom the operator asks a pipeline's bucket and ClickHouse: as the pipeline, so that nobody gets at anything
//! through the operator that they couldn't get at themselves.

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use spillway_bucket::{Access, Identity};
use spillway_crds::{
    Secrets,
    reference::SecretKeyRef,
    validate::{ClickHouse, S3},
};
use spillway_schema::Login;

use crate::{
    ctx::Ctx,
    errors::{ApiError, call},
};

const AUDIENCE: &str = "sts.amazonaws.com";
const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";
/// Seconds that a token is good for.
const TOKEN_LIFE: i64 = 3_600;

/// Whose keys open a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Keys(Identity),
    /// A ServiceAccount of the pipeline's namespace, bound to a role.
    Account(String),
    /// The operator's own, where it was started so.
    Operator,
}

/// There is nobody to ask as.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(
        "no identity to set up the bucket with: set spec.storage.s3.credentialsSecretRef or serviceAccount (or start the operator with --use-own-credentials)"
    )]
    NoCredentials,
    #[error("Secret {secret:?} is missing or lacks {entry}; see SpecValid")]
    Secret { secret: String, entry: &'static str },
    #[error("ServiceAccount {account:?} is not there; create it, or correct spec.storage.s3.serviceAccount")]
    NoAccount { account: String },
    #[error(
        "ServiceAccount {account:?} has no annotation {ROLE_ANNOTATION}; name the role that may use the bucket"
    )]
    NoRole { account: String },
    #[error(
        "the operator may not make tokens of ServiceAccount {account:?}; add it to the chart's rbac.tokenServiceAccounts"
    )]
    NoToken { account: String },
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl IdentityError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials => "NoCredentials",
            Self::Secret { .. } => "SecretUnusable",
            Self::NoAccount { .. } => "NoServiceAccount",
            Self::NoRole { .. } => "NoRole",
            Self::NoToken { .. } => "NoToken",
            Self::Api(error) => error.reason(),
        }
    }

    /// Waiting helps. What its owner mends is seen at once where it is watched.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::NoCredentials | Self::Secret { .. } => false,
            // Accounts and rights are not watched.
            Self::NoAccount { .. } | Self::NoRole { .. } | Self::NoToken { .. } | Self::Api(_) => true,
        }
    }
}

/// Decides whose keys open the bucket.
///
/// # Errors
/// See [`IdentityError`].
pub(crate) fn owner(s3: &S3, secrets: &Secrets, use_own: bool) -> Result<Owner, IdentityError> {
    if let Some(secret) = &s3.credentials {
        let entry = |entry: &'static str| {
            text(secrets, secret, entry)
                .ok_or_else(|| IdentityError::Secret { secret: secret.clone(), entry })
        };
        return Ok(Owner::Keys(Identity::Keys {
            access_key_id: entry("access_key_id")?,
            secret_access_key: entry("secret_access_key")?,
            session_token: text(secrets, secret, "session_token"),
        }));
    }
    match &s3.service_account {
        Some(account) => Ok(Owner::Account(account.clone())),
        None if use_own => Ok(Owner::Operator),
        None => Err(IdentityError::NoCredentials),
    }
}

/// Turns an owner into what opens the bucket.
///
/// # Errors
/// See [`IdentityError`].
pub(crate) async fn access(
    ctx: &Ctx,
    namespace: &str,
    s3: &S3,
    owner: Owner,
    secrets: &Secrets,
) -> Result<Access, IdentityError> {
    let identity = match owner {
        Owner::Keys(keys) => keys,
        Owner::Operator => Identity::Ambient,
        Owner::Account(account) => assume(ctx, namespace, account).await?,
    };
    Ok(Access { identity, ca_pem: authority(s3.ca.as_ref(), secrets)? })
}

async fn assume(ctx: &Ctx, namespace: &str, account: String) -> Result<Identity, IdentityError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), namespace);
    let found = call(format!("read ServiceAccount {account}"), accounts.get_metadata_opt(&account)).await?;
    let Some(found) = found else { return Err(IdentityError::NoAccount { account }) };
    let role = found.metadata.annotations.and_then(|mut annotations| annotations.remove(ROLE_ANNOTATION));
    let Some(role_arn) = role else { return Err(IdentityError::NoRole { account }) };
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            expiration_seconds: Some(TOKEN_LIFE),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let parameters = PostParams::default();
    let making = accounts.create_token_request(&account, &parameters, &request);
    let made = call(format!("make a token of ServiceAccount {account}"), making).await;
    let made = made.map_err(|error| {
        if error.is_forbidden() { IdentityError::NoToken { account } } else { IdentityError::Api(error) }
    })?;
    let token = made.status.map(|status| status.token).unwrap_or_default();
    Ok(Identity::WebIdentity { role_arn, token, sts_endpoint: ctx.config.sts_endpoint.clone() })
}

/// User and certificates of ClickHouse; no user: `default` without a password.
///
/// # Errors
/// [`IdentityError::Secret`].
pub(crate) fn login(
    clickhouse: &ClickHouse,
    secrets: &Secrets,
) -> Result<(Option<Login>, Option<Vec<u8>>), IdentityError> {
    let login = match &clickhouse.credentials {
        None => None,
        Some(secret) => {
            let entry = |entry: &'static str| {
                text(secrets, secret, entry)
                    .ok_or_else(|| IdentityError::Secret { secret: secret.clone(), entry })
            };
            Some(Login { username: entry("username")?, password: entry("password")? })
        }
    };
    Ok((login, authority(clickhouse.ca.as_ref(), secrets)?))
}

fn authority(ca: Option<&SecretKeyRef>, secrets: &Secrets) -> Result<Option<Vec<u8>>, IdentityError> {
    let Some(ca) = ca else { return Ok(None) };
    let found = secrets.entries(&ca.name).and_then(|entries| entries.get(ca.key()));
    let missing = || IdentityError::Secret { secret: ca.name.clone(), entry: "the certificate authority" };
    found.cloned().map(Some).ok_or_else(missing)
}

/// A file put into a Secret often ends with a line break.
fn text(secrets: &Secrets, secret: &str, entry: &str) -> Option<String> {
    let value = secrets.entries(secret)?.get(entry)?;
    Some(String::from_utf8_lossy(value).trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use spillway_crds::{LogPipeline, validate};

    use super::*;

    fn s3(more: &serde_json::Value) -> S3 {
        let mut s3 = serde_json::json!({"bucket": "logs"});
        s3.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = serde_json::json!({"storage": {"s3": s3}});
        let pipeline = LogPipeline::new("logs", serde_json::from_value(spec).unwrap());
        validate(&pipeline).unwrap().storage.s3.unwrap()
    }

    fn secrets(entries: &serde_json::Value) -> Secrets {
        let secret = serde_json::json!({"metadata": {"name": "keys"}, "stringData": entries});
        [serde_json::from_value(secret).unwrap()].into_iter().collect()
    }

    #[test]
    fn a_pipeline_is_asked_for_as_itself() {
        let keys = serde_json::json!({"access_key_id": "id\n", "secret_access_key": "key"});
        let by_secret = s3(&serde_json::json!({"credentialsSecretRef": {"name": "keys"}}));
        let expected = Identity::Keys {
            access_key_id: "id".into(),
            secret_access_key: "key".into(),
            session_token: None,
        };
        assert_eq!(owner(&by_secret, &secrets(&keys), true).unwrap(), Owner::Keys(expected));
        let by_account = s3(&serde_json::json!({"serviceAccount": "spillway"}));
        let account = owner(&by_account, &Secrets::default(), true).unwrap();
        assert_eq!(account, Owner::Account("spillway".into()));
    }

    #[test]
    fn the_operators_own_credentials_are_used_only_where_it_was_started_so() {
        let neither = s3(&serde_json::json!({}));
        let refused = owner(&neither, &Secrets::default(), false).unwrap_err();
        assert_eq!(refused.reason(), "NoCredentials");
        assert_eq!(owner(&neither, &Secrets::default(), true).unwrap(), Owner::Operator);
        // A Secret that is missing is no reason to fall back to the operator's.
        let by_secret = s3(&serde_json::json!({"credentialsSecretRef": {"name": "keys"}}));
        assert_eq!(owner(&by_secret, &Secrets::default(), true).unwrap_err().reason(), "SecretUnusable");
    }
}
