//! Logs go to stderr: text for people, JSON for everybody else. `SPILLWAY_LOG` chooses what.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts logging; JSON unless asked otherwise or on a terminal.
pub fn start(format: Option<LogFormat>, default_filter: &str) {
    let filter = EnvFilter::try_from_env("SPILLWAY_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Fails only if a test has started logging already.
    let _ = match format {
        LogFormat::Text => logs.with_ansi(terminal).with_target(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
}
