//! `spillway up`: a whole pipeline in one process. What the pipeline doesn't name runs here as well: a directory
//! stands in for the bucket, and a ClickHouse is started.

pub mod alone;
pub mod carried;
pub mod child;
pub mod clickhouse;
pub mod demo;
pub mod files;
pub mod front;
pub mod lock;
pub mod parts;
pub mod ports;
pub mod server;
pub mod signals;
pub mod start;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::time::timeout;

use self::{signals::Signals, start::Up};
use crate::{
    exit::{Exit, Failure},
    log::{self, LogFormat},
    output,
};

/// From the second signal to the end.
const FORCED: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub struct Args {
    /// Manifest file: one LogPipeline and the Secrets that it names
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Folder for the bucket's directory, ClickHouse's tables and what is secret
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
    /// Where logs are received
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Ingest's metrics, probes and /drain
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub admin: SocketAddr,
    /// The syncer's metrics and probes
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9091")]
    pub syncer_admin: SocketAddr,
    /// Port of the ClickHouse that is started when the pipeline names none
    #[arg(long, value_name = "PORT", default_value_t = 8123)]
    pub clickhouse_port: u16,
    /// Make a lost manifest anew from what is left, and go on; see docs/recovery.md
    #[arg(long)]
    pub rebuild_manifest: bool,
    /// How logs are written to stderr [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    pub log: Option<LogFormat>,
    /// Once it runs, send some logs and show them coming back from ClickHouse
    #[arg(long)]
    pub demo: bool,
    /// With --demo: stop after that; the exit code says whether all of them came back
    #[arg(long, requires = "demo")]
    pub once: bool,
}

/// Runs the pipeline until it is told to stop, and drains it.
///
/// # Errors
/// When it can't start; with `--demo`, when the logs don't come back.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    log::start(args.log, if args.demo { "warn" } else { "info" });
    let mut signals = Signals::listen().map_err(|error| Failure::new(Exit::Start, error))?;
    let up = tokio::select! {
        up = start::start(&args) => up?,
        () = signals.next() => return Ok(if args.once { Exit::CheckFailed } else { Exit::Done }),
    };
    let demo = tokio::select! {
        demo = work(&args, &up) => demo,
        // With --once the logs were to come back, and nobody saw them.
        () = signals.next() => match args.once {
            true => Err(Failure::new(Exit::CheckFailed, "interrupted before the logs came back")),
            false => Ok(()),
        },
    };
    if !args.once {
        output::note("stopping: draining what is buffered; once more to force it");
    }
    let force = up.force.clone();
    let mut stop = std::pin::pin!(up.stop());
    let exit = tokio::select! {
        exit = &mut stop => exit,
        () = signals.next() => {
            force.cancel();
            // Long enough to say what was lost.
            let _ = timeout(FORCED, stop).await;
            Exit::Forced
        }
    };
    demo?;
    Ok(exit)
}

/// Until there is a reason to stop other than a signal.
async fn work(args: &Args, up: &Up) -> Result<(), Failure> {
    if args.demo {
        tokio::select! {
            shown = demo::run(up) => shown.map_err(|error| Failure::new(Exit::CheckFailed, error))?,
            // What ended says why when it is stopped.
            () = up.ended() => return Ok(()),
        }
        if args.once {
            return Ok(());
        }
        output::line("\nCtrl-C stops it.");
    } else {
        output::note(&up.summary());
    }
    up.ended().await;
    Ok(())
}
