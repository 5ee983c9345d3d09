//! `spillway-ingest --settings FILE --tenants FILE`

use std::process::ExitCode;

use clap::Parser as _;
use spillway_ingest::process::{Arguments, run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    run(Arguments::parse()).await
}
