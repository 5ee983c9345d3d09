//! The syncer as a process of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use spillway_bucket::Bucket;
use spillway_model::settings::SyncerSettings;
use spillway_schema::{ClickHouse, SchemaSpec};
use spillway_syncer::metrics::Metrics;
use spillway_syncer::runner::{self, SyncerError};
use spillway_syncer::{quiet_after, rebuild, standby};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Loads staged objects into ClickHouse, each row exactly once.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Settings file (YAML or JSON).
    #[arg(long)]
    settings: PathBuf,
    /// Apply the schema, write the pipeline's first manifest and exit. Harmless when both are there; refused
    /// when rows or batches are there without a manifest.
    #[arg(long)]
    init: bool,
    /// Make a lost manifest anew from what is left, say what was found, and exit. Stop the syncer first. Refused while
    /// a manifest is there, and when something can't be decided safely; see docs/recovery.md.
    #[arg(long, conflicts_with = "init")]
    rebuild_manifest: bool,
    /// How to reach the API server that has the Lease, if the settings name one. Without it: as the service account
    /// of the pod that this runs in.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Log as `json` or `text`.
    #[arg(long, default_value = "json")]
    log: String,
}

/// Exit code for settings that can't be used.
const USAGE: u8 = 2;
/// Exit code when it could not start or go on.
const START: u8 = 3;
/// Exit code after a second signal.
const FORCED: u8 = 5;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("SPILLWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.log == "json" {
        log.json().flatten_event(true).init()
    } else {
        log.init()
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("no runtime: {error}");
            return ExitCode::from(START);
        }
    };
    let code = runtime.block_on(run(args));
    // An insert that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(args: Args) -> u8 {
    let settings = match read_settings(&args.settings) {
        Ok(settings) => settings,
        Err(message) => {
            tracing::error!("{}: {message}", args.settings.display());
            return USAGE;
        }
    };
    let result = tokio::select! {
        result = serve(settings, &args) => result,
        () = second_signal() => return FORCED,
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(reason = error.reason(), "{error}");
            error.exit_code()
        }
    }
}

fn read_settings(path: &Path) -> Result<SyncerSettings, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let settings: SyncerSettings = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
    settings.validate().map_err(|error| error.to_string())?;
    Ok(settings)
}

async fn serve(settings: SyncerSettings, args: &Args) -> Result<(), SyncerError> {
    let bucket =
        Bucket::open(&settings.bucket).await.map_err(|error| SyncerError::Bucket(error.to_string()))?;
    let clickhouse = ClickHouse::connect(&settings.clickhouse)
        .map_err(|error| SyncerError::ClickHouse(error.to_string()))?;
    if args.init || args.rebuild_manifest {
        let spec = SchemaSpec::from_settings(&settings.clickhouse);
        let applied = spillway_schema::apply(&clickhouse, &spec).await;
        applied.map_err(|error| SyncerError::ClickHouse(error.to_string()))?;
        if args.init {
            return runner::initialise(&bucket, &clickhouse, &spec).await;
        }
        let rebuilt = rebuild(&bucket, &clickhouse, &spec, quiet_after(&settings)).await?;
        // Whoever reads the log hears of it, too.
        tracing::info!("{rebuilt}");
        let _ = writeln!(std::io::stdout(), "{rebuilt}");
        return Ok(());
    }
    let elector = match &settings.lease {
        Some(lease) => Some(standby::candidate(lease, args.kubeconfig.as_deref()).await?),
        None => None,
    };
    let taken = |error| {
        SyncerError::Admin(format!(
            "can't listen on {} ({error}); choose another `admin` address",
            settings.admin
        ))
    };
    let listener = TcpListener::bind(settings.admin).await.map_err(taken)?;
    let metrics = Arc::new(Metrics::default());
    let stop = CancellationToken::new();
    let served = CancellationToken::new();
    tokio::spawn(spillway_syncer::admin::serve(listener, metrics.clone(), served.clone()));
    let on_signal = stop.clone();
    tokio::spawn(async move {
        first_signal().await;
        tracing::info!("stopping: finishing open batches");
        on_signal.cancel();
    });
    let result = match &elector {
        Some(elector) => standby::run(elector, settings, bucket, clickhouse, metrics, stop).await,
        None => runner::run(settings, bucket, clickhouse, metrics, stop).await,
    };
    served.cancel();
    result
}

async fn first_signal() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

async fn second_signal() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    for _ in 0..2 {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}
