//! Builds the SDK's client: TLS, timeouts, addressing, credentials.

use std::path::PathBuf;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::credentials::{self, FileCredentials};
use super::web_identity::AssumedRole;
use crate::access::Identity;
use crate::error::{BucketError, Operation};
use crate::open::Timeouts;

#[derive(Clone, Debug)]
pub(crate) struct S3Options {
    /// `None`: AWS's own endpoint of the region.
    pub(crate) endpoint: Option<String>,
    pub(crate) region: String,
    pub(crate) bucket: String,
    pub(crate) path_style: bool,
    pub(crate) keys: Keys,
    /// Certificates in PEM beside the system's own.
    pub(crate) ca_pem: Option<Vec<u8>>,
    pub(crate) timeouts: Timeouts,
}

/// Where the keys to the store come from.
#[derive(Clone, Debug)]
pub(crate) enum Keys {
    /// A folder that may change at any time.
    Files(PathBuf),
    Of(Identity),
}

pub(super) fn connect(options: &S3Options) -> Result<Client, BucketError> {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls(options)?)
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(options.timeouts.connect)
        .operation_timeout(options.timeouts.request)
        .build();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(options.region.clone()))
        .force_path_style(options.path_style)
        .http_client(http.clone())
        .timeout_config(timeouts)
        // A silently repeated conditional PUT that had succeeded comes back as 412.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    let config = match &options.endpoint {
        Some(endpoint) => config.endpoint_url(endpoint),
        None => config,
    };
    let config = match &options.keys {
        // Not cached by the SDK: it would hold on to a rotated key for a quarter of an hour.
        Keys::Files(dir) => config
            .identity_cache(IdentityCache::no_cache())
            .credentials_provider(FileCredentials::new(dir.clone())),
        Keys::Of(Identity::Ambient) => {
            config.credentials_provider(credentials::default_chain(&options.region, http))
        }
        Keys::Of(Identity::Keys { access_key_id, secret_access_key, session_token }) => config
            .credentials_provider(Credentials::new(
                access_key_id,
                secret_access_key,
                session_token.clone(),
                None,
                "keys",
            )),
        // The SDK's cache asks again before what STS gave expires.
        Keys::Of(Identity::WebIdentity { role_arn, token, sts_endpoint }) => config.credentials_provider(
            AssumedRole::new(role_arn, token, sts_endpoint.as_deref(), &options.region, http),
        ),
    };
    Ok(Client::from_conf(config.build()))
}

fn tls(options: &S3Options) -> Result<TlsContext, BucketError> {
    let invalid = |detail: String| BucketError::Invalid {
        operation: Operation::Open,
        key: String::new(),
        detail,
        remedy: "correct storage.s3.caSecretRef (caFile)",
    };
    let trust = match &options.ca_pem {
        None => TrustStore::default(),
        Some(pem) => {
            // The HTTP client panics on a file that is no certificate; say it instead.
            let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
            if !certificates.is_ok_and(|found| !found.is_empty()) {
                return Err(invalid("the CA holds no PEM certificate".to_owned()));
            }
            TrustStore::default().with_pem_certificate(pem.as_slice())
        }
    };
    TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| invalid(format!("the TLS settings are unusable: {error}")))
}
