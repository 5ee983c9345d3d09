//! What `main` is made of: arguments, logs, signals, exit code.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use spillway_bucket::Bucket;
use tokio::signal::unix::{SignalKind, signal};

use crate::settings;
use crate::{Listeners, Shutdown, TenantsSource, serve};

/// Bad usage or settings.
const BAD_SETTINGS: u8 = 2;
/// Good settings, but it can't start here.
const CANT_START: u8 = 3;

/// Receives logs over HTTP and stages them in S3.
///
/// Exit codes: 0 drained, every record is in the bucket; 2 bad usage or settings; 3 could not start; 4 records
/// were not in the bucket by the deadline, the log says how many; 5 a second signal ended it.
#[derive(Debug, Parser)]
#[command(name = "spillway-ingest", version)]
pub struct Arguments {
    /// Settings file, YAML or JSON.
    #[arg(long)]
    settings: PathBuf,
    /// Tenants file, or a directory of them; read again when it changes.
    #[arg(long)]
    tenants: PathBuf,
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
    if let Err(message) = start_logs(&arguments) {
        tracing::error!("{message}");
        return ExitCode::from(BAD_SETTINGS);
    }
    // Two crypto providers are in the tree; without a choice TLS panics at its first use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = match settings::load(&arguments.settings) {
        Ok(settings) => settings,
        Err(error) => return failed(BAD_SETTINGS, error.reason(), &error),
    };
    let bucket = match Bucket::open(&settings.bucket).await {
        Ok(bucket) => bucket,
        Err(error) => return failed(CANT_START, error.reason(), &error),
    };
    let tenants = TenantsSource::Path(arguments.tenants);
    if let Err(error) = tenants.load() {
        return failed(BAD_SETTINGS, error.reason(), &error);
    }
    let listeners = match Listeners::bind(&settings).await {
        Ok(listeners) => listeners,
        Err(error) => return failed(CANT_START, error.reason(), &error),
    };
    let shutdown = Shutdown::default();
    if let Err(error) = follow_signals(&shutdown) {
        return failed(CANT_START, "no_signals", &error);
    }
    match serve(settings, tenants, bucket, listeners, shutdown).await {
        Ok(report) => ExitCode::from(report.exit_code()),
        Err(error) => failed(CANT_START, error.reason(), &error),
    }
}

fn failed(code: u8, reason: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(reason, "{error}");
    ExitCode::from(code)
}

fn start_logs(arguments: &Arguments) -> Result<(), String> {
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
