//! Puts what is secret into files that only we can read, below the data folder, where the settings name them.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use spillway_crds::{
    FieldError, Problem, Secrets, ValidatedPipeline, reference::SecretKeyRef, settings::Files,
};

/// Why the files can't be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("can't write {path}: {source}; choose another folder with --data")]
    Write { path: PathBuf, source: io::Error },
}

/// Writes the credentials and authorities that the pipeline names, each into a folder of its own.
///
/// # Errors
/// When a Secret or one of its entries is missing, or a file can't be written.
pub fn write(pipeline: &ValidatedPipeline, secrets: &Secrets, data: &Path) -> Result<Files, FilesError> {
    let folder = data.join("secrets");
    let mut files = Files::default();
    if let Some(s3) = &pipeline.storage.s3 {
        if let Some(secret) = &s3.credentials {
            let field = "spec.storage.s3.credentialsSecretRef";
            let entries = ["access_key_id", "secret_access_key", "session_token?"];
            files.s3_credentials = Some(credentials(secrets, secret, field, &entries, &folder.join("s3"))?);
        }
        if let Some(ca) = &s3.ca {
            files.s3_ca = Some(authority(secrets, ca, "spec.storage.s3.caSecretRef", &folder.join("s3-ca"))?);
        }
    }
    if let Some(secret) = &pipeline.clickhouse.credentials {
        let field = "spec.clickhouse.credentialsSecretRef";
        let entries = ["username", "password"];
        let folder = folder.join("clickhouse");
        files.clickhouse_credentials = Some(credentials(secrets, secret, field, &entries, &folder)?);
    }
    if let Some(ca) = &pipeline.clickhouse.ca {
        let folder = folder.join("clickhouse-ca");
        files.clickhouse_ca = Some(authority(secrets, ca, "spec.clickhouse.caSecretRef", &folder)?);
    }
    Ok(files)
}

/// Writes the certificate that logs are received under, and its key. Only for who receives: other commands need no key.
///
/// # Errors
/// As [`write`].
pub fn certificate(
    pipeline: &ValidatedPipeline,
    secrets: &Secrets,
    data: &Path,
) -> Result<Option<PathBuf>, FilesError> {
    let Some(secret) = &pipeline.ingest.tls else { return Ok(None) };
    let (field, folder) = ("spec.ingest.tls.secretRef", data.join("secrets").join("tls"));
    credentials(secrets, secret, field, &["tls.crt", "tls.key"], &folder).map(Some)
}

/// `entries` that end with `?` may be missing.
fn credentials(
    secrets: &Secrets,
    secret: &str,
    field: &str,
    entries: &[&str],
    folder: &Path,
) -> Result<PathBuf, FilesError> {
    for entry in entries {
        let name = entry.trim_end_matches('?');
        match lookup(secrets, secret, name, field) {
            Ok(value) => write_file(&folder.join(name), value.trim_ascii())?,
            // Left from an earlier run, it would still be used.
            Err(_) if name != *entry => drop(fs::remove_file(folder.join(name))),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(folder.to_owned())
}

fn authority(
    secrets: &Secrets,
    reference: &SecretKeyRef,
    field: &str,
    folder: &Path,
) -> Result<PathBuf, FilesError> {
    let path = folder.join("ca.crt");
    write_file(&path, lookup(secrets, &reference.name, reference.key(), field)?)?;
    Ok(path)
}

fn lookup<'a>(secrets: &'a Secrets, secret: &str, entry: &str, field: &str) -> Result<&'a [u8], FieldError> {
    let problem = match secrets.entries(secret) {
        None => Problem::NoSecret { secret: secret.to_owned() },
        Some(entries) => match entries.get(entry) {
            Some(value) => return Ok(value),
            None => Problem::NoEntry { secret: secret.to_owned(), entry: entry.to_owned() },
        },
    };
    Err(FieldError { path: field.to_owned(), problem })
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), FilesError> {
    let written = |source| FilesError::Write { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(written)?;
    }
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    // Whoever reads it meanwhile sees the old secret or the new one, never half of it.
    let draft = path.with_extension("draft");
    let _ = fs::remove_file(&draft);
    let mut file =
        fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft).map_err(written)?;
    file.write_all(content).map_err(written)?;
    fs::rename(&draft, path).map_err(written)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;
    use spillway_crds::{LogPipeline, validate};

    use super::*;

    fn pipeline() -> ValidatedPipeline {
        let spec = json!({
            "storage": {"s3": {"bucket": "logs", "credentialsSecretRef": {"name": "s3"}}},
            "clickhouse": {"url": "http://ch", "caSecretRef": {"name": "ca"}},
        });
        validate(&LogPipeline::new("logs", serde_json::from_value(spec).unwrap())).unwrap()
    }

    fn secret(name: &str, entries: serde_json::Value) -> k8s_openapi::api::core::v1::Secret {
        serde_json::from_value(json!({"metadata": {"name": name}, "stringData": entries})).unwrap()
    }

    #[test]
    fn secrets_become_files_that_only_their_owner_can_read() {
        let data = tempfile::tempdir().unwrap();
        let keys = json!({"access_key_id": "id", "secret_access_key": "key\n"});
        let secrets = [secret("s3", keys), secret("ca", json!({"ca.crt": "PEM"}))].into_iter().collect();
        let files = write(&pipeline(), &secrets, data.path()).unwrap();
        let path = files.s3_credentials.unwrap().join("secret_access_key");
        assert_eq!(fs::read_to_string(&path).unwrap(), "key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(files.clickhouse_ca.unwrap()).unwrap(), "PEM");
    }

    #[test]
    fn a_certificate_and_its_key_lie_side_by_side() {
        let data = tempfile::tempdir().unwrap();
        let spec = json!({"ingest": {"tls": {"secretRef": {"name": "t"}}}});
        let asked = validate(&LogPipeline::new("logs", serde_json::from_value(spec).unwrap())).unwrap();
        let secrets = [secret("t", json!({"tls.crt": "CERT", "tls.key": "KEY"}))].into_iter().collect();
        let folder = certificate(&asked, &secrets, data.path()).unwrap().unwrap();
        assert_eq!(fs::read_to_string(folder.join("tls.crt")).unwrap(), "CERT");
        assert_eq!(fs::read_to_string(folder.join("tls.key")).unwrap(), "KEY");
        assert_eq!(certificate(&pipeline(), &secrets, data.path()).unwrap(), None);
        let none = [secret("t", json!({"tls.crt": "CERT"}))].into_iter().collect();
        let message = certificate(&asked, &none, data.path()).unwrap_err().to_string();
        assert!(message.contains("spec.ingest.tls.secretRef") && message.contains("tls.key"), "{message}");
    }

    #[test]
    fn a_missing_entry_is_named() {
        let data = tempfile::tempdir().unwrap();
        let secrets = [secret("s3", json!({"access_key_id": "id"}))].into_iter().collect();
        let message = write(&pipeline(), &secrets, data.path()).unwrap_err().to_string();
        assert!(
            message.contains("credentialsSecretRef") && message.contains("secret_access_key"),
            "{message}"
        );
    }
}
