//! The operator against a real control plane, MinIO and ClickHouse, as a process under its own ServiceAccount.
//!
//! Each test has a namespace, a bucket and a database of its own and ends at rest: nothing is written any more,
//! and there are no events but those that it names. Ends with the line of any other test program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code: a failed step is a failed test"
)]

mod autoscaling;
mod changes;
mod claim;
mod crd;
mod creation;
mod deletion;
mod deletion_shared;
mod drift;
mod end_to_end;
mod lease;
mod outside;
mod ownership;
mod plan;
mod pod_monitors;
mod rights;
mod secrets;
mod survival;
mod waiting;
mod web_identity;
mod whole_cluster;

use std::process::ExitCode;

use claim::Claim;
use libtest_mimic::Trial;
use spillway_tests::chosen::Chosen;
use spillway_tests::kubernetes::world::World;

/// Tests mostly wait, so more of them than there are cores.
const SIDE_BY_SIDE: usize = 8;

fn claims() -> Vec<Claim> {
    [
        crd::claims(),
        creation::claims(),
        changes::claims(),
        drift::claims(),
        ownership::claims(),
        autoscaling::claims(),
        secrets::claims(),
        outside::claims(),
        plan::claims(),
        waiting::claims(),
        deletion::claims(),
        deletion_shared::claims(),
        survival::claims(),
        rights::claims(),
        end_to_end::claims(),
        lease::claims(),
        pod_monitors::claims(),
        web_identity::claims(),
        whole_cluster::claims(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> ExitCode {
    let chosen = Chosen::from_args(SIDE_BY_SIDE);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let world = (!chosen.arguments.list).then(|| runtime.block_on(World::start()));
    let trials = claims().into_iter().filter(|claim| chosen.names(&claim.name)).map(|claim| {
        let (handle, world) = (runtime.handle().clone(), world.clone());
        Trial::test(claim.name.clone(), move || {
            let world = world.ok_or("nothing was started")?;
            handle.block_on(claim.show(&world));
            Ok(())
        })
    });
    libtest_mimic::run(&chosen.arguments, trials.collect()).exit_code()
}
