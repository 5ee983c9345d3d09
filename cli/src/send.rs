//! `spillway send`: generated logs at a rate, and the proof that each is in ClickHouse once.

pub mod answer;
pub mod generator;
pub mod keys;
pub mod patience;
pub mod producer;
pub mod record_set;
pub mod verdict;

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{IsTerminal, stderr},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use spillway_model::{
    ProjectId, ServiceName,
    settings::{ClickHouseSettings, Span},
};
use spillway_schema::ClickHouse;
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    generator::{Load, Producer},
    patience::{Next, Patience},
    producer::{Outcome, Pace, Progress, Target},
    verdict::Verdict,
};
use crate::{
    exit::{Exit, Failure},
    log,
    output::{self, Format},
    place,
    up::signals::Signals,
};

/// How long after everything is there it is looked once more whether something is there twice. A second insert of the
/// same rows follows the first within a retry's pause.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct Args {
    /// Where to send to
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// Certificates of authorities to trust beside those of this machine, in PEM, for an https:// URL
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Take projects, API keys and the table's name from this manifest file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// API key, or PROJECT=KEY; may be repeated
    #[arg(long, env = "SPILLWAY_KEY", hide_env_values = true, value_delimiter = ',', value_name = "KEY")]
    key: Vec<String>,
    /// Projects to send for [default: those of FILE]
    #[arg(long, value_delimiter = ',')]
    projects: Vec<String>,
    /// Services of each project
    #[arg(long, value_delimiter = ',', default_value = "checkout,catalog,accounts")]
    services: Vec<String>,
    /// Producers of each project, sending side by side
    #[arg(long, default_value_t = 2)]
    producers: u32,
    /// Requests that each producer may have under way at once
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
    /// Records in all
    #[arg(long, default_value_t = 10_000, conflicts_with = "duration")]
    records: u64,
    /// Send for this long instead, such as 30s or 5m
    #[arg(long)]
    duration: Option<Span>,
    /// Records per second over all producers [default: as fast as they are answered]
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Records per request
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Bytes of each message [default: as they come, for rows of about 540 bytes]
    #[arg(long)]
    size: Option<usize>,
    /// What an acknowledgement shall promise [default: what the pipeline says]
    #[arg(long)]
    ack: Option<AckArg>,
    /// ClickHouse to ask for the verdict [default: that of FILE, or http://127.0.0.1:8123]
    #[arg(long, value_name = "URL")]
    clickhouse: Option<String>,
    /// Database and table to look in [default: spillway.logs, or those of FILE]
    #[arg(long, value_name = "DATABASE.TABLE")]
    table: Option<String>,
    /// Don't ask ClickHouse
    #[arg(long)]
    no_verdict: bool,
    /// Records that are in the table only this long after the last acknowledgement are late
    #[arg(long, default_value = "10s", value_name = "TIME")]
    late: Span,
    /// Records that are not in the table this long after the last acknowledgement are missing
    #[arg(long, default_value = "60s", value_name = "TIME")]
    patience: Span,
    /// How long it may go on that nothing is taken
    #[arg(long, default_value = "60s", value_name = "TIME")]
    give_up: Span,
    /// Makes the same records again
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the result as JSON [default: unless on a terminal]
    #[arg(long)]
    json: bool,
}

/// Anything slower than a record in a quarter of an hour is a mistake.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.001..=1e12).contains(&rate) {
        Ok(rate)
    } else {
        Err("expected at least 0.001 records per second".to_owned())
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum AckArg {
    Durable,
    Memory,
}

impl AckArg {
    fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Memory => "memory",
        }
    }
}

/// What is written as JSON.
#[derive(Serialize)]
struct Report {
    run: String,
    seconds: f64,
    records_per_second: f64,
    /// Milliseconds from sending a request to its acknowledgement.
    ack_ms: Quantiles,
    errors: Vec<String>,
    /// Why the fate of records is unknown, and of how many.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unclear: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
}

