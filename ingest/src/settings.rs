//! Reads settings and tenants files: YAML or JSON, told apart by nobody, because JSON is YAML.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use spillway_model::settings::{IngestSettings, SettingsError};

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{} can't be read: {source}; check the path and its permissions", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not valid: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("{}: {source}", path.display())]
    Invalid { path: PathBuf, source: SettingsError },
}

impl LoadError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "unreadable_file",
            Self::Parse { .. } => "malformed_file",
            Self::Invalid { source, .. } => source.reason(),
        }
    }
}

pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, LoadError> {
    serde_saphyr::from_str(text)
        .map_err(|e| LoadError::Parse { path: path.to_owned(), message: e.to_string() })
}

/// Reads and checks the settings of an ingest process.
///
/// # Errors
/// When the file can't be read or holds no usable settings.
pub fn load(path: &Path) -> Result<IngestSettings, LoadError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let settings: IngestSettings = parse(path, &text)?;
    settings.validate().map_err(|source| LoadError::Invalid { path: path.to_owned(), source })?;
    Ok(settings)
}
