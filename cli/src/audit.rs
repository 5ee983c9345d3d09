//! `spillway audit`: looks at bucket, table, views and pods from outside and checks that the figures fit together.

pub mod judge;
pub mod observe;

use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    log,
    output::{self, Format, Table},
    place::{self, Place, PlaceArgs},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Admin address of an ingest process; may be repeated
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    metrics: Vec<String>,
    /// Rows that were loaded and are no longer in the table are taken for expired, not for lost
    #[arg(long)]
    allow_expired: bool,
    /// Look for doubled rows in the whole table, not only in batches of the last minutes
    #[arg(long)]
    deep: bool,
    /// Write JSON [default: unless on a terminal]
    #[arg(long)]
    json: bool,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub result: Outcome,
    /// The figures.
    pub detail: String,
}

/// How a check came out, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Ok,
    /// Worth a look, but can be harmless.
    Warning,
    /// What it compares could not be seen, so it says nothing. An audit with such a check is not a good one.
    NotLookedAt,
    Failed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// The manifest's `seq` that the totals are of.
    seq: u64,
    good: bool,
    checks: Vec<Check>,
}

/// Runs the command.
///
/// # Errors
/// When something can't be looked at.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    log::start(None, "error");
    place::until_interrupted(work(args)).await
}

async fn work(args: Args) -> Result<Exit, Failure> {
    let format = Format::choose(args.json);
    let place = Place::read(&args.place)?;
    let bucket = place.open_bucket().await?;
    let clickhouse = place.connect()?;
    let look = observe::Look {
        bucket: &bucket,
        clickhouse: &clickhouse,
        settings: &place.clickhouse,
        metrics: &args.metrics,
        deep: args.deep,
    };
    let seen = look.all().await.map_err(|error| Failure::new(Exit::Start, error))?;
    let checks = judge::judge(&seen, args.allow_expired);
    let worst = worst(&checks);
    let report = Report { seq: seen.manifest.seq, good: worst < Outcome::NotLookedAt, checks };
    match format {
        Format::Json => output::json(&report).map_err(|error| Failure::new(Exit::CheckFailed, error))?,
        Format::Human => output::line(&report.text()),
    }
    Ok(match worst {
        Outcome::Ok | Outcome::Warning => Exit::Done,
        Outcome::NotLookedAt => Exit::Start,
        Outcome::Failed => Exit::CheckFailed,
    })
}

fn worst(checks: &[Check]) -> Outcome {
    checks.iter().map(|check| check.result).max().unwrap_or(Outcome::NotLookedAt)
}

impl Report {
    fn text(&self) -> String {
        let mut table = Table::new(&["check", "result", "figures"]);
        for Check { name, result, detail } in &self.checks {
            let result = match result {
                Outcome::Ok => "ok",
                Outcome::Warning => "warning",
                Outcome::NotLookedAt => "not looked at",
                Outcome::Failed => "FAILED",
            };
            table.row([*name, result, detail]);
        }
        let word = match worst(&self.checks) {
            Outcome::Ok | Outcome::Warning => "ok",
            Outcome::NotLookedAt => "INCOMPLETE",
            Outcome::Failed => "FAILED",
        };
        format!("{}\n\naudit: {word} (manifest seq {})", table.render(), self.seq)
    }
}
