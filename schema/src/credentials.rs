//! User name and password: a value, or read from the files of a mounted Secret.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;

use crate::ClickHouseError;

/// A user of ClickHouse, as a value.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
}

/// The password stays out of logs.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.username)
    }
}

/// Where the credentials are. Files are read for every request: two small files cost nothing beside a
/// query, and a rotated Secret counts at once.
#[derive(Debug, Clone)]
pub(crate) enum Credentials {
    /// The user `default` without a password.
    None,
    Files(PathBuf),
    Value(UserAndKey),
}

/// What a request carries, marked so that it never shows up in logs.
#[derive(Debug, Clone)]
pub(crate) struct UserAndKey {
    pub(crate) user: HeaderValue,
    pub(crate) key: HeaderValue,
}

impl Credentials {
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        dir.map_or(Self::None, Self::Files)
    }

    /// # Errors
    /// [`ClickHouseError::Invalid`] for what no header can carry.
    pub(crate) fn of(login: &Login) -> Result<Self, ClickHouseError> {
        let value = |text: &str, name: &str| {
            sensitive(text.as_bytes()).ok_or_else(|| {
                ClickHouseError::Invalid(format!("the {name} holds control characters: write the bare value"))
            })
        };
        Ok(Self::Value(UserAndKey {
            user: value(&login.username, "username")?,
            key: value(&login.password, "password")?,
        }))
    }

    /// # Errors
    /// [`ClickHouseError::Invalid`] if a file cannot be read or holds what no header can carry.
    pub(crate) async fn read(&self) -> Result<Option<UserAndKey>, ClickHouseError> {
        let dir = match self {
            Self::None => return Ok(None),
            Self::Value(value) => return Ok(Some(value.clone())),
            Self::Files(dir) => dir,
        };
        let user = read_file(&dir.join("username")).await?;
        let key = read_file(&dir.join("password")).await?;
        Ok(user.map(|user| UserAndKey { user, key: key.unwrap_or_else(|| HeaderValue::from_static("")) }))
    }
}

/// Editors end a file with a newline; Kubernetes does not.
fn sensitive(bytes: &[u8]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(bytes.strip_suffix(b"\n").unwrap_or(bytes)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn read_file(path: &Path) -> Result<Option<HeaderValue>, ClickHouseError> {
    let bytes = match tokio::fs::read(path).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ClickHouseError::Invalid(format!("cannot read {}: {e}", path.display()))),
    };
    let value = sensitive(&bytes).ok_or_else(|| {
        ClickHouseError::Invalid(format!("{} holds control characters: write the bare value", path.display()))
    })?;
    Ok(Some(value))
}
