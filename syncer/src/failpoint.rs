//! Points at which a test may have the process killed: `SPILLWAY_FAILPOINT=<name>[:<nth>]` kills it with
//! SIGKILL when it passes the point for the nth time (first: 1). Builds without debug assertions have none.

use std::future::Future;

/// Passes a point.
pub(crate) fn failpoint(name: &str) {
    if cfg!(debug_assertions) {
        armed::pass(name);
    }
}

/// Passes a point while `work` is under way: after it was begun, before its result is seen.
pub(crate) async fn during<F: Future>(name: &str, work: F) -> F::Output {
    if cfg!(debug_assertions) && armed::is(name) {
        let mut work = std::pin::pin!(work);
        // Long enough for the request to have been sent.
        let begun = tokio::time::timeout(std::time::Duration::from_millis(30), &mut work).await;
        armed::pass(name);
        return match begun {
            Ok(output) => output,
            Err(_) => work.await,
        };
    }
    work.await
}

mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Point {
        name: String,
        left: AtomicU32,
    }

    fn point() -> Option<&'static Point> {
        static POINT: OnceLock<Option<Point>> = OnceLock::new();
        let read = || {
            let text = std::env::var("SPILLWAY_FAILPOINT").ok()?;
            let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
            Some(Point { name: name.to_owned(), left: AtomicU32::new(nth.parse().ok()?) })
        };
        POINT.get_or_init(read).as_ref()
    }

    pub(super) fn is(name: &str) -> bool {
        point().is_some_and(|point| point.name == name)
    }

    pub(super) fn pass(name: &str) {
        let Some(point) = point() else { return };
        if point.name == name && point.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
