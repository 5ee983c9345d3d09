//! `spillway audit`: looks at bucket, table, views and pods from outside and checks that the figures fit together.

pub mod judge;
pub mod observe;

use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    log,
    output::{self, Format, Table},
    place::{Place, PlaceArgs},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Admin address of an ingest process; may be repeated
    #[arg(long, value_name = "URL")]
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

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// Worth a look, but can be harmless.
    Warning,
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
    let good = checks.iter().all(|check| check.result != Outcome::Failed);
    let report = Report { seq: seen.manifest.seq, good, checks };
    match format {
        Format::Json => output::json(&report).map_err(|error| Failure::new(Exit::CheckFailed, error))?,
        Format::Human => output::line(&report.text()),
    }
    Ok(if good { Exit::Done } else { Exit::CheckFailed })
}

impl Report {
    fn text(&self) -> String {
        let mut table = Table::new(&["check", "result", "figures"]);
        for Check { name, result, detail } in &self.checks {
            let result = match result {
                Outcome::Ok => "ok",
                Outcome::Warning => "warning",
                Outcome::Failed => "FAILED",
            };
            table.row([*name, result, detail]);
        }
        let word = if self.good { "ok" } else { "FAILED" };
        format!("{}\n\naudit: {word} (manifest seq {})", table.render(), self.seq)
    }
}
