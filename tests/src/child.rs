//! Child processes that never outlive the test, even one that is killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A shell that waits for the end of its input, which comes when this process ends in whatever way, and then
/// kills the child and removes its folder. Tests may be killed, and statics are never dropped.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Watches over the process `pid`; `dir` is removed after it, an empty path leaves all as it is.
    pub fn over(pid: u32, dir: &Path) -> Self {
        let script = r#"trap '' INT TERM HUP; cat; kill -9 "$1"; [ -z "$2" ] || { sleep 0.2; rm -rf "$2"; }"#;
        let child = Command::new("sh")
            .args(["-c", script, "guard"])
            .arg(pid.to_string())
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Self(child)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The child was waited for: its id may belong to another process by now.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A port that was free a moment ago, below the range from which the system takes the ports of outgoing
/// connections: one of those would be taken by the next best request before the server starts.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs that run side by side begin at different places.
    let first = std::process::id().wrapping_mul(131);
    loop {
        let step = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(step % 12_000).unwrap_or(0);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The last lines of a log, for a failure's message.
pub fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
