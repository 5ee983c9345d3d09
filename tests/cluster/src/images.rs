//! The images that tests run: Spillway's own, and those of the servers around it, made of what this machine has.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Error, Result, bail};

use crate::image::{self, Image, Made};
use crate::layer::Layer;
use crate::net::NODES;
use crate::store::Store;
use crate::{State, built, node, seed, tools};

const MINIO: &str = "localhost/spillway/minio:test";
const CLICKHOUSE: &str = "localhost/spillway/clickhouse:test";
/// The same programs under two names that mean two images, for a rollout from one to the other.
const TAGS: [&str; 2] = ["test", "next"];

/// User of Spillway's image: nobody on any machine.
const USER: &str = "65532:65532";

/// One of the images, or its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    Spillway,
    Minio,
    Clickhouse,
}

/// What images are made of, and which are wanted.
#[derive(Clone, Debug, clap::Args)]
pub struct Wanted {
    /// Folder of the built programs.
    #[arg(long, default_value = "target/debug")]
    pub built: PathBuf,
    /// Folder of the front's Python package.
    #[arg(long, default_value = "clickhouse-front")]
    pub front: PathBuf,
    /// This image alone; may be given more than once.
    #[arg(long)]
    pub only: Vec<Which>,
    /// Tag of Spillway's image, which is another image for each tag. Default: `test` and `next`.
    #[arg(long)]
    pub tag: Vec<String>,
}

impl Wanted {
    fn wants(&self, which: Which) -> bool {
        self.only.is_empty() || self.only.contains(&which)
    }
}

/// Makes the images and brings them into both nodes.
///
/// # Errors
/// When something that an image needs is missing, or containerd refuses it.
pub fn load(state: &State, wanted: &Wanted, say: &dyn Fn(&str)) -> Result<()> {
    let store = Store::open()?;
    let images = make(&store, wanted, say)?;
    import(state, &images)?;
    let names: Vec<_> = images.iter().map(|image| image.name.as_str()).collect();
    say(&format!("in both nodes: {}", names.join(" ")));
    keep(state, &store, &images)
}

/// Makes the images before there are nodes, which then begin with the large ones.
///
/// # Errors
/// When something that an image needs is missing, or containerd refuses it.
pub fn prepare(state: &State, wanted: &Wanted, say: &dyn Fn(&str)) -> Result<()> {
    let store = Store::open()?;
    let images = make(&store, wanted, say)?;
    keep(state, &store, &images)
}

fn make(store: &Store, wanted: &Wanted, say: &dyn Fn(&str)) -> Result<Vec<Made>> {
    let mut images = Vec::new();
    if wanted.wants(Which::Minio) {
        images.push(minio()?);
    }
    if wanted.wants(Which::Clickhouse) {
        images.push(clickhouse(&wanted.front)?);
    }
    if wanted.wants(Which::Spillway) {
        let usual = TAGS.map(str::to_owned);
        let tags = if wanted.tag.is_empty() { &usual[..] } else { &wanted.tag };
        for tag in tags {
            images.push(spillway(&wanted.built, tag)?);
        }
    }
    let images = images.iter().map(|image| image.make(store)).collect::<Result<_>>()?;
    say("the images are made");
    Ok(images)
}

/// The large ones, when they are both there.
fn keep(state: &State, store: &Store, images: &[Made]) -> Result<()> {
    let large: Vec<_> =
        images.iter().filter(|image| [MINIO, CLICKHOUSE].contains(&image.name.as_str())).cloned().collect();
    if large.len() == 2 { seed::keep(state, store, &large) } else { Ok(()) }
}

/// # Errors
/// When catatonit is missing.
pub fn pause(store: &Store) -> Result<Made> {
    let mut layer = Layer::default();
    let program = tools::find("catatonit")?;
    layer.libraries(&program)?;
    layer.file(&program, "/pause");
    let mut image = Image::new(node::PAUSE, vec![layer]);
    image.entrypoint = vec!["/pause".into(), "-P".into()];
    image.user = USER.into();
    image.make(store)
}

/// The four programs, from the folder that cargo built them into.
fn spillway(built: &Path, tag: &str) -> Result<Image> {
    let (mut below, mut programs) = (base(), Layer::default());
    for program in ["spillway", "spillway-ingest", "spillway-syncer", "spillway-operator"] {
        let from = built.join(program);
        if !from.exists() {
            bail!("{} is missing: run cargo build --workspace --bins", from.display());
        }
        below.libraries(&from)?;
        programs.stripped(&from, &format!("/usr/local/bin/{program}"));
    }
    let mut image = Image::new(format!("localhost/spillway/spillway:{tag}"), vec![below, programs]);
    image.user = USER.into();
    image.labels.insert("org.opencontainers.image.title".into(), "Spillway".into());
    image.labels.insert("org.opencontainers.image.licenses".into(), "Apache-2.0".into());
    image.labels.insert("org.opencontainers.image.version".into(), tag.into());
    Ok(image)
}

