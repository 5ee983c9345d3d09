//! User name and password, read from the files of a mounted Secret.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;

use crate::ClickHouseError;

/// Where the credentials are. They are read for every request: two small files cost nothing beside a
/// query, and a rotated Secret counts at once.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    dir: Option<PathBuf>,
}

/// What a request carries, marked so that it never shows up in logs.
pub(crate) struct UserAndKey {
    pub(crate) user: HeaderValue,
    pub(crate) key: HeaderValue,
}

impl Credentials {
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// # Errors
    /// [`ClickHouseError::Invalid`] if a file cannot be read or holds what no header can carry.
    pub(crate) async fn read(&self) -> Result<Option<UserAndKey>, ClickHouseError> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let user = read_file(&dir.join("username")).await?;
        let key = read_file(&dir.join("password")).await?;
        Ok(user.map(|user| UserAndKey { user, key: key.unwrap_or_else(|| HeaderValue::from_static("")) }))
    }
}

async fn read_file(path: &Path) -> Result<Option<HeaderValue>, ClickHouseError> {
    let bytes = match tokio::fs::read(path).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ClickHouseError::Invalid(format!("cannot read {}: {e}", path.display()))),
    };
    // Editors end a file with a newline; Kubernetes does not.
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| {
        ClickHouseError::Invalid(format!("{} holds control characters: write the bare value", path.display()))
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}
