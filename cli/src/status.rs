//! `spillway status`: what waits, how long, how fast it goes, and what went wrong last.

use serde::Serialize;
use spillway_bucket::Bucket;
use spillway_model::UnixMs;
use spillway_syncer::status::{STATUS_KEY, Status};

use crate::{
    exit::{Exit, Failure},
    log,
    metrics::{self, Sample},
    output::{self, Format, Table},
    place::{self, Place, PlaceArgs},
};

/// A syncer writes its status every 10 s by default.
const STALE_SECONDS: f64 = 60.0;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Admin address of an ingest process; may be repeated
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    metrics: Vec<String>,
    /// Write JSON [default: unless on a terminal]
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Seconds since the syncer wrote its status.
    age_seconds: f64,
    /// No syncer has written for a minute: what it says is old.
    stale: bool,
    syncer: Status,
    ingest: Vec<Ingest>,
}

/// What an ingest process says of itself.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ingest {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    received_records: u64,
    rejected_records: u64,
    staged_records: u64,
    buffered_records: u64,
    lost_records: u64,
}

/// Runs the command.
///
/// # Errors
/// When there is no status to show.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    log::start(None, "error");
    place::until_interrupted(work(args)).await
}

async fn work(args: Args) -> Result<Exit, Failure> {
    let format = Format::choose(args.json);
    let place = Place::read(&args.place)?;
    let bucket = place.open_bucket().await?;
    let syncer = read(&bucket).await?;
    let age_seconds = (UnixMs::now().0 - syncer.at) as f64 / 1000.0;
    let mut ingest = Vec::new();
    for url in &args.metrics {
        ingest.push(Ingest::ask(url).await);
    }
    let report = Report { age_seconds, stale: age_seconds > STALE_SECONDS, syncer, ingest };
    match format {
        Format::Json => output::json(&report).map_err(|error| Failure::new(Exit::CheckFailed, error))?,
        Format::Human => output::line(&report.text()),
    }
    Ok(Exit::Done)
}

async fn read(bucket: &Bucket) -> Result<Status, Failure> {
    let start = |message: String| Failure::new(Exit::Start, message);
    let found = bucket.get(STATUS_KEY).await.map_err(|error| start(error.to_string()))?;
    let Some((body, _)) = found else {
        return Err(start(format!(
            "there is no {STATUS_KEY} in {}: no syncer has run on it yet; check --file and --data",
            bucket.describe()
        )));
    };
    serde_json::from_slice(&body).map_err(|error| start(format!("{STATUS_KEY} can't be read: {error}")))
}

impl Ingest {
    async fn ask(url: &str) -> Self {
        let (samples, error) = match metrics::fetch(url).await {
            Ok(scrape) => (scrape.samples, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let sum = |name: &str| sum(&samples, name);
        Self {
            url: url.to_owned(),
            error,
            received_records: sum("spillway_ingest_received_records_total"),
            rejected_records: sum("spillway_ingest_rejected_records_total"),
            staged_records: sum("spillway_ingest_staged_records_total"),
            buffered_records: sum("spillway_ingest_buffered_records")
                + sum("spillway_ingest_in_flight_records"),
            lost_records: sum("spillway_ingest_lost_records_total"),
        }
    }
}

fn sum(samples: &[Sample], name: &str) -> u64 {
    metrics::sum(samples, name, &[]) as u64
}

impl Report {
    fn text(&self) -> String {
        let Status {
            holder,
            epoch,
            backlog_objects,
            backlog_records,
            backlog_bytes,
            in_flight_records,
            open_batches,
            lag_seconds,
            loaded_per_second,
            stuck,
            server_at_fault,
            manifest_lost,
            last_error,
            totals,
            ..
        } = &self.syncer;
        let count = output::count;
        let mut lines = vec![
            format!("syncer     {holder}, epoch {epoch}, said {:.0} s ago", self.age_seconds),
            format!(
                "backlog    {} objects, {} records, {}",
                count(*backlog_objects),
                count(*backlog_records),
                output::bytes(*backlog_bytes)
            ),
            format!("in flight  {} records in {} batches", count(*in_flight_records), count(*open_batches)),
            format!("lag        {lag_seconds:.1} s"),
            format!("loading    {} records/s", count(*loaded_per_second as u64)),
        ];
        if self.stale {
            lines.push("warning    the status is old: no syncer seems to run".to_owned());
        }
        if *manifest_lost {
            lines.push(
                "warning    the manifest is lost, and nothing is loaded: see docs/recovery.md".to_owned(),
            );
        }
        if *server_at_fault {
            lines.push(
                "warning    ClickHouse refuses every batch: rows are held back until it takes one".to_owned(),
            );
        }
        for (batch, reason) in stuck {
            lines.push(format!("stuck      batch {batch}: {reason}"));
        }
        if let Some(error) = last_error {
            lines.push(format!("last error {} ({}): {}", error.step, error.reason, error.message));
        }
        for ingest in &self.ingest {
            lines.push(match &ingest.error {
                Some(error) => format!("ingest     {error}"),
                None => format!(
                    "ingest     {}: received {}, rejected {}, staged {}, buffered {}, lost {}",
                    ingest.url,
                    count(ingest.received_records),
                    count(ingest.rejected_records),
                    count(ingest.staged_records),
                    count(ingest.buffered_records),
                    count(ingest.lost_records)
                ),
            });
        }
        if !totals.is_empty() {
            let mut table = Table::new(&["project", ">loaded", ">dead letters"]);
            for (project, totals) in totals {
                table.row([project.clone(), count(totals.loaded), count(totals.dead_lettered)]);
            }
            lines.push(format!("\n{}", table.render()));
        }
        lines.join("\n")
    }
}