/// Runs the command.
///
/// # Errors
/// When it can't begin, or when ClickHouse can't be asked at the end.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    log::start(None, "warn");
    let stop = CancellationToken::new();
    tokio::select! {
        done = work(&args, stop.clone()) => done,
        failure = interrupted(&stop) => Err(failure),
    }
}

/// The first signal stops the sending, and what was sent is judged; the second one ends it at once.
async fn interrupted(stop: &CancellationToken) -> Failure {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return Failure::new(Exit::Start, error),
    };
    signals.next().await;
    output::note("stopping, then judging what was sent; a second signal ends it at once");
    stop.cancel();
    signals.next().await;
    Failure::new(Exit::Forced, "ended by a second signal: what was sent is not judged")
}

async fn work(args: &Args, stop: CancellationToken) -> Result<Exit, Failure> {
    let format = Format::choose(args.json);
    let plan = Plan::make(args)?;
    let client = client(args.ca_file.as_deref())?;
    let started = Instant::now();
    let outcomes = send(args, &plan, client, stop).await;
    let seconds = started.elapsed().as_secs_f64();
    let verdict = if args.no_verdict { None } else { Some(await_verdict(args, &plan, &outcomes).await?) };
    let report = Report::new(&plan.run, seconds, &outcomes, verdict);
    report.show(format)?;
    let good = report.errors.is_empty() && report.verdict.as_ref().is_none_or(Verdict::is_good);
    Ok(if good { Exit::Done } else { Exit::CheckFailed })
}

/// What is sent and where it is looked for.
struct Plan {
    run: String,
    projects: Vec<ProjectId>,
    services: Vec<ServiceName>,
    keys: BTreeMap<String, String>,
    clickhouse: ClickHouseSettings,
    table: String,
    /// Holds ClickHouse's credentials.
    _files: Option<TempDir>,
}

impl Plan {
    fn make(args: &Args) -> Result<Self, Failure> {
        let usage = |message: String| Failure::new(Exit::Usage, message);
        let (mut keys, mut projects) = (BTreeMap::new(), args.projects.clone());
        let (mut clickhouse, mut files) = (ClickHouseSettings::default(), None);
        if let Some(file) = &args.file {
            let (pipeline, secrets) = place::read_pipeline(file)?;
            keys = keys::from_pipeline(&pipeline, &secrets);
            if projects.is_empty() {
                projects = keys.keys().cloned().collect();
            }
            if !args.no_verdict {
                let (settings, folder) = place::clickhouse(&pipeline, &secrets, &clickhouse.url)?;
                (clickhouse, files) = (settings, Some(folder));
            }
        }
        if let Some(url) = &args.clickhouse {
            clickhouse.url.clone_from(url);
        }
        keys.extend(keys::from_arguments(&args.key, &projects));
        if projects.is_empty() {
            return Err(usage(
                "there is nothing to send for; name --projects and --key, or a manifest with --file".into(),
            ));
        }
        if let Some(project) = projects.iter().find(|project| !keys.contains_key(*project)) {
            return Err(usage(format!(
                "there is no API key for project {project:?}; give one with --key {project}=KEY"
            )));
        }
        let table =
            args.table.clone().unwrap_or_else(|| format!("{}.{}", clickhouse.database, clickhouse.table));
        let names = |what: &str, text: &String, error| usage(format!("{what} {text:?} {error}"));
        Ok(Self {
            run: format!("{:08x}", rand::random::<u32>()),
            projects: projects
                .iter()
                .map(|text| ProjectId::parse(text).map_err(|error| names("project", text, error)))
                .collect::<Result<_, _>>()?,
            services: args
                .services
                .iter()
                .map(|text| ServiceName::parse(text).map_err(|error| names("service", text, error)))
                .collect::<Result<_, _>>()?,
            keys,
            clickhouse,
            table,
            _files: files,
        })
    }
}

