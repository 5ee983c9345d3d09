//! `spillway render`: what the operator would make of a pipeline, without a cluster.

use std::path::{Path, PathBuf};

use spillway_crds::{LogPipeline, validate};
use spillway_operator::plan::{Inputs, PlanError, plan, render};
use spillway_schema::Version;

use crate::{
    exit::{Exit, Failure},
    manifest, output, place,
};

/// The image that pods run when neither pipeline nor user names one.
pub const IMAGE: &str = concat!("ghcr.io/spillway-dev/spillway:", env!("CARGO_PKG_VERSION"));

#[derive(clap::Args)]
pub struct Args {
    /// Manifest file: a LogPipeline and the Secrets that it names
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Image of the pods, if the pipeline names none
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    image: String,
    /// Namespace, if the pipeline names none
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// PodMonitors as well, for a cluster that has them
    #[arg(long)]
    pod_monitors: bool,
    /// The ClickHouse that the statements are for
    #[arg(long, value_name = "VERSION", default_value = "26.9.0")]
    clickhouse_version: String,
}

/// Writes objects, bucket and schema to stdout and what there is to say of them to stderr.
///
/// # Errors
/// Everything that is wrong with the pipeline.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let usage = |error: &dyn ToString| Failure::new(Exit::Usage, error.to_string());
    let server: Version = args.clickhouse_version.parse().map_err(|error| usage(&error))?;
    let mut manifest = manifest::read(&args.file).map_err(|error| usage(&error))?;
    manifest.pipeline.metadata.namespace.get_or_insert_with(|| args.namespace.clone());
    let pipeline = validate(&manifest.pipeline).map_err(|errors| place::wrong(&args.file, &errors))?;
    let inputs = Inputs {
        image: image(&manifest.pipeline, &args.image),
        secrets: manifest.secrets,
        pod_monitor: args.pod_monitors,
        ..Inputs::default()
    };
    let plan = plan(&pipeline, &inputs).map_err(|error| wrong(&args.file, error))?;
    let text = render::render(&plan, server).map_err(|error| usage(&error))?;
    for remark in render::remarks(&plan) {
        output::note(&format!("note: {remark}"));
    }
    output::line(text.trim_end());
    Ok(Exit::Done)
}

/// What is wrong with the file.
pub fn wrong(file: &Path, error: PlanError) -> Failure {
    match error {
        PlanError::Missing(errors) => place::wrong(file, &errors),
        PlanError::Settings(error) => Failure::new(Exit::Usage, error),
    }
}

/// As the operator chooses it: the spec's, else the one that was recorded, else `default`.
pub fn image(pipeline: &LogPipeline, default: &str) -> String {
    let recorded = pipeline.status.as_ref().and_then(|status| status.image.clone());
    pipeline.spec.image.clone().or(recorded).unwrap_or_else(|| default.to_owned())
}
