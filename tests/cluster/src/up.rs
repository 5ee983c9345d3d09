//! Brings the cluster up.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::net::{self, NODES};
use crate::store::Store;
use crate::{State, addons, control_plane, disks, down, images, keys, node, owner, record, seed, tools};

/// Starts everything over a fresh folder and returns when both nodes are ready.
///
/// # Errors
/// What is missing, or what did not come up, with the end of its log.
pub fn up(state: &State, say: &dyn Fn(&str)) -> Result<()> {
    tools::check()?;
    // What an earlier one left, whether it was stopped or crashed.
    owner::take(state)?;
    down(state)?;
    let state = &State::open(state.dir())?;
    owner::take(state)?;
    net::create()?;
    keys::write(state)?;
    for node in NODES {
        seed::plant(state, node)?;
        node::start_containerd(state, node)?;
    }
    control_plane::start(state)?;
    let pause = [images::pause(&Store::open()?)?];
    until(state, "containerd", Duration::from_secs(30), &mut || Ok(images::import(state, &pause).is_ok()))?;
    say("containerd answers");
    until(state, "the API server", Duration::from_secs(60), &mut || {
        Ok(addons::kubectl(state)?
            .args(["get", "--raw", "/readyz"])
            .stdout(Stdio::null())
            .output()?
            .status
            .success())
    })?;
    say("the API server answers");
    for node in NODES {
        node::start_kubelet(state, node)?;
    }
    addons::start(state)?;
    disks::create(state)?;
    wait_until_ready(state)?;
    say("both nodes are ready");
    Ok(())
}

/// # Errors
/// When a process ended or a node isn't ready in time.
pub fn wait_until_ready(state: &State) -> Result<()> {
    until(state, "both nodes", Duration::from_secs(90), &mut || {
        let path = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
        let output = addons::kubectl(state)?.args(["get", "nodes", "-o", path]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim() == "True True")
    })
}

fn until(
    state: &State,
    what: &str,
    patience: Duration,
    look: &mut dyn FnMut() -> Result<bool>,
) -> Result<()> {
    let since = Instant::now();
    while !look()? {
        if let Some(ended) = record::all(state).iter().find(|one| !one.is_alive()) {
            bail!("{} ended:\n{}", ended.name, record::end_of_log(state, &ended.name));
        }
        if since.elapsed() > patience {
            bail!(
                "{what} did not answer within {patience:?}; see the logs in {}",
                state.dir().join("log").display()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