fn client(ca_file: Option<&Path>) -> Result<reqwest::Client, Failure> {
    let mut builder = reqwest::Client::builder().timeout(Duration::from_secs(60));
    if let Some(file) = ca_file {
        let usage =
            |error: &dyn Display| Failure::new(Exit::Usage, format!("--ca-file {}: {error}", file.display()));
        let pem = std::fs::read(file).map_err(|error| usage(&error))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| usage(&error))?;
        if authorities.is_empty() {
            return Err(usage(&"it holds no certificate in PEM"));
        }
        builder = builder.tls_certs_merge(authorities);
    }
    builder.build().map_err(|error| Failure::new(Exit::Start, error))
}

/// Runs all producers to their end.
async fn send(args: &Args, plan: &Plan, client: reqwest::Client, stop: CancellationToken) -> Vec<Outcome> {
    let progress = Arc::new(Progress::default());
    let all = plan.projects.len() as u64 * u64::from(args.producers.max(1));
    let until = args.duration.map(|span| Instant::now() + span.get());
    let mut tasks = Vec::new();
    for project in &plan.projects {
        let load = Arc::new(Load {
            run: plan.run.clone(),
            project: project.clone(),
            services: plan.services.clone(),
            message_bytes: args.size,
        });
        let target = Target {
            client: client.clone(),
            url: format!("{}/v1/drain", args.url.trim_end_matches('/')),
            key: plan.keys.get(project.as_str()).cloned().unwrap_or_default(),
            ack: args.ack.map(AckArg::name),
        };
        for number in 0..args.producers.max(1) {
            let index = tasks.len() as u64;
            let pace = Pace {
                batch: args.batch.max(1),
                // The first ones send one record more when it does not come out even.
                records: until
                    .is_none()
                    .then_some(args.records / all + u64::from(index < args.records % all)),
                until,
                in_flight: args.in_flight.max(1),
                rate: args.rate.map(|rate| rate / all as f64),
                give_up: args.give_up.get(),
            };
            let producer = Producer::new(Arc::clone(&load), number, args.seed);
            let work = producer::run(producer, target.clone(), pace, Arc::clone(&progress), stop.clone());
            tasks.push(tokio::spawn(work));
        }
    }
    let bar = bar(until.is_none().then_some(args.records));
    let watch = tokio::spawn(show_progress(bar.clone(), Arc::clone(&progress)));
    let outcomes = collect(tasks).await;
    watch.abort();
    bar.finish_and_clear();
    outcomes
}

async fn collect(tasks: Vec<JoinHandle<Outcome>>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap_or_else(Outcome::lost));
    }
    outcomes
}

