//! What the program `spillway` is made of. A library, so that tests and benchmarks can use the generator and the
//! verdict of `spillway send`.

pub mod audit;
pub mod dead_letters;
pub mod exit;
pub mod log;
pub mod manifest;
pub mod metrics;
pub mod output;
pub mod place;
pub mod plan;
pub mod render;
pub mod send;
pub mod status;
pub mod up;

use clap::{Parser, Subcommand};

use exit::{Exit, Failure};

/// Logs from many tenants into ClickHouse: durable in the bucket first, then each in the table exactly once.
#[derive(Parser)]
#[command(name = "spillway", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline on this machine: ingest, syncer, and where the pipeline names none, bucket and ClickHouse
    Up(up::Args),
    /// Send generated logs and check in ClickHouse that each is there once
    Send(send::Args),
    /// Write the objects, bucket settings and schema that the operator would make of a pipeline
    Render(render::Args),
    /// Show what applying a pipeline would change in a cluster, and change nothing
    Plan(plan::Args),
    /// Show backlog, lag, rates and the last error
    Status(status::Args),
    /// List, show and replay what could not be loaded
    DeadLetters(dead_letters::Args),
    /// Check from outside that nothing was lost or counted twice
    Audit(audit::Args),
}

/// Runs the program.
///
/// # Errors
/// A message for the user and the exit code that goes with it.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Start, format!("can't start: {error}")))?;
    let exit = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::run(args).await,
            Command::Send(args) => send::run(args).await,
            Command::Render(args) => render::run(&args),
            Command::Plan(args) => plan::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::DeadLetters(args) => dead_letters::run(args).await,
            Command::Audit(args) => audit::run(args).await,
        }
    });
    // A blocked thread (a download, a name lookup) must not delay the end.
    runtime.shutdown_background();
    exit
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
