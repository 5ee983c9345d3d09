//! `spillway dead-letters`: what could not be loaded, and how it gets in after all.

pub mod list;
pub mod replay;
pub mod show;
pub mod store;

use std::path::PathBuf;

use clap::Subcommand;

use crate::{
    exit::{Exit, Failure},
    log,
    output::Format,
    place::{self, Place, PlaceArgs},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: PlaceArgs,
    /// Write JSON [default: unless on a terminal]
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Dead-letter objects with their rows, projects and reasons, oldest first
    List {
        /// Only those of batches made on this day, such as 2026-01-31
        #[arg(long, value_name = "DATE", value_parser = date)]
        date: Option<String>,
        /// At most so many, the newest
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// The rows of one object, each with what was wrong with it
    Show {
        /// Key, as `list` gives it
        key: String,
        /// Only the rows as they were staged, to be repaired and given to `replay --rows`
        #[arg(long)]
        raw: bool,
    },
    /// Stages the rows of objects again, once however often it is called
    Replay {
        /// Keys, as `list` gives them
        #[arg(required = true)]
        keys: Vec<String>,
        /// Repaired rows, one JSON object a line, in place of those of the (one) object
        #[arg(long, value_name = "FILE")]
        rows: Option<PathBuf>,
    },
}

fn date(text: &str) -> Result<String, String> {
    let shape = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if shape { Ok(text.to_owned()) } else { Err("expected a day such as 2026-01-31".to_owned()) }
}

/// Runs the command.
///
/// # Errors
/// When bucket or rows can't be used.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    log::start(None, "error");
    place::until_interrupted(work(args)).await
}

async fn work(args: Args) -> Result<Exit, Failure> {
    let format = Format::choose(args.json);
    let place = Place::read(&args.place)?;
    let bucket = place.open_bucket().await?;
    let done = match args.command {
        Command::List { date, limit } => list::run(&bucket, date.as_deref(), limit, format).await,
        Command::Show { key, raw } => show::run(&bucket, &key, raw, format).await,
        Command::Replay { keys, rows } => {
            if rows.is_some() && keys.len() != 1 {
                return Err(Failure::new(
                    Exit::Usage,
                    "--rows replaces the rows of one object; name exactly one key",
                ));
            }
            let clickhouse = place.connect()?;
            replay::run(&bucket, &clickhouse, &place.table(), &keys, rows.as_deref(), format).await
        }
    };
    done.map_err(|error| Failure::new(error.exit(), error))?;
    Ok(Exit::Done)
}
