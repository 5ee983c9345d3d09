//! What `main` is made of: arguments, logs, signals, exit code.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use spillway_bucket::Bucket;
use tokio::signal::unix::{SignalKind, signal};

use crate::drain::{Drained, drain};
use crate::{IngestError, Listeners, Shutdown, TenantsSource, serve, settings};

/// `drain`: the process runs and was not drained.
const NOT_DRAINED: u8 = 1;
/// Bad usage or settings.
const BAD_SETTINGS: u8 = 2;
/// Good settings, but it can't start here.
const CANT_START: u8 = 3;

/// Receives logs over HTTP and stages them in S3.
///
/// Exit codes: 0 drained, every record is in the bucket; 2 bad usage or settings; 3 could not start; 4 records
/// were not in the bucket by the deadline, the log says how many; 5 a second signal ended it.
#[derive(Debug, Parser)]
#[command(
    name = "spillway-ingest",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Arguments {
    #[command(flatten)]
    files: Option<Files>,
    #[command(flatten)]
    logs: Logs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What it is told.
#[derive(Debug, Args)]
struct Files {
    /// Settings file, YAML or JSON.
    #[arg(long)]
    settings: PathBuf,
    /// Tenants file, or a directory of them; read again when it changes.
    #[arg(long)]
    tenants: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take a running process out of the load balancers and wait until they have noticed: for a preStop hook.
    ///
    /// Exit codes: 0 drained, or there is no such process; 1 it runs and was not drained.
    Drain {
        /// Its admin address; it listens to its own machine alone.
        #[arg(long, default_value = "127.0.0.1:9090")]
        admin: SocketAddr,
    },
}

#[derive(Debug, Args)]
struct Logs {
    #[arg(long, env = "SPILLWAY_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
    /// Which logs, for example `info` or `spillway_ingest=debug`.
    #[arg(long, env = "SPILLWAY_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

/// Runs the process to its end.
pub async fn run(arguments: Arguments) -> ExitCode {
    let Arguments { files, logs, command } = arguments;
    if let Err(message) = start_logs(&logs) {
        tracing::error!("{message}");
        return ExitCode::from(BAD_SETTINGS);
    }
    match (command, files) {
        (Some(Command::Drain { admin }), _) => ask_to_drain(admin).await,
        (None, Some(files)) => receive(files).await,
        (None, None) => {
            tracing::error!("--settings and --tenants are missing");
            ExitCode::from(BAD_SETTINGS)
        }
    }
}

async fn ask_to_drain(admin: SocketAddr) -> ExitCode {
    match drain(admin).await {
        Ok(Drained::Yes) => tracing::info!(%admin, "drained of new connections"),
        Ok(Drained::Gone) => tracing::info!(%admin, "there is no process to drain"),
        Err(error) => return failed(NOT_DRAINED, error.reason(), &error),
    }
    ExitCode::SUCCESS
}

async fn receive(files: Files) -> ExitCode {
    // Two crypto providers are in the tree; without a choice TLS panics at its first use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = match settings::load(&files.settings) {
        Ok(settings) => settings,
        Err(error) => return failed(BAD_SETTINGS, error.reason(), &error),
    };
    let bucket = match Bucket::open(&settings.bucket).await {
        Ok(bucket) => bucket,
        Err(error) => return failed(CANT_START, error.reason(), &error),
    };
    let listeners = match Listeners::bind(&settings).await {
        Ok(listeners) => listeners,
        Err(error) => return failed(CANT_START, error.reason(), &error),
    };
    let shutdown = Shutdown::default();
    if let Err(error) = follow_signals(&shutdown) {
        return failed(CANT_START, "no_signals", &error);
    }
    match serve(settings, TenantsSource::Path(files.tenants), bucket, listeners, shutdown).await {
        Ok(report) => ExitCode::from(report.exit_code()),
        Err(error @ IngestError::Port { .. }) => failed(CANT_START, error.reason(), &error),
        Err(error) => failed(BAD_SETTINGS, error.reason(), &error),
    }
}

fn failed(code: u8, reason: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(reason, "{error}");
    ExitCode::from(code)
}

fn start_logs(arguments: &Logs) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log);
    let (filter, problem) = match filter {
        Ok(filter) => (filter, None),
        Err(e) => (tracing_subscriber::EnvFilter::new("info"), Some(format!("--log can't be used: {e}"))),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match arguments.log_format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.init(),
    }
    problem.map_or(Ok(()), Err)
}

/// The first SIGTERM or Ctrl-C drains, the second one ends.
fn follow_signals(shutdown: &Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        for token in [&shutdown.drain, &shutdown.force] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}
