//! Spillway on the cluster that `KUBECONFIG` names: `make e2e` on a cluster of its own, `make e2e-kind` on kind.
//!
//! Without `SPILLWAY_E2E_IMAGE` every test is skipped: a `KUBECONFIG` alone might be anybody's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code: a failed step is a failed test"
)]

mod autoscaling;
mod deletion;
mod draining;
mod evictions;
mod failover;
mod install;
mod kills;
mod outages;
mod policies;
mod recovery;
mod rollouts;
mod tenants;
mod tls;
mod upgrade;

use std::process::ExitCode;

use libtest_mimic::Trial;
use spillway_e2e::case::Case;
use spillway_e2e::cluster::{Cluster, Images};
use spillway_tests::chosen::Chosen;

/// Each has a dozen pods, and the nodes share this machine.
const SIDE_BY_SIDE: usize = 3;

fn cases() -> Vec<Case> {
    // Those first that take longest, so that none of them is the last, with nothing beside it.
    let all = [
        recovery::cases(),
        outages::cases(),
        deletion::cases(),
        autoscaling::cases(),
        draining::cases(),
        evictions::cases(),
        failover::cases(),
        install::cases(),
        kills::cases(),
        policies::cases(),
        rollouts::cases(),
        tenants::cases(),
        tls::cases(),
        upgrade::cases(),
    ];
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    // While one of them waits for its turn, no other test begins.
    all.sort_by_key(Case::is_alone);
    all
}

fn main() -> ExitCode {
    let chosen = Chosen::from_args(SIDE_BY_SIDE);
    let images = Images::from_env();
    if images.is_none() && !chosen.arguments.list {
        println!("no cluster: `make e2e` starts one (as root on Linux) and runs these tests on it");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let is_skipped = images.is_none();
    let cluster =
        images.filter(|_| !chosen.arguments.list).map(|images| runtime.block_on(Cluster::open(images)));
    let trials = cases().into_iter().filter(|case| chosen.names(&case.name)).map(|case| {
        let (handle, cluster) = (runtime.handle().clone(), cluster.clone());
        let trial = Trial::test(case.name.clone(), move || {
            let cluster = cluster.ok_or("there is no cluster")?;
            handle.block_on(case.show(&cluster)).map_err(libtest_mimic::Failed::from)
        });
        trial.with_ignored_flag(is_skipped)
    });
    libtest_mimic::run(&chosen.arguments, trials.collect()).exit_code()
}
