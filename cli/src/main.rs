//! `spillway`: runs a pipeline on this machine, sends to it, looks into it.

use std::process::ExitCode;

use clap::Parser;
use spillway_cli::{Cli, output};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Another provider is in the tree as well, and rustls does not choose.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    match spillway_cli::run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::note(&format!("error: {failure}"));
            failure.exit.into()
        }
    }
}
