//! How far the loading is, by what lies in the bucket.

use std::time::{Duration, Instant};

use spillway_model::{
    object::{KeyError, ObjectKey},
    time::UnixMs,
};
use spillway_syncer::status::{STATUS_KEY, Status};
use tokio::time::timeout;

use crate::{
    ctx::Ctx,
    lag::{self, Trouble},
    memory::{Attempt, Memory, Reading, next_look},
};

const READ_LIMIT: Duration = Duration::from_secs(5);

/// Reads what the syncer says of itself, at most once per tick, or more often while the pipeline isn't Ready. `rests`: no
/// syncer is to run, so that what it said last speaks of nothing any more.
pub(crate) async fn read_progress(ctx: &Ctx, memory: &mut Memory, rests: bool) {
    let now = Instant::now();
    // A little less than the tick, which would else miss every second beat.
    let tick =
        memory.unready_since.map_or(ctx.config.tick, |since| next_look(since.elapsed(), ctx.config.tick));
    let pause = tick.mul_f64(0.8);
    if memory.reading.as_ref().is_some_and(|reading| now.duration_since(reading.at) < pause) {
        return;
    }
    let usable = memory.outside.bucket.as_ref().is_some_and(|attempt| attempt.finding.is_good());
    let Some(open) = memory.outside.opened.as_ref().filter(|_| usable) else { return };
    // Next time, when fewer wait.
    let Ok(_seat) = ctx.waiting.try_acquire() else { return };
    let read = timeout(READ_LIMIT, open.bucket.get(STATUS_KEY)).await;
    let known = memory.reading.take().and_then(|reading| reading.progress);
    let progress = match read {
        Ok(Ok(Some((bytes, _)))) => {
            serde_json::from_slice::<Status>(&bytes).ok().map(|status| lag::progress(&status, UnixMs::now()))
        }
        // It was there before, or soon will be: is the rest of the bucket?
        Ok(Ok(None)) => {
            if !rests {
                doubt(memory.outside.manifest.as_mut(), now);
            }
            None
        }
        // Not known now; what was known stays, and a bucket that hangs is not asked at once again. Its condition
        // should say so before the resync does.
        Ok(Err(_)) | Err(_) => {
            doubt(memory.outside.bucket.as_mut(), now);
            doubt(memory.outside.manifest.as_mut(), now);
            known
        }
    };
    let progress = progress.filter(|progress| !rests && lag::is_of_now(progress, memory.idle_for(now)));
    // Is there a server at all?
    if progress.as_ref().is_some_and(|progress| progress.held_up) {
        doubt(memory.outside.schema.as_mut(), now);
    }
    // The syncer says so and waits; what is to be done about it is in the bucket's condition.
    let trouble = progress.as_ref().and_then(|progress| progress.trouble.as_ref());
    if trouble.is_some_and(Trouble::is_lost_manifest) {
        doubt(memory.outside.manifest.as_mut(), now);
    }
    memory.reading = Some(Reading { at: now, progress });
}

/// A look costs some requests, so once a minute is enough.
fn doubt(attempt: Option<&mut Attempt>, now: Instant) {
    if let Some(attempt) = attempt {
        attempt.doubt(now, Duration::from_secs(50));
    }
}

/// What a newer version wrote is records, too.
fn is_staged(key: &str) -> bool {
    matches!(ObjectKey::parse(key), Ok(_) | Err(KeyError::Version { .. }))
}

/// What is staged, as far as the first page with any of it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) objects: u64,
    /// There may be more of them.
    pub(crate) at_least: bool,
}

/// What staged is left. Only what is confirmed in the table is ever deleted, so an empty bucket says that everything is
/// loaded. `None`: not known now.
pub(crate) async fn staged(ctx: &Ctx, memory: &Memory) -> Option<Staged> {
    let open = memory.outside.opened.as_ref()?;
    let _seat = ctx.waiting.try_acquire().ok()?;
    let mut after: Option<String> = None;
    loop {
        let page = timeout(READ_LIMIT, open.bucket.list("", after.as_deref(), 1_000)).await.ok()?.ok()?;
        let objects = page.objects.iter().filter(|object| is_staged(&object.key)).count() as u64;
        if objects > 0 || page.next.is_none() {
            return Some(Staged { objects, at_least: page.next.is_some() });
        }
        after = page.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_newer_version_are_staged_records() {
        let file =
            |version| format!("shop/api/20260131T235959042Z-a-0000000007-v{version}-100-54300.json.gz");
        for (key, staged) in [
            (file(1), true),
            (file(9), true),
            ("_spillway/manifest.json".to_owned(), false),
            ("readme.txt".to_owned(), false),
        ] {
            assert_eq!(is_staged(&key), staged, "{key}");
        }
    }
}
