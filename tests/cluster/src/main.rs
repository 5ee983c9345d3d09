//! `cluster up | down | status | load | with | run | kubectl`: the tests' own cluster, by hand and for other programs.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, Subcommand};
use spillway_cluster::images::Wanted;
use spillway_cluster::{State, addons, down, images, keeper, lock, record, tools, up, with};

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
    /// Say what this machine lacks for it
    Check,
    /// Stop it and remove what it made
    Down,
    /// Show its processes and nodes
    Status,
    /// Make the images of Spillway, MinIO and ClickHouse and bring them into both nodes
    Load {
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Start it, run a command inside the first node's network and stop it, whatever happened
    With {
        /// Bring the images into it first.
        #[arg(long)]
        load: bool,
        #[command(flatten)]
        wanted: Wanted,
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
        Command::Check => {
            let missing = tools::missing();
            for what in &missing {
                writeln!(io::stdout(), "cluster: {what}")?;
            }
            return Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
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
        Command::Load { wanted } => images::load(&State::find(&dir)?, &wanted, &say)?,
        Command::With { load, wanted, command } => {
            let state = State::open(&dir)?;
            let start = {
                let state = state.clone();
                move || {
                    if load {
                        images::prepare(&state, &wanted, &say)?;
                    }
                    up(&state, &say)?;
                    if load {
                        images::load(&state, &wanted, &say)?;
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
