//! Files of this machine as a layer of an image. The same files give the same bytes: names are sorted, owners and times
//! are zero.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{libraries, tools};

/// To be raised whenever the same contents come to other bytes.
const VERSION: &str = "1";

#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// Where each thing lies in the image.
    contents: BTreeMap<String, Content>,
}

#[derive(Clone, Debug)]
enum Content {
    File(PathBuf),
    /// Without its debugging symbols, which are most of it.
    Stripped(PathBuf),
    Text(String),
    Folder(u32),
}

impl Layer {
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.put(path, Content::Folder(mode));
    }

    pub fn text(&mut self, path: &str, text: impl Into<String>) {
        self.put(path, Content::Text(text.into()));
    }

    /// A file of this machine; a symlink is followed.
    pub fn file(&mut self, from: &Path, to: &str) {
        self.put(to, Content::File(from.to_owned()));
    }

    /// A program without its debugging symbols.
    pub fn stripped(&mut self, from: &Path, to: &str) {
        self.put(to, Content::Stripped(from.to_owned()));
    }

    /// The libraries that a program or another library needs, where it asks for them.
    ///
    /// # Errors
    /// When one can't be found.
    pub fn libraries(&mut self, of: &Path) -> Result<()> {
        for library in libraries::of(of)? {
            let path = library.to_string_lossy().into_owned();
            self.file(&library, &path);
        }
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

    /// Leaves out what was put below a folder of this machine.
    pub fn without(&mut self, below: &Path) {
        let inside = normal(&below.to_string_lossy());
        self.contents.retain(|path, _| !Path::new(path).starts_with(&inside));
    }

    fn put(&mut self, path: &str, content: Content) {
        self.contents.insert(normal(path), content);
    }

    /// Changes with everything that the layer holds, as far as sizes and times tell: to look is enough, reading isn't
    /// needed.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn key(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(VERSION);
        for (path, content) in &self.contents {
            let what = match content {
                Content::File(from) => format!("file {}", identity(from)?),
                Content::Stripped(from) => format!("stripped {}", identity(from)?),
                Content::Text(text) => format!("text {text}"),
                Content::Folder(mode) => format!("folder {mode}"),
            };
            hash.update(format!("{}:{path}{}:{what}", path.len(), what.len()));
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// Writes the archive; the result is its SHA-256 in hex.
    ///
    /// # Errors
    /// When a file can't be read or the archive can't be written.
    pub fn write(&self, file: &File) -> Result<String> {
        let mut archive =
            Builder::new(Hashing { inner: io::BufWriter::with_capacity(1 << 20, file), hash: Sha256::new() });
        for (path, content) in &self.contents {
            match content {
                Content::File(from) => {
                    let source = open(from)?;
                    append_file(&mut archive, path, &source, &source.metadata()?)?;
                }
                Content::Stripped(from) => {
                    let stripped = tempfile::NamedTempFile::new()?;
                    tools::run(Command::new("strip").arg("-o").arg(stripped.path()).arg(from))?;
                    let source = open(stripped.path())?;
                    let metadata = open(from)?.metadata()?;
                    append_file(&mut archive, path, &source, &metadata)?;
                }
                Content::Text(text) => append(&mut archive, path, text.as_bytes())?,
                Content::Folder(mode) => {
                    let mut header = header(EntryType::Directory, 0, *mode);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
            }
        }
        let mut hashing = archive.into_inner()?;
        hashing.flush()?;
        Ok(hex::encode(hashing.hash.finalize()))
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("{} can't be read", path.display()))
}

fn identity(path: &Path) -> Result<String> {
    let metadata = std::fs::metadata(path).with_context(|| format!("{} is missing", path.display()))?;
    let time = (metadata.mtime(), metadata.mtime_nsec());
    Ok(format!("{} {} {time:?} {:o}", path.display(), metadata.len(), metadata.mode()))
}

/// `like` says who may do what with it.
fn append_file(
    archive: &mut Builder<impl io::Write>,
    path: &str,
    source: &File,
    like: &Metadata,
) -> Result<()> {
    // For everybody: the image's user is none of this machine's.
    let mode = if like.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
    let mut header = header(EntryType::Regular, source.metadata()?.len(), mode);
    Ok(archive.append_data(&mut header, path, source)?)
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

/// A small file of an archive.
pub(crate) fn append(archive: &mut Builder<impl io::Write>, path: &str, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(EntryType::Regular, content.len() as u64, 0o644), path, content)
}

pub(crate) fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
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
    use super::*;

    #[test]
    fn a_path_is_what_it_means() {
        for (path, meant) in [("/a/./b", "a/b"), ("/a/b/../c", "a/c"), ("//a/../../b", "b")] {
            assert_eq!(normal(path), meant);
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_their_digest() {
        let dir = tempfile::tempdir().unwrap();
        let mut layer = Layer::default();
        layer.text("/etc/passwd", "nonroot:x:65532:65532::/:/\n");
        layer.folder("/tmp", 0o1777);
        let written = ["one", "two"].map(|name| {
            let path = dir.path().join(name);
            (layer.write(&File::create(&path).unwrap()).unwrap(), std::fs::read(path).unwrap())
        });
        assert!(written[0] == written[1]);
        assert_eq!(written[0].0, hex::encode(Sha256::digest(&written[0].1)));
        let mut names = Vec::new();
        for entry in tar::Archive::new(written[0].1.as_slice()).entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names, ["etc/passwd", "tmp/"]);
    }

    #[test]
    fn the_key_changes_with_a_file_and_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let key = |place: &str, content: &str| {
            std::fs::write(&file, content).unwrap();
            let mut layer = Layer::default();
            layer.file(&file, place);
            layer.key().unwrap()
        };
        let first = key("/a", "1");
        assert_ne!(first, key("/a", "22"));
        assert_ne!(first, key("/b", "1"));
    }
}
