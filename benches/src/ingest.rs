//! Records per CPU-second of the ingest process at saturation: requests in, objects in the bucket, answers out.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use spillway_model::settings::BucketSettings;

use crate::generator::{RECORD_BYTES, USUAL};
use crate::load::{Pace, send};
use crate::report::Figure;
use crate::setup::{Ingest, bodies};
use crate::{cpu, limit};

/// Records of one request: what a shipper sends at once, half a megabyte.
const REQUEST: usize = 1_000;
/// Enough to keep both cores busy through a flush of half a second.
const CONNECTIONS: usize = 128;
const WARM_UP: Duration = Duration::from_secs(3);
const GOAL: f64 = 200_000.0;

/// Measures with durable acknowledgements and every default, into `bucket`.
pub async fn measure(dir: &Path, bucket: BucketSettings, place: &str, duration: Duration) -> Vec<Figure> {
    let bodies = Arc::new(bodies(USUAL, 64, REQUEST));
    let limit = {
        let bodies = Arc::clone(&bodies);
        std::thread::spawn(move || limit::parse_and_gzip(&bodies)).join().expect("the limit is measured")
    };
    let ingest = Ingest::start(dir, bucket, USUAL).await;
    let pace = Pace { connections: CONNECTIONS, rate: None, duration: WARM_UP };
    send(&ingest.url, Arc::clone(&bodies), pace).await;

    let (cpu_before, started) = (cpu::of_process(ingest.pid()), Instant::now());
    let answers = send(&ingest.url, bodies, Pace { duration, ..pace }).await;
    let (cpu, seconds) = (cpu::of_process(ingest.pid()) - cpu_before, started.elapsed().as_secs_f64());

    let records = answers.accepted.load(Ordering::Relaxed) as f64;
    let per_cpu_second = records / cpu.as_secs_f64();
    let figures = vec![
        Figure::new(
            format!("ingest to {place}, {RECORD_BYTES} byte records, durable"),
            per_cpu_second,
            "records/CPU-s",
        )
        .against(limit, "parse + gzip-1 on one core")
        .goal("> 200,000", per_cpu_second > GOAL),
        Figure::new(
            format!("ingest to {place}: beside the load on the same cores"),
            records / seconds,
            "records/s",
        ),
        Figure::new(
            format!("ingest to {place}: requests pushed back"),
            answers.pushed_back.load(Ordering::Relaxed) as f64,
            "requests",
        ),
    ];
    let mut process = ingest.process;
    process.terminate();
    process.wait(Duration::from_secs(60)).await;
    figures
}
