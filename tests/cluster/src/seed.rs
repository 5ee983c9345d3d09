//! What containerd makes of the large images, kept in the user's cache. A node begins with it, as if they had been
//! imported: the same files under another name, which nobody changes, and a copy of containerd's own notes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::Signal;

use crate::image::Made;
use crate::images::Daemon;
use crate::net::Node;
use crate::store::Store;
use crate::tools::run;
use crate::{State, built, record};

const NAME: &str = "containerd-seed";

fn dir() -> PathBuf {
    built::cache().join("images/seed")
}

/// Makes it unless it holds these images.
///
/// # Errors
/// When containerd refuses one.
pub fn keep(state: &State, _store: &Store, images: &[Made]) -> Result<()> {
    let blobs = dir().join("io.containerd.content.v1.content/blobs/sha256");
    if images.iter().flat_map(|image| &image.layers).all(|layer| blobs.join(&layer.digest).exists()) {
        return Ok(());
    }
    let place = state.path("seed/containerd.toml")?;
    let place = place.parent().unwrap_or(state.dir()).to_owned();
    let config = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/run\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n  address = \"{0}/containerd.sock\"\n",
        place.display()
    );
    let config = state.write("seed/containerd.toml", config)?;
    let daemon = record::start(state, NAME, Command::new("containerd").arg("--config").arg(config))?;
    let outcome = fill(&Daemon::at(place.join("containerd.sock")), images);
    // In good order: what it wrote last counts.
    daemon.signal(Signal::TERM);
    let since = Instant::now();
    while daemon.is_alive() {
        if since.elapsed() > Duration::from_secs(20) {
            daemon.signal(Signal::KILL);
            bail!("{NAME} does not end:\n{}", record::end_of_log(state, NAME));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    record::forget(state, NAME);
    outcome?;
    if dir().exists() {
        fs::remove_dir_all(dir())?;
    }
    // Elsewhere it may be another file system.
    run(Command::new("mv").arg(place.join("root")).arg(dir()))?;
    fs::remove_dir_all(place)?;
    Ok(())
}

fn fill(daemon: &Daemon, images: &[Made]) -> Result<()> {
    let since = Instant::now();
    while let Err(error) = daemon.layers() {
        if since.elapsed() > Duration::from_secs(20) {
            return Err(error.context("containerd does not answer"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.import(images)
}

/// Gives a node that was not started yet what there is.
///
/// # Errors
/// When it can't be copied.
pub fn plant(state: &State, node: Node) -> Result<()> {
    if !dir().exists() {
        return Ok(());
    }
    let root = state.path(&format!("{}/containerd", node.name()))?;
    let copy = |how: &str| run(Command::new("cp").arg(how).arg(dir()).arg(&root));
    if copy("-al").is_err() {
        // Another file system.
        fs::remove_dir_all(&root).ok();
        copy("-a")?;
    }
    for notes in
        ["io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"]
    {
        run(Command::new("cp")
            .args(["-a", "--remove-destination"])
            .arg(dir().join(notes))
            .arg(root.join(notes)))?;
    }
    Ok(())
}
