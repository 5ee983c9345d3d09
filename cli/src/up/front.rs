//! The embedded ClickHouse: the engine of the PyPI package chdb-core behind a small HTTP front, which this program
//! carries. Its virtual environment is made once, in the user's cache folder.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{carried, child::Program};
use crate::output;

/// Why the embedded ClickHouse can't be prepared.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    #[error("there is no folder for caches; set HOME or XDG_CACHE_HOME")]
    NoCache,
    #[error("can't write {path}: {source}; set XDG_CACHE_HOME to a folder that can be written")]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "the embedded ClickHouse needs python3 (3.9 or later), and there is none on the PATH; install it, or put a `clickhouse` program on the PATH, or set spec.clickhouse.url"
    )]
    NoPython,
    #[error(
        "python3 can't make a virtual environment; install its venv and pip (Debian: apt install python3-venv), or set spec.clickhouse.url\n{output}"
    )]
    NoVenv { output: String },
    #[error(
        "pip can't install chdb-core {}; it needs PyPI (or PIP_INDEX_URL) and a Python that has a wheel of it; else set spec.clickhouse.url\n{output}",
        carried::chdb_version()
    )]
    NoChdb { output: String },
}

impl FrontError {
    /// A short label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCache => "NoCache",
            Self::Write { .. } => "CacheNotWritable",
            Self::NoPython => "NoPython",
            Self::NoVenv { .. } => "NoVenv",
            Self::NoChdb { .. } => "NoChdb",
        }
    }
}

/// Makes the virtual environment and unpacks the front, unless both are there, and says how to start it.
/// Blocks, for minutes the first time.
///
/// # Errors
/// Each with what to do about it.
pub fn prepare(data: &Path, port: u16) -> Result<Program, FrontError> {
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).map_err(written(&cache))?;
    // One at a time: two first starts at once would ruin each other's environment. tests/tools/install.sh uses the
    // same folder, lock and mark.
    let lock_path = cache.join(format!("chdb-{}.lock", carried::chdb_version()));
    let lock = File::create(&lock_path).map_err(written(&lock_path))?;
    lock.lock().map_err(written(&lock_path))?;
    let python = environment(&cache)?;
    let front = unpack(&cache)?;
    let data = data.to_string_lossy();
    let port = port.to_string();
    let args = ["-m", carried::MODULE, "--data", &data, "--port", &port, "--stop-on-stdin-close"];
    Ok(Program {
        path: python,
        args: args.map(str::to_owned).to_vec(),
        env: vec![("PYTHONPATH", front.to_string_lossy().into_owned()), ("PYTHONUNBUFFERED", "1".to_owned())],
    })
}

fn cache_dir() -> Result<PathBuf, FrontError> {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("spillway")).ok_or(FrontError::NoCache)
}

/// The Python of the virtual environment.
fn environment(cache: &Path) -> Result<PathBuf, FrontError> {
    let version = carried::chdb_version();
    let folder = cache.join(format!("chdb-{version}"));
    let python = folder.join("bin").join("python");
    // Written last: an environment without it was broken off. A Python that has gone leaves a dangling link.
    let complete = folder.join("complete");
    if complete.exists() && python.exists() {
        return Ok(python);
    }
    output::note(&format!(
        "Preparing the embedded ClickHouse, once: chdb-core {version} from PyPI into {}",
        folder.display()
    ));
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(written(&folder))?;
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).output();
    let made = made.map_err(|_| FrontError::NoPython)?;
    if !made.status.success() {
        return Err(FrontError::NoVenv { output: text(&made) });
    }
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, carried::REQUIREMENTS).map_err(written(&requirements))?;
    // --no-deps: what its metadata asks for (pandas, pyarrow) is only needed for data frames.
    let installed = Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--no-deps",
            "-r",
        ])
        .arg(&requirements)
        .output()
        .map_err(written(&python))?;
    if !installed.status.success() {
        return Err(FrontError::NoChdb { output: text(&installed) });
    }
    fs::write(&complete, version).map_err(written(&complete))?;
    Ok(python)
}

/// The folder that holds the front's package. Named by its content, so that different versions of this program
/// don't overwrite each other's.
fn unpack(cache: &Path) -> Result<PathBuf, FrontError> {
    let folder = cache.join(format!("clickhouse-front-{}", carried::digest()));
    let package = folder.join(carried::MODULE);
    fs::create_dir_all(&package).map_err(written(&package))?;
    for (name, content) in carried::FILES {
        let path = package.join(name);
        if !fs::read_to_string(&path).is_ok_and(|kept| kept == *content) {
            fs::write(&path, content).map_err(written(&path))?;
        }
    }
    Ok(folder)
}

fn written(path: &Path) -> impl Fn(io::Error) -> FrontError + use<> {
    let path = path.to_owned();
    move |source| FrontError::Write { path: path.clone(), source }
}

fn text(output: &Output) -> String {
    let all = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    all.join("\n").trim().to_owned()
}