fn minio() -> Result<Image> {
    let from = built::tool("minio", "github.com/minio/minio").map_err(Error::msg)?;
    let mut layer = base();
    layer.libraries(&from)?;
    layer.file(&from, "/usr/local/bin/minio");
    let mut image = Image::new(MINIO, vec![layer]);
    image.user = USER.into();
    image.entrypoint = vec!["minio".into()];
    Ok(image)
}

/// The engine behind its HTTP front: this machine's Python, its standard library and chdb-core, and the front above them.
fn clickhouse(front: &Path) -> Result<Image> {
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

    let skipped =
        ["test", "tests", "__pycache__", "site-packages", "dist-packages", "idlelib", "tkinter", "pip"];
    let wanted = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !skipped.contains(&name.as_ref()) && !name.ends_with(".a") && !name.starts_with("config-")
    };
    let mut engine = base();
    engine.libraries(&python)?;
    engine.file(&python, "/usr/local/bin/python3");
    engine.tree(&library, &library.to_string_lossy(), &wanted)?;
    for module in modules(&library.join("lib-dynload")).into_iter().chain(modules(&packages.join("chdb"))) {
        engine.libraries(&module)?;
    }
    // The engine is a library of its own Python module. It is half a gigabyte, and finds the rest of its package beside
    // itself.
    engine.without(&packages);
    engine.tree(&packages, "/opt/chdb", &wanted)?;
    let mut above = Layer::default();
    above.tree(&front.join("clickhouse_front"), "/opt/front/clickhouse_front", &wanted)?;

    let mut image = Image::new(CLICKHOUSE, vec![engine, above]);
    image.user = USER.into();
    image.env.push(format!("PYTHONHOME={}", home.display()));
    image.env.push("PYTHONPATH=/opt/front:/opt/chdb".into());
    image.env.push("PYTHONUNBUFFERED=1".into());
    image.env.push("PYTHONDONTWRITEBYTECODE=1".into());
    image.entrypoint = vec!["python3".into(), "-m".into(), "clickhouse_front".into()];
    Ok(image)
}

/// What every program may expect: a user, names, certificates, a place for scratch.
fn base() -> Layer {
    let mut layer = Layer::default();
    layer.folder("/tmp", 0o1777);
    layer.text("/etc/passwd", "root:x:0:0::/:\nnonroot:x:65532:65532::/tmp:\n");
    layer.text("/etc/group", "root:x:0:\nnonroot:x:65532:\n");
    layer.text("/etc/nsswitch.conf", "hosts: files dns\n");
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if certificates.exists() {
        layer.file(certificates, "/etc/ssl/certs/ca-certificates.crt");
    }
    layer
}

fn modules(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(".so")).collect()
}

/// Brings images into both nodes, side by side.
///
/// # Errors
/// When containerd refuses one.
pub fn import(state: &State, images: &[Made]) -> Result<()> {
    let daemons = NODES.map(|node| node::socket(state, node).map(Daemon::at));
    std::thread::scope(|scope| {
        let imports = daemons.map(|daemon| scope.spawn(move || daemon?.import(images)));
        imports.into_iter().try_for_each(|import| {
            import.join().unwrap_or_else(|_| bail!("the import did not come to its end"))
        })
    })
}

/// A containerd.
#[derive(Clone, Debug)]
pub struct Daemon {
    socket: PathBuf,
}

impl Daemon {
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(&self.socket).args(["--namespace", "k8s.io"]);
        ctr
    }

    /// SHA-256 of everything that it stores.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub fn layers(&self) -> Result<BTreeSet<String>> {
        let listed = tools::run(self.ctr().args(["content", "ls", "--quiet"]))?;
        Ok(listed.lines().filter_map(|line| Some(line.trim().strip_prefix("sha256:")?.to_owned())).collect())
    }

    /// # Errors
    /// When it refuses one.
    pub fn import(&self, images: &[Made]) -> Result<()> {
        let has = self.layers()?;
        let mut child = self
            .ctr()
            .args(["images", "import", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("ctr can't be started")?;
        let input = child.stdin.take().context("ctr's input")?;
        let written = image::write(images, &has, io::BufWriter::with_capacity(1 << 20, input));
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("ctr images import: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        written
    }
}
