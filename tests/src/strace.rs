//! Kills a server at an exact point inside an insert, by strace's fault injection.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::wait::until;

/// Stands over a running process until dropped.
pub struct KillAtRename(Child);

impl KillAtRename {
    /// Kills `pid` (SIGKILL) when one of its threads enters its `nth` `rename`, before that has an effect.
    /// ClickHouse renames once for each new part: the table's first, then each view's.
    pub async fn attach(pid: u32, nth: u32) -> Self {
        let strace = Command::new("strace")
            .args(["-f", "-q", "-o", "/dev/null", "-e", "trace=rename", "-e"])
            .arg(format!("inject=rename:signal=KILL:when={nth}"))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts: install it (Debian: apt install strace)");
        let traced = Self(strace);
        until("strace to hold every thread", Duration::from_secs(20), async || is_traced(pid).then_some(()))
            .await;
        traced
    }
}

impl Drop for KillAtRename {
    fn drop(&mut self) {
        // Killed rather than asked: it lets go of what it traces either way.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn is_traced(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        std::fs::read_to_string(thread.path().join("status")).is_ok_and(|status| {
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        })
    })
}
