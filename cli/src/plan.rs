//! `spillway plan`: what applying a file would change in the cluster, the bucket and ClickHouse. Nothing is changed:
//! the API server is asked by dry runs of exactly what the operator would send.

mod cluster;
mod diff;
mod outside;

use std::path::PathBuf;

use spillway_crds::validate;
use spillway_operator::plan::{Inputs, Replicas, plan, render as text};

use self::cluster::Cluster;
use crate::{
    exit::{Exit, Failure},
    manifest, output, place, render,
};

#[derive(clap::Args)]
pub struct Args {
    /// Manifest file: a LogPipeline, and those of its Secrets that are not in the cluster or are to change
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Image of the pods, if neither the pipeline nor its status in the cluster names one
    #[arg(long, value_name = "IMAGE", default_value = render::IMAGE)]
    image: String,
    #[command(flatten)]
    target: cluster::Target,
    /// Look at the objects only, and neither at the bucket nor at ClickHouse
    #[arg(long)]
    objects_only: bool,
}

/// Writes the differences to stdout. Ends as `kubectl diff` does: with 0 if there are none, with 1 if there are.
///
/// # Errors
/// With more than 1: everything that is wrong with the pipeline, or that the cluster can't be asked.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let mut manifest = manifest::read(&args.file).map_err(|error| Failure::new(Exit::Usage, error))?;
    let cluster = Cluster::connect(&args.target, manifest.pipeline.metadata.namespace.as_deref()).await?;
    manifest.pipeline.metadata.namespace = Some(cluster.namespace.clone());
    let (live, mut changes) = cluster.pipeline(&manifest.pipeline).await?;
    // Owner and recorded image are those of the pipeline in the cluster.
    manifest.pipeline.metadata.uid = live.as_ref().and_then(|live| live.metadata.uid.clone());
    manifest.pipeline.status = live.and_then(|live| live.status);
    let pipeline = validate(&manifest.pipeline).map_err(|errors| place::wrong(&args.file, &errors))?;

    let secrets = cluster.secrets(&pipeline, manifest.secrets).await?;
    let inputs = Inputs {
        image: render::image(&manifest.pipeline, &args.image),
        pod_monitor: cluster.knows_pod_monitors().await?,
        observed: cluster.observed(&pipeline).await?,
        secrets,
        ..Inputs::default()
    };
    let mut plan = plan(&pipeline, &inputs).map_err(|error| render::wrong(&args.file, error))?;
    if let Replicas::HandOver(replicas) = plan.objects.ingest_deployment.replicas
        && let Some(spec) = &mut plan.objects.ingest_deployment.deployment.spec
    {
        // Another field manager takes the number over first; without that it would seem to fall to one.
        spec.replicas = Some(replicas);
    }

    let manifests = plan.objects.list().map_err(|error| Failure::new(Exit::Start, error))?;
    for manifest in &manifests {
        changes.extend(cluster.change(manifest).await?);
    }
    changes.extend(cluster.removals(&plan.objects).await?);
    if !args.objects_only {
        changes.extend(outside::bucket(&plan, &pipeline, &inputs.secrets).await);
        changes.extend(outside::schema(&plan, &pipeline, &inputs.secrets).await);
    }

    for remark in text::remarks(&plan) {
        output::note(&format!("note: {remark}"));
    }
    for change in &changes {
        output::line(change.trim_end());
    }
    Ok(if changes.is_empty() { Exit::Done } else { Exit::CheckFailed })
}
