//! A container image put together from files of this machine, as an archive that `ctr images import` reads: a
//! configuration, one layer and a manifest (the image specification of Docker, version 1.2).
//!
//! The same files give the same bytes: names are sorted, owners and times are zero.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::libraries;

/// What an image holds and how it is started.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub name: String,
    pub entrypoint: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `uid:gid`; empty: root.
    pub user: String,
    pub labels: BTreeMap<String, String>,
    /// Where each thing lies in the image.
    contents: BTreeMap<String, Content>,
}

#[derive(Clone, Debug)]
enum Content {
    File(PathBuf),
    Text(String),
    Folder(u32),
    Link(String),
}

impl Image {
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let env = vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()];
        let mut image = Self { name: name.into(), env, ..Self::default() };
        image.folder("/tmp", 0o1777);
        image
    }

    pub fn folder(&mut self, path: &str, mode: u32) {
        self.put(path, Content::Folder(mode));
    }

    pub fn text(&mut self, path: &str, text: impl Into<String>) {
        self.put(path, Content::Text(text.into()));
    }

    pub fn link(&mut self, path: &str, to: &str) {
        self.put(path, Content::Link(to.to_owned()));
    }

    /// A file of this machine; a symlink is followed.
    pub fn file(&mut self, from: &Path, to: &str) {
        self.put(to, Content::File(from.to_owned()));
    }

    /// A program with the libraries that it needs.
    ///
    /// # Errors
    /// When the program or a library can't be found.
    pub fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        for library in libraries::of(from)? {
            let path = library.to_string_lossy().into_owned();
            self.file(&library, &path);
        }
        self.file(from, to);
        Ok(())
    }

    /// A whole folder; `wanted` decides by path.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn tree(&mut self, from: &Path, to: &str, wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
        let entries = std::fs::read_dir(from).with_context(|| format!("{} can't be read", from.display()))?;
        for entry in entries {
            let path = entry?.path();
            let inside = format!("{to}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            if !wanted(&path) {
                continue;
            }
            if path.is_dir() {
                self.tree(&path, &inside, wanted)?;
            } else if path.is_file() {
                self.file(&path, &inside);
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &str, content: Content) {
        self.contents.insert(normal(path), content);
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When a file can't be read or the archive can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let layer = tempfile::NamedTempFile::new_in(dir)?;
        let digest = self.write_layer(layer.as_file())?;
        let config = serde_json::json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": self.env,
                "User": self.user,
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        })
        .to_string();
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let layer_name = format!("{digest}/layer.tar");
        let manifest =
            serde_json::json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}])
                .to_string();

        let partial = tempfile::NamedTempFile::new_in(dir)?;
        let mut archive = Builder::new(io::BufWriter::new(partial.as_file()));
        append(&mut archive, &config_name, config.as_bytes())?;
        let mut header = header(EntryType::Regular, layer.as_file().metadata()?.len(), 0o644);
        archive.append_data(&mut header, &layer_name, File::open(layer.path())?)?;
        append(&mut archive, "manifest.json", manifest.as_bytes())?;
        archive.into_inner()?.flush()?;
        partial.persist(path)?;
        Ok(())
    }

    /// The digest of the layer in hex.
    fn write_layer(&self, file: &File) -> Result<String> {
        let mut archive = Builder::new(Hashing { inner: io::BufWriter::new(file), hash: Sha256::new() });
        for (path, content) in &self.contents {
            match content {
                Content::File(from) => {
                    use std::os::unix::fs::PermissionsExt as _;
                    let source =
                        File::open(from).with_context(|| format!("{} can't be read", from.display()))?;
                    let metadata = source.metadata()?;
                    // For everybody: the image's user is none of this machine's.
                    let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
                    let mut header = header(EntryType::Regular, metadata.len(), mode);
                    archive.append_data(&mut header, path, source)?;
                }
                Content::Text(text) => append(&mut archive, path, text.as_bytes())?,
                Content::Folder(mode) => {
                    let mut header = header(EntryType::Directory, 0, *mode);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Content::Link(to) => {
                    archive.append_link(&mut header(EntryType::Symlink, 0, 0o777), path, to)?;
                }
            }
        }
        let mut hashing = archive.into_inner()?;
        hashing.flush()?;
        Ok(hex::encode(hashing.hash.finalize()))
    }
}

/// Without `.` and `..`, which an archive may not hold, and relative to the root.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn append(archive: &mut Builder<impl io::Write>, path: &str, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(EntryType::Regular, content.len() as u64, 0o644), path, content)
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Go's name of the architecture, as images use it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: io::Write> io::Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_path_is_what_it_means() {
        for (path, meant) in [("/a/./b", "a/b"), ("/a/b/../c", "a/c"), ("//a/../../b", "b")] {
            assert_eq!(normal(path), meant);
        }
    }

    #[test]
    fn the_same_files_give_the_same_archive_and_its_digests_are_right() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::new("localhost/test:1");
        image.text("/etc/passwd", "nonroot:x:65532:65532::/:/\n");
        let (one, two) = (dir.path().join("one.tar"), dir.path().join("two.tar"));
        image.write(&one).unwrap();
        image.write(&two).unwrap();
        assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap());

        let mut parts = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&one).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            parts.insert(name, content);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&parts["manifest.json"]).unwrap();
        let config = &parts[manifest[0]["Config"].as_str().unwrap()];
        let layer = &parts[manifest[0]["Layers"][0].as_str().unwrap()];
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(layer)));
        assert_eq!(config["rootfs"]["diff_ids"][0], digest);
        let mut names = Vec::new();
        for entry in tar::Archive::new(layer.as_slice()).entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names, ["etc/passwd", "tmp/"]);
    }
}
