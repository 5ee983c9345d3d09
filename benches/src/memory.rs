//! Memory of ingest with 2,000 streams.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use spillway_model::settings::BucketSettings;

use crate::cpu;
use crate::generator::Spread;
use crate::load::{Pace, send};
use crate::report::Figure;
use crate::setup::{Ingest, bodies};

const MANY: Spread = Spread { projects: 20, services: 100 };
const GOAL_BYTES: f64 = 256.0 * 1024.0 * 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// Keeps every stream busy at 20,000 records/s and reads what the process had resident at most.
pub async fn measure(dir: &Path, bucket: BucketSettings, duration: Duration) -> Vec<Figure> {
    // Each request holds two records of each of its project's hundred services.
    let bodies = Arc::new(bodies(MANY, 100, 200));
    let ingest = Ingest::start(dir, bucket, MANY).await;
    let (_, idle) = cpu::resident(ingest.pid());
    let pace = Pace { connections: 200, rate: Some(20_000), duration };
    let answers = send(&ingest.url, bodies, pace).await;
    let (peak, _) = cpu::resident(ingest.pid());
    vec![
        Figure::new("memory of ingest with 2,000 busy streams, at most", peak as f64 / MIB, "MiB")
            .against(GOAL_BYTES / MIB, "the goal")
            .goal("< 256 MiB", (peak as f64) < GOAL_BYTES),
        Figure::new("memory of ingest before the first request", idle as f64 / MIB, "MiB"),
        Figure::new(
            "records of 2,000 streams acknowledged",
            answers.accepted.load(Ordering::Relaxed) as f64 / duration.as_secs_f64(),
            "records/s",
        ),
    ]
}
