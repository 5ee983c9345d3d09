//! `cluster up | down | status | load`: the tests' own cluster, by hand.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};
use spillway_cluster::{State, addons, down, images, record, up};

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
        /// Folder of the built programs.
        #[arg(long, default_value = "target/debug")]
        built: PathBuf,
        /// Folder of the front's Python package.
        #[arg(long, default_value = "clickhouse-front")]
        front: PathBuf,
    },
    /// Run kubectl in it
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
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
    let state = State::open(&args.dir.unwrap_or_else(State::default_dir))?;
    let since = Instant::now();
    let say = |what: &str| {
        writeln!(io::stdout(), "cluster: {what} ({:.1} s)", since.elapsed().as_secs_f32()).ok();
    };
    match args.command {
        Command::Up => {
            up(&state, &say)?;
            say(&format!("kubeconfig: {}", state.kubeconfig().display()));
        }
        Command::Down => {
            down(&state);
            say("down");
        }
        Command::Status => {
            for one in record::all(&state) {
                let how = if one.is_alive() { "runs" } else { "has ended" };
                writeln!(io::stdout(), "{} {how} (pid {})", one.name, one.pid)?;
            }
            addons::kubectl(&state)?.args(["get", "nodes", "-o", "wide"]).status()?;
        }
        Command::Load { built, front } => {
            let scratch = tempfile::tempdir()?;
            for (name, image) in [
                ("spillway", images::spillway(&built, scratch.path())?),
                ("minio", images::minio()?),
                ("clickhouse", images::clickhouse(&front)?),
            ] {
                let archive = state.path(&format!("images/{name}.tar"))?;
                image.write(&archive)?;
                images::import(&state, &archive)?;
                say(&format!("{} is in both nodes", image.name));
            }
        }
        Command::Kubectl { arguments } => {
            let status = addons::kubectl(&state)?.args(arguments).status()?;
            return Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
