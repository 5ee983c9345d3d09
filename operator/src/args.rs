//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use spillway_model::settings::Span;

/// Makes LogPipelines so: applies their objects, sets up bucket and schema, and says how they are.
///
/// Exit codes: 0 told to stop, 2 bad usage, 3 could not start.
#[derive(Debug, Parser)]
#[command(name = "spillway-operator", version)]
pub struct Args {
    /// Image of pipelines that name none, written into each when it is first seen.
    #[arg(long, env = "SPILLWAY_IMAGE")]
    pub image: String,
    /// Namespace whose pipelines are run; can be repeated. Default: all.
    #[arg(long = "watch-namespace", value_name = "NAMESPACE")]
    pub watch_namespaces: Vec<String>,
    /// Let pipelines without credentials of their own use the operator's. Whoever may create a pipeline then has
    /// them, too.
    #[arg(long)]
    pub use_own_credentials: bool,
    /// How long the deletion of a pipeline with `deletionPolicy: Delete` may be held up by its bucket or ClickHouse.
    #[arg(long, default_value = "10m", value_name = "TIME")]
    pub cleanup_timeout: Span,
    /// Between looks at bucket, schema and old objects when nothing changed; more or less a tenth.
    #[arg(long, default_value = "10m", value_name = "TIME")]
    pub resync: Span,
    /// Between looks at a pipeline's status file; also the least time between writes of backlog and lag alone.
    #[arg(long, default_value = "60s", value_name = "TIME")]
    pub status_interval: Span,
    /// Metrics and probes.
    #[arg(long, default_value = "0.0.0.0:9092", value_name = "ADDRESS")]
    pub metrics_addr: SocketAddr,
    /// STS endpoint for `storage.s3.serviceAccount`. Default: AWS's own of the bucket's region.
    #[arg(long, value_name = "URL")]
    pub sts_endpoint: Option<String>,
    /// Namespace of the Lease by which one of several operators leads.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", value_name = "NAMESPACE")]
    pub lease_namespace: String,
    /// Name of that Lease.
    #[arg(long, default_value = "spillway-operator", value_name = "NAME")]
    pub lease_name: String,
    /// Lead without asking. For tests and for trying it out.
    #[arg(long)]
    pub no_leader_election: bool,
    /// A kubeconfig. Default: KUBECONFIG, ~/.kube/config, or in a cluster the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Log as `json` or `text`.
    #[arg(long, env = "SPILLWAY_LOG_FORMAT", default_value = "json")]
    pub log: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_charts_arguments_are_understood() {
        Args::command().debug_assert();
        let args = Args::try_parse_from([
            "spillway-operator",
            "--image=ghcr.io/spillway-dev/spillway:1",
            "--watch-namespace=a",
            "--watch-namespace=b",
            "--use-own-credentials",
            "--cleanup-timeout=10m",
            "--metrics-addr=0.0.0.0:9092",
            "--log=json",
        ])
        .unwrap();
        assert_eq!(args.watch_namespaces, ["a", "b"]);
        assert_eq!(args.cleanup_timeout.get().as_secs(), 600);
    }
}
