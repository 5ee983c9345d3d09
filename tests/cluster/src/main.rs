//! `cluster up | down | status | load | with | run | kubectl`: the tests' own cluster, by hand and for other programs.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, Subcommand};
use spillway_cluster::images::Sources;
use spillway_cluster::{State, addons, down, images, keeper, lock, record, up, with};

/// A Kubernetes cluster of two nodes on this machine, in network namespaces of its own.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where it keeps its files.
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start it; what an earlier one left is cleaned up first
    Up,
    /// Stop it and remove what it made
    Down,
    /// Show its processes and nodes
    Status,
    /// Make the images of Spillway, MinIO and ClickHouse and bring them into both nodes
    Load {
        #[command(flatten)]
        from: Folders,
    },
    /// Start it, run a command inside the first node's network and stop it, whatever happened
    With {
        /// Bring the images into it first.
        #[arg(long)]
        load: bool,
        #[command(flatten)]
        from: Folders,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a command inside the first node's network, with KUBECONFIG and SPILLWAY_CLUSTER_DIR
    Run {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Enforce policies and empty volumes, as a process of the cluster itself
    #[command(hide = true)]
    Keep,
    /// Run kubectl in it
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// What images are made of.
#[derive(clap::Args)]
struct Folders {
    /// Folder of the built programs.
    #[arg(long, default_value = "target/debug")]
    built: PathBuf,
    /// Folder of the front's Python package.
    #[arg(long, default_value = "clickhouse-front")]
    front: PathBuf,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            writeln!(io::stderr(), "cluster: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let dir = args.dir.unwrap_or_else(State::default_dir);
    let since = Instant::now();
    // Not on stdout, which is the command's.
    let say = move |what: &str| {
        writeln!(io::stderr(), "cluster: {what} ({:.1} s)", since.elapsed().as_secs_f32()).ok();
    };
    match args.command {
        Command::Up => {
            let _lock = lock::take(Duration::ZERO)?;
            let state = State::open(&dir)?;
            up(&state, &say)?;
            say(&format!("kubeconfig: {}", state.kubeconfig().display()));
        }
        Command::Down => {
            let _lock = lock::take(Duration::from_secs(60))?;
            down(&State::open(&dir)?)?;
            say("down");
        }
        Command::Status => {
            let state = State::find(&dir)?;
            for one in record::all(&state) {
                let how = if one.is_alive() { "runs" } else { "has ended" };
                writeln!(io::stdout(), "{} {how} (pid {})", one.name, one.pid)?;
            }
            addons::kubectl(&state)?.args(["get", "nodes", "-o", "wide"]).status()?;
        }
        Command::Load { from } => images::load(&State::find(&dir)?, &from.into(), &say)?,
        Command::With { load, from, command } => {
            let state = State::open(&dir)?;
            let sources = Sources::from(from);
            let start = {
                let state = state.clone();
                move || {
                    up(&state, &say)?;
                    if load {
                        images::load(&state, &sources, &say)?;
                    }
                    Ok(())
                }
            };
            let code = with::with(&state, &command, start)?;
            say("down");
            return Ok(ExitCode::from(code));
        }
        Command::Run { command } => {
            return Err(with::inside(&State::find(&dir)?, &command)?.exec().into());
        }
        Command::Keep => keeper::run(&State::find(&dir)?)?,
        Command::Kubectl { arguments } => {
            return Err(addons::kubectl(&State::find(&dir)?)?.args(arguments).exec().into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl From<Folders> for Sources {
    fn from(from: Folders) -> Self {
        Self { built: from.built, front: from.front }
    }
}
