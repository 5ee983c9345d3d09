//! Reads a manifest file: one `LogPipeline` and the Secrets that it names, as `kubectl apply -f` would take them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, de::DeserializeOwned};
use serde_saphyr::{Deserializer, Location};
use spillway_crds::{LogPipeline, Secrets};

/// What a file holds.
#[derive(Debug)]
pub struct Manifest {
    pub pipeline: LogPipeline,
    pub secrets: Secrets,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("can't read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}:{column}: {message}")]
    Yaml { path: PathBuf, line: u64, column: u64, message: String },
    #[error(
        "{path}:{line}: {kind} {name:?}: there is no field {field}; see `kubectl explain` or crds/logpipelines.yaml for those there are"
    )]
    UnknownField { path: PathBuf, line: usize, kind: &'static str, name: String, field: String },
    #[error(
        "{path}:{line}: {what} has no place here; keep one LogPipeline (spillway.dev/v1alpha1) and its Secrets (v1)"
    )]
    UnknownKind { path: PathBuf, line: usize, what: String },
    #[error("{path} holds {count} LogPipelines; a file that is run holds exactly one")]
    NotOnePipeline { path: PathBuf, count: usize },
}

/// Reads a file.
///
/// # Errors
/// With the place in the file, wherever there is one.
pub fn read(path: &Path) -> Result<Manifest, ManifestError> {
    let text =
        fs::read_to_string(path).map_err(|source| ManifestError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Manifest, ManifestError> {
    let (mut pipelines, mut secrets) = (Vec::new(), Secrets::default());
    for (line, document) in documents(text) {
        let Header { api_version, kind, metadata } = match read_document::<Option<Header>>(&document) {
            Ok((Some(header), _)) => header,
            // Nothing but comments.
            Ok((None, _)) => continue,
            Err(error) => return Err(yaml_error(path, line, &error, None)),
        };
        let name = metadata.name;
        match (api_version.as_str(), kind.as_str()) {
            ("spillway.dev/v1alpha1", "LogPipeline") => {
                let (pipeline, unknown) =
                    read_document(&document).map_err(|error| yaml_error(path, line, &error, None))?;
                no_unknown(path, line, "LogPipeline", name, unknown)?;
                pipelines.push(pipeline);
            }
            ("v1", "Secret") => {
                // Neither the parser's excerpt nor its message may be shown: both can hold what is secret.
                let hidden = "this is no Secret; it needs metadata.name, and texts under stringData";
                let (secret, unknown): (Secret, _) =
                    read_document(&document).map_err(|error| yaml_error(path, line, &error, Some(hidden)))?;
                no_unknown(path, line, "Secret", name, unknown)?;
                secrets.insert(secret);
            }
            _ => {
                let what = format!("{kind} of {api_version}");
                return Err(ManifestError::UnknownKind { path: path.to_owned(), line, what });
            }
        }
    }
    let count = pipelines.len();
    match (pipelines.pop(), count) {
        (Some(pipeline), 1) => Ok(Manifest { pipeline, secrets }),
        _ => Err(ManifestError::NotOnePipeline { path: path.to_owned(), count }),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

/// The documents of a file, each with the line it begins at and preceded by as many empty lines, so that the
/// parser's places are those of the file. A line that begins with `---` ends a document even inside of a text.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (number, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.push((number + 2, "\n".repeat(number + 1)));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.retain(|(_, document)| {
        document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    });
    documents
}

/// A document's value and the paths of the fields that its type doesn't know.
fn read_document<T: DeserializeOwned>(document: &str) -> Result<(T, Vec<String>), serde_saphyr::Error> {
    let mut unknown = Vec::new();
    let value = serde_saphyr::with_deserializer_from_str(document, |deserializer: Deserializer<'_, '_>| {
        serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string().replace(".?", "")))
    })?;
    Ok((value, unknown))
}

fn no_unknown(
    path: &Path,
    line: usize,
    kind: &'static str,
    name: String,
    unknown: Vec<String>,
) -> Result<(), ManifestError> {
    // Both are read on their own.
    let field = unknown.into_iter().find(|field| field != "apiVersion" && field != "kind");
    match field {
        None => Ok(()),
        Some(field) => Err(ManifestError::UnknownField { path: path.to_owned(), line, kind, name, field }),
    }
}

fn yaml_error(path: &Path, line: usize, error: &serde_saphyr::Error, hidden: Option<&str>) -> ManifestError {
    let (line, column) = error
        .location()
        .filter(|place| *place != Location::UNKNOWN)
        .map_or((line as u64, 1), |place| (place.line(), place.column()));
    let message = hidden.map_or_else(|| error.without_snippet().to_string(), str::to_owned);
    ManifestError::Yaml { path: path.to_owned(), line, column, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: &str = "apiVersion: spillway.dev/v1alpha1\nkind: LogPipeline\nmetadata: {name: logs}\n";
    const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {a: hunter2}\n";

    fn error(text: &str) -> String {
        parse(Path::new("p.yaml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_pipeline_and_its_secrets_are_read_from_one_file() {
        let manifest =
            parse(Path::new("p.yaml"), &format!("# both\n---\n{PIPELINE}spec: {{}}\n---\n{SECRET}")).unwrap();
        assert_eq!(manifest.pipeline.metadata.name.as_deref(), Some("logs"));
        assert_eq!(manifest.secrets.entries("keys").unwrap()["a"], b"hunter2");
    }

    #[test]
    fn a_mistyped_field_is_an_error_and_not_silently_ignored() {
        let text = format!("{PIPELINE}spec:\n  ingest: {{flsh: {{}}}}\n");
        assert!(error(&text).contains("spec.ingest.flsh"), "{}", error(&text));
    }

    #[test]
    fn a_mistake_is_found_at_its_line_of_the_file() {
        let text = format!("{SECRET}---\n{PIPELINE}spec:\n  ingest:\n    replicas: many\n");
        assert!(error(&text).starts_with("p.yaml:11:"), "{}", error(&text));
    }

    #[test]
    fn a_message_about_a_secret_never_shows_it() {
        for text in [
            "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: hunter2\n",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {a: [hunter2]}\n",
        ] {
            let message = error(&format!("{PIPELINE}spec: {{}}\n---\n{text}"));
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn what_is_neither_pipeline_nor_secret_is_refused_by_name() {
        let message = error("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n");
        assert!(message.contains("ConfigMap of v1"), "{message}");
    }

    #[test]
    fn a_file_holds_exactly_one_pipeline() {
        assert!(error(SECRET).contains("holds 0 LogPipelines"));
        let two = format!("{PIPELINE}spec: {{}}\n---\n{PIPELINE}spec: {{}}\n");
        assert!(error(&two).contains("holds 2 LogPipelines"));
    }
}
