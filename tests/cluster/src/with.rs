//! Commands inside the first node's network, and a cluster for as long as one of them runs.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::net::{self, NODES};
use crate::{State, down, lock};

/// How long a command may go on after it was told to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command in the first node's network, with the cluster's kubeconfig.
///
/// # Errors
/// When it is empty.
pub fn inside(state: &State, command: &[OsString]) -> Result<Command> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut command = net::enter(NODES[0], program);
    command.args(arguments);
    command.env("KUBECONFIG", state.kubeconfig()).env("SPILLWAY_CLUSTER_DIR", state.dir());
    Ok(command)
}

/// Brings the cluster up with `start`, runs the command and takes the cluster down whatever happened. The result is the
/// command's exit code, or 128 and the signal's number if one ended it.
///
/// SIGINT and SIGTERM to this process go to the command and its children.
///
/// # Errors
/// When the cluster did not come up or the command could not be started.
pub fn with(
    state: &State,
    command: &[OsString],
    start: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut starting = tokio::task::spawn_blocking(move || {
            let _lock = lock::take(Duration::ZERO)?;
            start()
        });
        tokio::select! {
            started = &mut starting => started??,
            signal = signals.next() => {
                // What is coming up finds that the rest is gone, and gives up.
                down(state).ok();
                starting.await?.ok();
                return Ok(code(ExitStatus::from_raw(signal.as_raw())));
            }
        }
        run(inside(state, command)?, signals).await
    });
    let _lock = lock::take(PATIENCE)?;
    // What it came up with after it had been taken down.
    down(&State::open(state.dir())?)?;
    ended
}

/// Runs a command in a process group of its own, which gets every signal that this process gets.
async fn run(mut command: Command, mut signals: Signals) -> Result<u8> {
    use std::os::unix::process::CommandExt as _;
    command.process_group(0);
    let mut child = tokio::process::Command::from(command).spawn().context("the command can't be started")?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the command has no id")?;
    let mut deadline = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = signals.next() => {
                kill_process_group(group, signal).ok();
                deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                kill_process_group(group, Signal::KILL).ok();
                deadline = None;
            }
        }
    };
    // Whatever it left behind would find no cluster.
    kill_process_group(group, Signal::KILL).ok();
    Ok(code(status))
}

/// As a shell has it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_passed_on_and_a_signal_has_a_code_of_its_own() {
        for (raw, expected) in [(0, 0), (3 << 8, 3), (15, 143), (9, 137)] {
            assert_eq!(code(ExitStatus::from_raw(raw)), expected, "{raw}");
        }
    }

    #[tokio::test]
    async fn a_command_and_its_children_end_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $! > \"$0\"; exit 7"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        command.arg(file.path());
        assert_eq!(run(command, Signals::listen().unwrap()).await.unwrap(), 7);
        let pid: u32 = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        let since = std::time::Instant::now();
        while crate::record::start_time(pid).is_some() {
            assert!(since.elapsed() < Duration::from_secs(10), "the child of the command still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
