//! How far the loading is, by what lies in the bucket.

use std::time::{Duration, Instant};

use spillway_model::{object::ObjectKey, time::UnixMs};
use spillway_syncer::status::{STATUS_KEY, Status};
use tokio::time::timeout;

use crate::{
    ctx::Ctx,
    lag,
    memory::{Memory, Reading},
};

const READ_LIMIT: Duration = Duration::from_secs(20);

/// Reads what the syncer says of itself, at most once per tick.
pub(crate) async fn read_progress(ctx: &Ctx, memory: &mut Memory) {
    let now = Instant::now();
    // A little less than the tick, which would else miss every second beat.
    let pause = ctx.config.tick.mul_f64(0.8);
    if memory.reading.as_ref().is_some_and(|reading| now.duration_since(reading.at) < pause) {
        return;
    }
    let usable = memory.bucket.as_ref().is_some_and(|attempt| attempt.finding.is_good());
    let Some(open) = memory.opened.as_ref().filter(|_| usable) else { return };
    let read = timeout(READ_LIMIT, open.bucket.get(STATUS_KEY)).await;
    let progress = match read {
        Ok(Ok(Some((bytes, _)))) => serde_json::from_slice::<Status>(&bytes).ok(),
        Ok(Ok(None)) => None,
        // Not known now; what was known stays.
        Ok(Err(_)) | Err(_) => return,
    };
    let progress = progress.map(|status| lag::progress(&status, UnixMs::now()));
    memory.reading = Some(Reading { at: now, progress });
}

/// Whether nothing staged is left. Only what is confirmed in the table is ever deleted, so an empty bucket says
/// that everything is loaded.
pub(crate) async fn nothing_staged(memory: &Memory) -> bool {
    let Some(open) = &memory.opened else { return false };
    let mut after: Option<String> = None;
    loop {
        let Ok(Ok(page)) = timeout(READ_LIMIT, open.bucket.list("", after.as_deref(), 1_000)).await else {
            return false;
        };
        if page.objects.iter().any(|object| ObjectKey::parse(&object.key).is_ok()) {
            return false;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return true,
        }
    }
}
