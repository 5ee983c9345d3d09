//! The images that tests run: Spillway's own, and those of the servers around it, made of what this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Error, Result, bail};

use crate::image::Image;
use crate::net::{self, NODES};
use crate::{State, built, node, tools};

/// Spillway's programs.
pub const SPILLWAY: &str = "localhost/spillway/spillway:test";
pub const MINIO: &str = "localhost/spillway/minio:test";
pub const CLICKHOUSE: &str = "localhost/spillway/clickhouse:test";

/// User of Spillway's image: nobody on any machine.
const USER: &str = "65532:65532";

/// # Errors
/// When catatonit is missing.
pub fn pause() -> Result<Image> {
    let mut image = Image::new(node::PAUSE);
    image.program(Path::new("/usr/bin/catatonit"), "/pause")?;
    image.entrypoint = vec!["/pause".into(), "-P".into()];
    image.user = USER.into();
    Ok(image)
}

/// The four programs, from the folder that cargo built them into, without their debugging symbols.
///
/// # Errors
/// When one isn't built.
pub fn spillway(built: &Path, scratch: &Path) -> Result<Image> {
    let mut image = Image::new(SPILLWAY);
    for program in ["spillway", "spillway-ingest", "spillway-syncer", "spillway-operator"] {
        let from = built.join(program);
        if !from.exists() {
            bail!("{} is missing: run cargo build --workspace --bins", from.display());
        }
        let stripped = scratch.join(program);
        tools::run(Command::new("strip").arg("-o").arg(&stripped).arg(&from))?;
        image.program(&stripped, &format!("/usr/local/bin/{program}"))?;
    }
    base(&mut image);
    image.labels.insert("org.opencontainers.image.title".into(), "Spillway".into());
    image.labels.insert("org.opencontainers.image.licenses".into(), "Apache-2.0".into());
    Ok(image)
}

/// # Errors
/// When MinIO isn't built.
pub fn minio() -> Result<Image> {
    let mut image = Image::new(MINIO);
    let from = built::tool("minio", "github.com/minio/minio").map_err(Error::msg)?;
    image.program(&from, "/usr/local/bin/minio")?;
    base(&mut image);
    image.entrypoint = vec!["minio".into()];
    Ok(image)
}

/// The engine behind its HTTP front: this machine's Python, its standard library and chdb-core.
///
/// # Errors
/// When chdb-core isn't installed.
pub fn clickhouse(front: &Path) -> Result<Image> {
    let venv = built::chdb().map_err(Error::msg)?;
    let ask = |question: &str| -> Result<PathBuf> {
        let answer = tools::run(Command::new(venv.join("bin/python")).args(["-c", question]))?;
        Ok(PathBuf::from(answer.trim()))
    };
    let library = ask(
        "import sysconfig; print(sysconfig.get_path('stdlib', vars={'installed_base': __import__('sys').base_prefix}))",
    )?;
    let packages = ask("import sysconfig; print(sysconfig.get_path('purelib'))")?;
    let python = ask("import os, sys; print(os.path.realpath(sys.executable))")?;
    let home = ask("import sys; print(sys.base_prefix)")?;

    let mut image = Image::new(CLICKHOUSE);
    let skipped =
        ["test", "tests", "__pycache__", "site-packages", "dist-packages", "idlelib", "tkinter", "pip"];
    let wanted = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !skipped.contains(&name.as_ref()) && !name.ends_with(".a") && !name.starts_with("config-")
    };
    image.program(&python, "/usr/local/bin/python3")?;
    let inside = library.to_string_lossy().into_owned();
    image.tree(&library, &inside, &wanted)?;
    image.tree(&packages, "/opt/chdb", &wanted)?;
    image.tree(&front.join("clickhouse_front"), "/opt/front/clickhouse_front", &wanted)?;
    for module in modules(&library.join("lib-dynload")).into_iter().chain(modules(&packages.join("chdb"))) {
        for needed in crate::libraries::of(&module)? {
            let path = needed.to_string_lossy().into_owned();
            image.file(&needed, &path);
        }
    }
    base(&mut image);
    image.env.push(format!("PYTHONHOME={}", home.display()));
    image.env.push("PYTHONPATH=/opt/front:/opt/chdb".into());
    image.env.push("PYTHONUNBUFFERED=1".into());
    image.env.push("PYTHONDONTWRITEBYTECODE=1".into());
    image.entrypoint = vec!["python3".into(), "-m".into(), "clickhouse_front".into()];
    Ok(image)
}

/// What every program may expect: names, certificates, a user.
fn base(image: &mut Image) {
    image.user = USER.into();
    image.text("/etc/passwd", "root:x:0:0::/:\nnonroot:x:65532:65532::/tmp:\n");
    image.text("/etc/group", "root:x:0:\nnonroot:x:65532:\n");
    image.text("/etc/nsswitch.conf", "hosts: files dns\n");
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if certificates.exists() {
        image.file(certificates, "/etc/ssl/certs/ca-certificates.crt");
    }
}

fn modules(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(".so")).collect()
}

/// The folders that images are made of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Spillway's programs, as cargo built them.
    pub built: PathBuf,
    /// The front's Python package.
    pub front: PathBuf,
}

/// Makes the images and brings them into both nodes.
///
/// # Errors
/// When something that an image needs is missing, or containerd refuses it.
pub fn load(state: &State, sources: &Sources, say: &dyn Fn(&str)) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    for (name, image) in [
        ("spillway", spillway(&sources.built, scratch.path())?),
        ("minio", minio()?),
        ("clickhouse", clickhouse(&sources.front)?),
    ] {
        let archive = state.path(&format!("images/{name}.tar"))?;
        image.write(&archive)?;
        import(state, &archive)?;
        say(&format!("{} is in both nodes", image.name));
    }
    Ok(())
}

/// Brings an archive into both nodes.
///
/// # Errors
/// When containerd refuses it.
pub fn import(state: &State, archive: &Path) -> Result<()> {
    for node in NODES {
        let socket = node::socket(state, node)?;
        let mut ctr = net::enter(node, "ctr");
        ctr.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
        tools::run(&mut ctr)?;
    }
    Ok(())
}
