//! `spillway-operator --image IMAGE`

use std::process::ExitCode;

use clap::Parser as _;
use spillway_operator::{args::Args, run::run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    run(Args::parse()).await
}
