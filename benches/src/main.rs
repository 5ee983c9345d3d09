//! `make bench`: every benchmark, or those named.

#![allow(clippy::print_stderr, reason = "progress goes to the terminal, the table to stdout")]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use spillway_benches::{encodings, ingest, latency, memory, operator, report, setup, syncer};
use spillway_model::settings::BucketSettings;
use spillway_tests::minio::Minio;

/// Measures each figure beside a limit of the same machine.
#[derive(Parser)]
struct Arguments {
    /// Which; all but `operator` if none
    only: Vec<Which>,
    /// Seconds of load in each
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// LogPipelines that the operator gets
    #[arg(long, default_value_t = 500)]
    pipelines: usize,
    /// Where the JSON goes
    #[arg(long, default_value = "target/bench.json")]
    output: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Records per CPU-second of ingest, into a directory and into MinIO
    Ingest,
    /// Staged objects into the table, beside ClickHouse's own reading of them
    Syncer,
    /// Server cost of an insert by format
    Encodings,
    /// Receipt to queryable
    Latency,
    /// Ingest with 2,000 streams
    Memory,
    /// The operator on a control plane of its own; takes many minutes, and only where it is named
    Operator,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let wanted = |which: Which| arguments.only.is_empty() || arguments.only.contains(&which);
    let seconds = Duration::from_secs(arguments.seconds);
    let dir = tempfile::Builder::new().prefix("spillway-bench-").tempdir()?;
    let minio = tokio::task::spawn_blocking(Minio::start).await?;
    let mut figures = Vec::new();

    // What this stages is what the syncer and the formats are measured with.
    let staged = dir.path().join("bucket");
    if wanted(Which::Ingest) || wanted(Which::Syncer) || wanted(Which::Encodings) {
        eprintln!("ingest into a directory");
        figures.extend(
            ingest::measure(dir.path(), BucketSettings::directory(&staged), "a directory", seconds).await,
        );
    }
    if wanted(Which::Ingest) {
        eprintln!("ingest into MinIO");
        let bucket = setup::minio_bucket(&minio, "ingest");
        figures.extend(ingest::measure(dir.path(), bucket, "MinIO", seconds).await);
    }
    if wanted(Which::Memory) {
        eprintln!("memory with 2,000 streams");
        let bucket = setup::minio_bucket(&minio, "memory");
        figures.extend(memory::measure(dir.path(), bucket, seconds * 2).await);
    }
    if wanted(Which::Encodings) {
        eprintln!("formats of an insert");
        figures.extend(encodings::measure(&staged).await);
    }
    if wanted(Which::Latency) {
        eprintln!("receipt to queryable");
        let bucket = setup::minio_bucket(&minio, "latency");
        figures.extend(latency::measure(dir.path(), bucket, "MinIO", seconds * 3).await);
    }
    // Last: it deletes what was staged.
    if wanted(Which::Syncer) {
        eprintln!("staged objects into the table");
        figures.extend(syncer::measure(dir.path(), &staged).await);
    }
    if arguments.only.contains(&Which::Operator) {
        eprintln!("the operator with {} pipelines", arguments.pipelines);
        figures.extend(operator::measure(arguments.pipelines).await);
    }
    report::publish(&figures, &arguments.output)
}
