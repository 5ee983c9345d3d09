//! A pipeline from a file, and changes to it.

use std::path::PathBuf;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::Value;
use spillway_crds::{LogPipeline, Secrets, validate};
use spillway_operator::plan::{Inputs, Observed, Plan, PlanError, Workload, plan, render};
use spillway_schema::Version;

const SERVER: Version = Version::new(26, 9, 0);
/// Lines longer than this, which are entries of Secrets, are not shown.
const LONGEST: usize = 4_000;

#[derive(Clone)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pipeline: LogPipeline,
    secrets: Vec<Secret>,
    operators_image: String,
    observed: Observed,
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", "scenarios"].iter().collect()
}

/// Every scenario.
pub(crate) fn all() -> impl Iterator<Item = Scenario> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".plan.yaml"))
        .map(|name| name.trim_end_matches(".yaml").to_owned())
        .collect();
    names.sort();
    assert!(names.len() > 5, "{names:?}");
    names.into_iter().map(|name| Scenario::read(&name))
}

impl Scenario {
    pub(crate) const UID: &str = "5f1e7a8c-0000-4000-8000-000000000001";

    pub(crate) fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap();
        let (mut pipelines, mut secrets) = (Vec::new(), Vec::new());
        for document in text.split("\n---\n") {
            if document.contains("kind: LogPipeline") {
                pipelines.push(serde_saphyr::from_str::<LogPipeline>(document).unwrap());
            } else {
                secrets.push(serde_saphyr::from_str(document).unwrap());
            }
        }
        let mut pipeline = pipelines.pop().unwrap();
        pipeline.metadata.uid = Some(Self::UID.to_owned());
        let scenario = Self {
            name: name.to_owned(),
            pipeline,
            secrets,
            operators_image: "ghcr.io/spillway-dev/spillway:golden".to_owned(),
            observed: Observed::default(),
        };
        scenario.arranged()
    }

    /// What a file can't say.
    fn arranged(mut self) -> Self {
        match self.name.as_str() {
            "suspended" => {
                let there = Workload { replicas: 7, ..Workload::default() };
                self.observed.ingest = Some(there.clone());
                self.observed.syncer = Some(there);
            }
            "suspended-drained" => self.observed.drained = true,
            "autoscaled-running" => {
                self.observed.ingest = Some(Workload { replicas: 7, ..Workload::default() });
            }
            "many-tenants" => self.add_tenants(900),
            _ => {}
        }
        self
    }

    /// Tenants whose projects and keys don't fit into one Secret.
    fn add_tenants(&mut self, count: usize) {
        let template = self.pipeline.spec.tenants[0].clone();
        for tenant in 0..count {
            let name = format!("tenant-{tenant:04}");
            let mut spec = template.clone();
            spec.name = name.clone();
            spec.projects =
                (0..10).map(|project| format!("{name}-project-{project}-{}", "x".repeat(40))).collect();
            spec.api_keys_secret_ref.name = format!("{name}-keys");
            self.pipeline.spec.tenants.push(spec);
            for key in 0..8 {
                let secret = format!("key {key} of {name}").replace(' ', "-");
                self.set_secret(&format!("{name}-keys"), &key.to_string(), &secret);
            }
        }
    }

    pub(crate) fn pipeline_name(&self) -> &str {
        self.pipeline.metadata.name.as_deref().unwrap()
    }

    pub(crate) fn status_image(&self) -> Option<&str> {
        self.pipeline.status.as_ref()?.image.as_deref()
    }

    pub(crate) fn golden(&self) -> PathBuf {
        folder().join(format!("{}.plan.yaml", self.name))
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.pipeline.metadata.name = Some(name.to_owned());
        self
    }

    /// With the image that the operator's own version would choose.
    pub(crate) fn started_with(mut self, image: &str) -> Self {
        self.operators_image = image.to_owned();
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut spec = serde_json::to_value(&self.pipeline.spec).unwrap();
        change(&mut spec);
        self.pipeline.spec = serde_json::from_value(spec).unwrap();
        self
    }

    pub(crate) fn secret(mut self, name: &str, entry: &str, value: &str) -> Self {
        self.set_secret(name, entry, value);
        self
    }

    fn set_secret(&mut self, name: &str, entry: &str, value: &str) {
        let found = self.secrets.iter().position(|secret| secret.metadata.name.as_deref() == Some(name));
        let at = found.unwrap_or_else(|| {
            self.secrets.push(Secret::default());
            self.secrets.len() - 1
        });
        let secret = &mut self.secrets[at];
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.resource_version = Some("changed".to_owned());
        let value = ByteString(value.as_bytes().to_vec());
        secret.data.get_or_insert_default().insert(entry.to_owned(), value);
        if let Some(texts) = &mut secret.string_data {
            texts.remove(entry);
        }
    }

    pub(crate) fn without_secret(mut self, name: &str) -> Self {
        self.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(name));
        self
    }

    /// As observed once it has been applied.
    pub(crate) fn running(mut self) -> Self {
        let objects = self.plan().objects;
        self.observed.ingest = Some(Workload::of(&objects.ingest_deployment.deployment));
        self.observed.syncer = Some(Workload::of(&objects.syncer_deployment));
        self
    }

    pub(crate) fn try_plan(&self) -> Result<Plan, PlanError> {
        let spec_image = self.pipeline.spec.image.as_deref();
        let image = spec_image.or(self.status_image()).unwrap_or(&self.operators_image).to_owned();
        let version = |secret: &Secret| {
            let meta = &secret.metadata;
            Some((meta.name.clone()?, meta.resource_version.clone().unwrap_or_else(|| "1".to_owned())))
        };
        let inputs = Inputs {
            image,
            secret_versions: self.secrets.iter().filter_map(version).collect(),
            secrets: self.secrets.iter().cloned().collect::<Secrets>(),
            pod_monitor: true,
            observed: self.observed.clone(),
        };
        plan(&validate(&self.pipeline).unwrap(), &inputs)
    }

    pub(crate) fn plan(&self) -> Plan {
        self.try_plan().unwrap()
    }

    /// The plan as `spillway render` shows it, without what is too long to be read and without the version that a
    /// migration is recorded with.
    pub(crate) fn text(&self) -> String {
        let text = render::render(&self.plan(), SERVER).unwrap();
        let short = |line: &str| match line.len() {
            length if length > LONGEST => format!("({length} characters)\n"),
            _ => format!("{line}\n"),
        };
        let text: String = text.lines().map(short).collect();
        text.replace(concat!("spillway ", env!("CARGO_PKG_VERSION")), "spillway (version)")
    }

    pub(crate) fn objects_text(&self) -> String {
        let manifests = self.plan().objects.list().unwrap();
        manifests.iter().map(|manifest| format!("{}\n", manifest.value)).collect()
    }
}
