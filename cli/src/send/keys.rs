//! API keys by project, from the command line or from a pipeline's own Secrets.

use std::collections::BTreeMap;

use spillway_crds::{Secrets, ValidatedPipeline};

/// Reads `KEY` (for every project) and `PROJECT=KEY`. A key may hold `=` itself, so only a known project's name is
/// taken for one.
pub fn from_arguments(arguments: &[String], projects: &[String]) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for argument in arguments {
        match argument.split_once('=') {
            Some((project, key)) if projects.iter().any(|known| known == project) => {
                keys.insert(project.to_owned(), key.to_owned());
            }
            _ => {
                for project in projects {
                    keys.entry(project.clone()).or_insert_with(|| argument.clone());
                }
            }
        }
    }
    keys
}

/// The first key of each project's tenant.
pub fn from_pipeline(pipeline: &ValidatedPipeline, secrets: &Secrets) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for tenant in &pipeline.tenants {
        let entries = secrets.entries(&tenant.api_keys_secret);
        let Some(key) = entries.and_then(|entries| entries.values().next()) else { continue };
        let key = String::from_utf8_lossy(key.trim_ascii()).into_owned();
        keys.extend(tenant.projects.iter().map(|project| (project.to_string(), key.clone())));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_its_project_or_for_all() {
        let arguments = ["shop=abc=".to_owned(), "x=y".to_owned()];
        let keys = from_arguments(&arguments, &["shop".to_owned(), "blog".to_owned()]);
        assert_eq!(keys["shop"], "abc=");
        assert_eq!(keys["blog"], "x=y");
    }
}
