//! The crash matrix: real processes, killed, paused, lied to and cut off at every step; after each case every
//! record that was acknowledged is in the table once, nothing else is, and the views equal the table.
//!
//! Runs all cases, or those whose name holds one of the arguments. Ends with one line:
//! `crash matrix: cases=N acknowledged=N rows=N missing=0 duplicated=0 views=exact`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code: a failed step is a failed case"
)]

mod answers;
mod by_hand;
mod chaos;
mod contenders;
mod expired_rows;
mod killed_processes;
mod killed_server;
mod loaded_before;
mod lost_state;
mod packed;
mod stores;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use spillway_tests::pipeline::Servers;
use spillway_tests::verdict::Verdict;

type Run = Box<dyn for<'a> FnOnce(&'a mut Servers, &'a str) -> LocalBoxFuture<'a, Verdict>>;

/// One way for things to go wrong.
struct Case {
    name: String,
    run: Run,
}

/// A case from a function of the servers and the case's name.
fn case<F>(name: impl Into<String>, run: F) -> Case
where
    F: for<'a> AsyncFnOnce(&'a mut Servers, &'a str) -> Verdict + 'static,
{
    Case { name: name.into(), run: Box::new(move |servers, name| Box::pin(run(servers, name))) }
}

fn cases() -> Vec<Case> {
    [
        killed_processes::cases(),
        stores::cases(),
        answers::cases(),
        contenders::cases(),
        expired_rows::cases(),
        killed_server::cases(),
        lost_state::cases(),
        by_hand::cases(),
        loaded_before::cases(),
        packed::cases(),
        chaos::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[derive(Default)]
struct Tally {
    cases: usize,
    failed: Vec<String>,
    verdict: Verdict,
}

fn main() -> ExitCode {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let mut cases = cases();
    cases.retain(|case| wanted.is_empty() || wanted.iter().any(|text| case.name.contains(text)));
    if std::env::args().any(|argument| argument == "--list") {
        cases.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    }
    // Cases mostly wait, so two at a time; each lane has servers of its own, which its cases may kill.
    let lanes = std::env::var("CRASH_LANES").ok().and_then(|lanes| lanes.parse().ok()).unwrap_or(2);
    let queue = Mutex::new(VecDeque::from(cases));
    let tally = Mutex::new(Tally::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { join_all((0..lanes).map(|_| lane(&queue, &tally))).await });
    let tally = tally.into_inner().expect("no lane failed");
    for name in &tally.failed {
        println!("FAILED {name}");
    }
    println!("{}", summary(&tally));
    if tally.failed.is_empty() && tally.cases > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(tally: &Tally) -> String {
    let Verdict { acknowledged, rows, missing, duplicated, foreign, views } = &tally.verdict;
    let mut line = format!(
        "crash matrix: cases={} acknowledged={acknowledged} rows={rows} missing={} duplicated={} views={}",
        tally.cases,
        missing.len(),
        duplicated.len(),
        if views.is_empty() { "exact" } else { "wrong" }
    );
    if !foreign.is_empty() {
        line += &format!(" foreign={}", foreign.len());
    }
    if !tally.failed.is_empty() {
        line += &format!(" failed={}", tally.failed.len());
    }
    line
}

async fn lane(queue: &Mutex<VecDeque<Case>>, tally: &Mutex<Tally>) {
    let mut servers = None;
    loop {
        let Some(Case { name, run }) = queue.lock().expect("no lane failed").pop_front() else { return };
        let ready = match &mut servers {
            Some(ready) => ready,
            none => none.insert(Servers::start().await),
        };
        let since = Instant::now();
        let outcome = AssertUnwindSafe(run(ready, &name)).catch_unwind().await;
        let seconds = since.elapsed().as_secs_f32();
        let mut tally = tally.lock().expect("no lane failed");
        tally.cases += 1;
        match outcome {
            Ok(verdict) if verdict.is_exact() && verdict.acknowledged > 0 => {
                println!("ok     {name} ({seconds:.1} s)");
                tally.verdict.add(verdict);
            }
            Ok(verdict) => {
                println!("FAILED {name} ({seconds:.1} s): {verdict}");
                tally.verdict.add(verdict);
                tally.failed.push(name);
            }
            Err(_) => {
                println!("FAILED {name} ({seconds:.1} s): see the message above");
                tally.failed.push(name);
                // Whatever state it left them in.
                servers = None;
            }
        }
    }
}
