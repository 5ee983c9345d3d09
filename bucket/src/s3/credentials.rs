//! Where the keys to the store come from: files that may change at any time, or the usual AWS places.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError, future};
use aws_sdk_s3::config::{BehaviorVersion, Region, SharedHttpClient};
use parking_lot::Mutex;

/// How long a read of the files is believed: short against a rotation, long against a request.
const RECHECK: Duration = Duration::from_secs(1);

/// `access_key_id`, `secret_access_key` and optionally `session_token` in a folder, as a mounted Secret.
#[derive(Debug)]
pub(super) struct FileCredentials {
    dir: PathBuf,
    last: Mutex<Option<(Instant, Credentials)>>,
}

impl FileCredentials {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, last: Mutex::new(None) }
    }

    fn current(&self) -> Result<Credentials, CredentialsError> {
        let mut last = self.last.lock();
        if let Some((at, credentials)) = &*last
            && at.elapsed() < RECHECK
        {
            return Ok(credentials.clone());
        }
        let credentials = read(&self.dir)?;
        *last = Some((Instant::now(), credentials.clone()));
        Ok(credentials)
    }
}

impl ProvideCredentials for FileCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.current())
    }
}

fn read(dir: &Path) -> Result<Credentials, CredentialsError> {
    // Kubernetes swaps a Secret's files by one symbolic link. Following it once keeps the halves of two
    // different keys apart.
    let data = dir.join("..data");
    let dir = fs::canonicalize(&data).unwrap_or_else(|_| dir.to_owned());
    let required = |name: &str| {
        read_line(&dir.join(name))
            .and_then(|line| line.ok_or_else(|| io::Error::other("missing or empty")))
            .map_err(|error| {
                CredentialsError::provider_error(format!(
                    "no credentials: {}: {error}",
                    dir.join(name).display()
                ))
            })
    };
    let access_key_id = required("access_key_id")?;
    let secret_access_key = required("secret_access_key")?;
    let session_token = read_line(&dir.join("session_token")).map_err(CredentialsError::provider_error)?;
    Ok(Credentials::new(access_key_id, secret_access_key, session_token, None, "credentialsDir"))
}

fn read_line(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Environment, role of the service account (IRSA), container role (EKS Pod Identity, ECS), `~/.aws`.
///
/// The metadata service of a machine is asked only where the environment says so
/// (`AWS_EC2_METADATA_DISABLED=false`): elsewhere it is a wait for nothing, and a pod seldom means its node's role.
pub(super) fn default_chain(region: &str, http: SharedHttpClient) -> CredentialsProviderChain {
    let config = ProviderConfig::without_region()
        .with_region(Some(Region::new(region.to_owned())))
        .with_http_client(http)
        .with_behavior_version(Some(BehaviorVersion::latest()));
    let chain =
        CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
            .or_else(
                "WebIdentityToken",
                WebIdentityTokenCredentialsProvider::builder().configure(&config).build(),
            )
            .or_else("Container", EcsCredentialsProvider::builder().configure(&config).build())
            .or_else("Profile", ProfileFileCredentialsProvider::builder().configure(&config).build());
    let ask_the_machine =
        std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|text| text.eq_ignore_ascii_case("false"));
    if ask_the_machine {
        chain.or_else("Ec2InstanceMetadata", ImdsCredentialsProvider::builder().configure(&config).build())
    } else {
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, id: &str, secret: &str) {
        fs::write(dir.join("access_key_id"), id).unwrap();
        fs::write(dir.join("secret_access_key"), secret).unwrap();
    }

    #[test]
    fn a_rotated_key_is_seen_and_line_ends_are_not_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "one\n", "s1\r\n");
        let credentials = FileCredentials::new(dir.path().to_owned());
        assert_eq!(credentials.current().unwrap().access_key_id(), "one");
        assert_eq!(credentials.current().unwrap().secret_access_key(), "s1");
        write(dir.path(), "two", "s2");
        if let Some((at, _)) = &mut *credentials.last.lock() {
            *at -= RECHECK;
        }
        assert_eq!(credentials.current().unwrap().access_key_id(), "two");
    }

    #[test]
    fn a_mounted_secret_is_read_through_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("..2026");
        fs::create_dir(&first).unwrap();
        write(&first, "one", "s1");
        std::os::unix::fs::symlink("..2026", dir.path().join("..data")).unwrap();
        assert_eq!(read(dir.path()).unwrap().access_key_id(), "one");
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("access_key_id"), "one").unwrap();
        let error = read(dir.path()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("secret_access_key"), "{cause}");
    }
}
