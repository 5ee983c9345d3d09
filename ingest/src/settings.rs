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
    #[error("{} holds no tenants file any more; write one without tenants to have none", path.display())]
    NoFiles { path: PathBuf },
    #[error("{} kept changing while it was read", path.display())]
    Unsteady { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Invalid { path: PathBuf, source: SettingsError },
}

impl LoadError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "unreadable_file",
            Self::Parse { .. } => "malformed_file",
            Self::NoFiles { .. } => "no_files",
            Self::Unsteady { .. } => "unsteady_folder",
            Self::Invalid { source, .. } => source.reason(),
        }
    }
}

pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, LoadError> {
    serde_saphyr::from_str(text).map_err(|e| LoadError::Parse { path: path.to_owned(), message: explain(&e) })
}

/// What is wrong and where, and nothing of what the file holds there: who writes an API key where its digest
/// belongs must not find it in the log.
fn explain(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as Yaml;
    let error = error.without_snippet();
    let what = match error {
        Yaml::SerdeInvalidType { expected, .. } | Yaml::SerdeInvalidValue { expected, .. } => {
            format!("expected {expected}")
        }
        Yaml::SerdeUnknownVariant { expected, .. } => format!("expected one of {}", expected.join(", ")),
        Yaml::SerdeMissingField { field, .. } => format!("the field {field} is missing"),
        Yaml::Unexpected { expected, .. } => format!("expected {expected}"),
        Yaml::DuplicateMappingKey { .. } => "a field is there twice".to_owned(),
        Yaml::Eof { .. } => "it ends too early".to_owned(),
        Yaml::Message { msg, .. } | Yaml::ExternalMessage { msg, .. } => msg.clone(),
        _ => "it is not the YAML or JSON that is expected here".to_owned(),
    };
    match error.location() {
        Some(at) => format!("line {} column {}: {what}", at.line(), at.column()),
        None => what,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_model::settings::TenantsFile;

    #[test]
    fn an_error_says_where_but_never_shows_a_key() {
        let keys =
            ["[plain-key]", "plain-key", "[{sha256: plain-key}]", "[{plain-key: 1}]", "{plain-key: 1}"];
        let mut texts: Vec<_> = keys
            .iter()
            .map(|keys| format!("version: 1\ntenants:\n  - name: a\n    keys: {keys}\n    projects: [p]\n"))
            .collect();
        for broken in [
            "version: plain-key\n",
            "version: 1\ntenants: plain-key\n",
            "version: 1\ntenants: [{keys: [plain-key\n",
            "version: 1\ntenants: [\"plain-key\n",
            "version: 1\ntenants: [*plain-key]\n",
            "version: 1\ntenants: [{plain-key: 1, plain-key: 2}]\n",
        ] {
            texts.push(broken.to_owned());
        }
        for text in texts {
            let error = parse::<TenantsFile>(Path::new("tenants.yaml"), &text).unwrap_err().to_string();
            assert!(!error.contains("plain-key"), "{text}\n{error}");
            assert!(error.contains("line "), "{text}\n{error}");
        }
    }
}
