//! A role, assumed with a service account's token (IRSA) that is at hand as a value, not as a file.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use aws_sdk_s3::config::{BehaviorVersion, Region, SharedHttpClient};
use aws_sdk_sts::Client;
use aws_sdk_sts::error::DisplayErrorContext;

/// Shows in CloudTrail who it was.
const SESSION_NAME: &str = "spillway";

/// Asks STS each time it is asked; the SDK's identity cache in front of it keeps what it gave.
#[derive(Debug)]
pub(super) struct AssumedRole {
    sts: Client,
    role_arn: String,
    token: Token,
}

/// Never printed.
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl AssumedRole {
    pub(super) fn new(
        role_arn: &str,
        token: &str,
        endpoint: Option<&str>,
        region: &str,
        http: SharedHttpClient,
    ) -> Self {
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .http_client(http);
        let config = match endpoint {
            Some(endpoint) => config.endpoint_url(endpoint),
            None => config,
        };
        Self {
            sts: Client::from_conf(config.build()),
            role_arn: role_arn.to_owned(),
            token: Token(token.to_owned()),
        }
    }

    async fn assume(&self) -> provider::Result {
        let failed = |why: &str| {
            CredentialsError::provider_error(format!("no credentials: role {}: {why}", self.role_arn))
        };
        let answer = self
            .sts
            .assume_role_with_web_identity()
            .role_arn(&self.role_arn)
            .role_session_name(SESSION_NAME)
            .web_identity_token(&self.token.0)
            .send()
            .await
            .map_err(|error| match error.as_service_error() {
                Some(refusal) => failed(&refusal.meta().to_string()),
                None => failed(&DisplayErrorContext(&error).to_string()),
            })?;
        let given = answer.credentials.ok_or_else(|| failed("STS answered without credentials"))?;
        let expiry = SystemTime::try_from(given.expiration).unwrap_or_else(|_| SystemTime::now());
        Ok(Credentials::new(
            given.access_key_id,
            given.secret_access_key,
            Some(given.session_token),
            Some(expiry),
            "webIdentity",
        ))
    }
}

impl ProvideCredentials for AssumedRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}
