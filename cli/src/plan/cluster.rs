//! The cluster, as far as it can be asked without changing it.

use std::{fmt::Display, path::PathBuf};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Config,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use spillway_crds::{LogPipeline, Secrets, ValidatedPipeline};
use spillway_operator::plan::{
    Manifest, Objects, Observed, Workload,
    names::{Component, FIELD_MANAGER, PIPELINE, Scope},
};

use super::diff;
use crate::{
    exit::{Exit, Failure},
    output,
};

/// Which cluster.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// Default: KUBECONFIG, else ~/.kube/config, else that of the pod
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace, if the pipeline names none
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// A namespace of a cluster.
pub(crate) struct Cluster {
    client: Client,
    pub(crate) namespace: String,
}

fn failed(what: impl Display) -> impl FnOnce(kube::Error) -> Failure {
    move |error| {
        let exit = match &error {
            // The API server's answer to what the file says.
            kube::Error::Api(status) if matches!(status.code, 400 | 409 | 422) => Exit::Usage,
            _ => Exit::Start,
        };
        Failure::new(exit, format!("{what}: {}", say(&error)))
    }
}

/// The API server's own words, or why there are none.
fn say(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Cluster {
    /// # Errors
    /// When there is no such cluster, or the file's namespace is another than the one asked for.
    pub(crate) async fn connect(target: &Target, named: Option<&str>) -> Result<Self, Failure> {
        let Target { kubeconfig, context, namespace } = target;
        if let (Some(named), Some(asked)) = (named, namespace)
            && named != asked
        {
            let message =
                format!("the pipeline is in namespace {named}, not in {asked}; leave one of the two out");
            return Err(Failure::new(Exit::Usage, message));
        }
        let start = |error: &dyn Display| Failure::new(Exit::Start, format!("no cluster to ask: {error}"));
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let config = match kubeconfig {
            Some(file) => {
                let file = Kubeconfig::read_from(file).map_err(|error| start(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| start(&error))?
            }
            None if context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| start(&error))?
            }
            None => Config::infer().await.map_err(|error| start(&error))?,
        };
        let default = config.default_namespace.clone();
        let namespace = named.or(namespace.as_deref()).unwrap_or(&default).to_owned();
        let client = Client::try_from(config).map_err(|error| start(&error))?;
        Ok(Self { client, namespace })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn dynamic(&self, resource: &kube::discovery::ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }

    /// The pipeline as it is, and what becomes of it. The API server checks it with all its rules, those on what may
    /// not be changed among them.
    ///
    /// # Errors
    /// What the API server refuses.
    pub(crate) async fn pipeline(
        &self,
        file: &LogPipeline,
    ) -> Result<(Option<LogPipeline>, Vec<String>), Failure> {
        let name = file.metadata.name.clone().unwrap_or_default();
        let what = format!("LogPipeline {name}");
        let api: Api<LogPipeline> = self.api();
        let live = api.get_opt(&name).await.map_err(failed(&what))?;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let then = match &live {
            None => {
                let created = api.create(&dry, file).await;
                created.map_err(|error| match &error {
                    kube::Error::Api(status) if status.code == 404 => Failure::new(
                        Exit::Start,
                        format!(
                            "{what}: {}; is there a namespace {}, and is the operator's chart installed?",
                            say(&error),
                            self.namespace
                        ),
                    ),
                    _ => failed(&what)(error),
                })?
            }
            Some(live) => {
                let mut wanted = LogPipeline { spec: file.spec.clone(), ..live.clone() };
                for (mine, theirs) in [
                    (&file.metadata.labels, &mut wanted.metadata.labels),
                    (&file.metadata.annotations, &mut wanted.metadata.annotations),
                ] {
                    if let Some(mine) = mine {
                        theirs.get_or_insert_default().extend(mine.clone());
                    }
                }
                api.replace(&name, &dry, &wanted).await.map_err(failed(&what))?
            }
        };
        let json = |pipeline: &LogPipeline| serde_json::to_value(pipeline).ok();
        let change = diff::objects(&what, live.as_ref().and_then(json).as_ref(), json(&then).as_ref());
        Ok((live, change.into_iter().collect()))
    }

    /// The Secrets that the pipeline names: the file's, else the cluster's.
    ///
    /// # Errors
    /// When the cluster can't be asked. Secrets that may not be read are named and left out.
    pub(crate) async fn secrets(
        &self,
        pipeline: &ValidatedPipeline,
        mut known: Secrets,
    ) -> Result<Secrets, Failure> {
        let api: Api<Secret> = self.api();
        for name in spillway_operator::plan::secrets::all(pipeline) {
            if known.entries(name).is_some() {
                continue;
            }
            match api.get_opt(name).await {
                Ok(secret) => secret.into_iter().for_each(|secret| known.insert(secret)),
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    output::note(&format!("note: Secret {name} may not be read: {}", status.message));
                }
                Err(error) => return Err(failed(format!("Secret {name}"))(error)),
            }
        }
        Ok(known)
    }

    /// # Errors
    /// When the cluster can't be asked.
    pub(crate) async fn knows_pod_monitors(&self) -> Result<bool, Failure> {
        match self.client.list_api_group_resources("monitoring.coreos.com/v1").await {
            Ok(group) => Ok(group.resources.iter().any(|resource| resource.kind == "PodMonitor")),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(failed("monitoring.coreos.com/v1")(error)),
        }
    }

    /// What of the cluster decides the plan.
    ///
    /// # Errors
    /// When the cluster can't be asked.
    pub(crate) async fn observed(&self, pipeline: &ValidatedPipeline) -> Result<Observed, Failure> {
        let ingest = self.deployment(pipeline, Component::Ingest).await?;
        let syncer = self.deployment(pipeline, Component::Syncer).await?;
        let (ingest, syncer) = (ingest.as_ref().map(Workload::of), syncer.as_ref().map(Workload::of));
        // Whether everything is loaded the operator knows; then it has stopped the syncer already.
        let drained = pipeline.suspend && syncer.as_ref().is_some_and(|syncer| syncer.replicas == 0);
        Ok(Observed { ingest, syncer, drained })
    }

    async fn deployment(
        &self,
        pipeline: &ValidatedPipeline,
        component: Component,
    ) -> Result<Option<Deployment>, Failure> {
        let name = Scope::of(pipeline).name(component);
        let api: Api<Deployment> = self.api();
        api.get_opt(&name).await.map_err(failed(format!("Deployment {name}")))
    }

    /// What applying an object changes.
    ///
    /// # Errors
    /// What the API server refuses.
    pub(crate) async fn change(&self, manifest: &Manifest) -> Result<Option<String>, Failure> {
        let Manifest { resource, name, value } = manifest;
        let what = format!("{} {name}", resource.kind);
        let api = self.dynamic(resource);
        let live = api.get_opt(name).await.map_err(failed(&what))?;
        if live.is_some() && resource.kind == "Lease" {
            // What is in it is the syncers'.
            return Ok(None);
        }
        let apply = PatchParams::apply(FIELD_MANAGER).force().dry_run();
        let then = api.patch(name, &apply, &Patch::Apply(value)).await.map_err(failed(&what))?;
        let json = |object: &DynamicObject| serde_json::to_value(object).ok();
        let (mut before, what) = (live.as_ref().and_then(json), what);
        if before.is_none() && resource.kind == "ConfigMap" {
            before = self.predecessor(value).await?;
        }
        Ok(diff::objects(&what, before.as_ref(), json(&then).as_ref()))
    }

    /// The settings that a component's pods have now, which a new ConfigMap takes the place of.
    async fn predecessor(&self, config_map: &Value) -> Result<Option<Value>, Failure> {
        let labels = &config_map["metadata"]["labels"];
        let component = labels["app.kubernetes.io/component"].as_str().unwrap_or_default();
        let pipeline = labels[PIPELINE].as_str().unwrap_or_default();
        let name = format!("{pipeline}-{component}");
        let api: Api<Deployment> = self.api();
        let deployment = api.get_opt(&name).await.map_err(failed(format!("Deployment {name}")))?;
        let pod = deployment.and_then(|deployment| deployment.spec).and_then(|spec| spec.template.spec);
        let volumes = pod.and_then(|pod| pod.volumes).unwrap_or_default();
        let Some(settings) = volumes.into_iter().find_map(|volume| volume.config_map) else {
            return Ok(None);
        };
        let api: Api<ConfigMap> = self.api();
        let found = api.get_opt(&settings.name).await;
        let found = found.map_err(failed(format!("ConfigMap {}", settings.name)))?;
        Ok(found.and_then(|found| serde_json::to_value(found).ok()))
    }

    /// What the pipeline owns and no longer wants.
    ///
    /// # Errors
    /// When the cluster can't be asked.
    pub(crate) async fn removals(&self, objects: &Objects) -> Result<Vec<String>, Failure> {
        let Some(owner) = uid(objects.ingest_service.metadata.owner_references.as_deref()) else {
            // It is not in the cluster and owns nothing.
            return Ok(Vec::new());
        };
        let mut gone = Vec::new();
        for (resource, name) in objects.unwanted() {
            let what = format!("{} {name}", resource.kind);
            let live = self.dynamic(&resource).get_opt(&name).await.map_err(failed(&what))?;
            gone.extend(live.map(|live| (what, live)));
        }
        gone.extend(self.tenants_without_use(objects).await?);
        gone.retain(|(_, live)| uid(live.metadata.owner_references.as_deref()) == Some(owner));
        let json = |live: &DynamicObject| serde_json::to_value(live).ok();
        Ok(gone.iter().filter_map(|(what, live)| diff::objects(what, json(live).as_ref(), None)).collect())
    }

    /// Secrets of tenants that there are more of than needed.
    async fn tenants_without_use(&self, objects: &Objects) -> Result<Vec<(String, DynamicObject)>, Failure> {
        let Some(first) = objects.ingest_tenants.first() else { return Ok(Vec::new()) };
        let pipeline = first.metadata.labels.as_ref().and_then(|labels| labels.get(PIPELINE));
        let label = format!("{PIPELINE}={}", pipeline.map_or("", String::as_str));
        let api = self.dynamic(&kube::discovery::ApiResource::erase::<Secret>(&()));
        let all = match api.list(&ListParams::default().labels(&label)).await {
            Ok(all) => all,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                output::note(&format!("note: Secrets may not be listed: {}", status.message));
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed("Secrets")(error)),
        };
        let wanted =
            |name: &Option<String>| objects.ingest_tenants.iter().any(|secret| secret.metadata.name == *name);
        let unwanted = all.items.into_iter().filter(|secret| !wanted(&secret.metadata.name));
        Ok(unwanted
            .map(|secret| (format!("Secret {}", secret.metadata.name.clone().unwrap_or_default()), secret))
            .collect())
    }
}

fn uid(owners: Option<&[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]>) -> Option<&str> {
    owners?.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}