fn bar(records: Option<u64>) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match records {
        Some(records) => (
            ProgressBar::new(records),
            "{bar:40} {human_pos}/{human_len} acknowledged  {per_sec}  eta {eta}  {msg}",
        ),
        None => {
            (ProgressBar::new_spinner(), "{spinner} {human_pos} acknowledged  {per_sec}  {elapsed}  {msg}")
        }
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

async fn show_progress(bar: ProgressBar, progress: Arc<Progress>) {
    loop {
        bar.set_position(progress.acknowledged.load(Ordering::Relaxed));
        let (busy, unclear) =
            (progress.busy.load(Ordering::Relaxed), progress.unclear.load(Ordering::Relaxed));
        if busy + unclear > 0 {
            bar.set_message(format!("turned away {busy} times, unclear {unclear}"));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Asks until everything is there and stays so, and at most for `--patience`.
async fn await_verdict(args: &Args, plan: &Plan, outcomes: &[Outcome]) -> Result<Verdict, Failure> {
    let failed = |error| Failure::new(Exit::CheckFailed, format!("there is no verdict: {error}"));
    let client = ClickHouse::connect(&plan.clickhouse).map_err(failed)?;
    let sent: Vec<_> = outcomes.iter().map(|outcome| outcome.sent.clone()).collect();
    let last = outcomes.iter().filter_map(|outcome| outcome.last_acknowledged).max();
    let last = last.unwrap_or_else(Instant::now);
    let mut patience = Patience::new(args.late.get(), args.patience.get(), SETTLE);
    loop {
        let began = last.elapsed();
        let judged = verdict::judge(&client, &plan.table, &plan.run, &sent).await;
        let missing = judged.as_ref().ok().map(|verdict| verdict.missing);
        match patience.after(began, last.elapsed(), missing) {
            // Not loaded yet, or ClickHouse is away for the moment.
            Next::LookAgainIn(pause) => sleep(pause).await,
            Next::Enough { late } => return Ok(Verdict { late, ..judged.map_err(failed)? }),
        }
    }
}

impl Report {
    fn new(run: &str, seconds: f64, outcomes: &[Outcome], verdict: Option<Verdict>) -> Self {
        let acknowledged: u64 = outcomes.iter().map(|outcome| outcome.sent.acknowledged_total()).sum();
        let mut latencies: Vec<f64> =
            outcomes.iter().flat_map(|outcome| outcome.latencies.iter().copied()).collect();
        latencies.sort_by(f64::total_cmp);
        let mut errors: Vec<String> =
            outcomes.iter().filter_map(|outcome| outcome.error.as_ref()).map(ToString::to_string).collect();
        let sent: u64 = outcomes.iter().map(|outcome| outcome.sent.count).sum();
        let mut unclear = BTreeMap::new();
        for (why, records) in outcomes.iter().flat_map(|outcome| &outcome.unclear) {
            *unclear.entry(why.clone()).or_default() += records;
        }
        if acknowledged == 0 && sent > 0 {
            errors.push(format!("none of {} records was acknowledged", output::count(sent)));
        }
        Self {
            run: run.to_owned(),
            seconds,
            records_per_second: acknowledged as f64 / seconds.max(1e-9),
            ack_ms: Quantiles::of(&latencies),
            errors,
            unclear,
            verdict,
        }
    }

    fn show(&self, format: Format) -> Result<(), Failure> {
        for error in &self.errors {
            output::note(&format!("error: {error}"));
        }
        for (why, records) in &self.unclear {
            output::note(&format!("unclear what became of {} records: {why}", output::count(*records)));
        }
        let line = self.verdict.as_ref().map(Verdict::line);
        if format == Format::Json {
            if let Some(line) = &line {
                output::note(line);
            }
            return output::json(self).map_err(|error| Failure::new(Exit::CheckFailed, error));
        }
        let Self { run, seconds, records_per_second, ack_ms, .. } = self;
        output::line(&format!(
            "run {run}: {seconds:.1} s, {} records/s, acknowledged after p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
            output::count(*records_per_second as u64),
            ack_ms.p50,
            ack_ms.p99,
            ack_ms.max
        ));
        for example in self.verdict.iter().flat_map(|verdict| &verdict.examples) {
            output::line(&format!("  {example}"));
        }
        if let Some(line) = line {
            output::line(&line);
        }
        Ok(())
    }
}

impl Quantiles {
    /// Of sorted numbers; 0 when there are none.
    fn of(sorted: &[f64]) -> Self {
        let at = |part: f64| {
            let last = sorted.len().saturating_sub(1);
            sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(0.0)
        };
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_producer_that_broke_off_is_an_error() {
        let broken = tokio::spawn(async { panic!("for the test") });
        let outcomes = collect(vec![broken]).await;
        let report = Report::new("run", 1.0, &outcomes, None);
        assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
    }

    #[test]
    fn sending_without_a_single_acknowledgement_is_an_error() {
        let mut outcome = Outcome::new("p".into());
        outcome.sent.unclear(0);
        assert_eq!(Report::new("run", 1.0, &[outcome], None).errors, ["none of 1 records was acknowledged"]);
        assert!(Report::new("run", 1.0, &[Outcome::new("p".into())], None).errors.is_empty());
    }

    #[test]
    fn a_rate_at_which_nothing_is_ever_sent_is_refused() {
        for text in ["0", "-1", "NaN", "inf", "1e-300", "fast"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(rate("0.5"), Ok(0.5));
    }
}
