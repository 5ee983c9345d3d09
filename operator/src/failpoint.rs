//! Points at which a test may have the process killed: `SPILLWAY_FAILPOINT=<name>[:<nth>]` kills it with
//! SIGKILL when it passes the point for the nth time (first: 1). Builds without debug assertions have none.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

struct Point {
    name: String,
    left: AtomicU32,
}

/// Passes a point. They are named in docs/operator.md.
pub(crate) fn failpoint(name: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    static POINT: OnceLock<Option<Point>> = OnceLock::new();
    let read = || {
        let text = std::env::var("SPILLWAY_FAILPOINT").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Point { name: name.to_owned(), left: AtomicU32::new(nth.parse().ok()?) })
    };
    let Some(point) = POINT.get_or_init(read) else { return };
    if point.name == name && point.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
