//! A container image put together from files of this machine, as an archive that `ctr images import` reads: an OCI
//! image layout (https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md) of several images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType};

use crate::layer::{Layer, append, header};
use crate::store::{Blob, Store};

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
    /// What seldom changes comes first.
    pub layers: Vec<Layer>,
}

/// An image whose layers are written.
#[derive(Clone, Debug)]
pub struct Made {
    pub name: String,
    pub layers: Vec<Blob>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    #[must_use]
    pub fn new(name: impl Into<String>, layers: Vec<Layer>) -> Self {
        let env = vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()];
        Self { name: name.into(), env, layers, ..Self::default() }
    }

    /// Writes the layers that are not yet in the store, each under the image's name without its tag.
    ///
    /// # Errors
    /// When a file can't be read or a layer can't be written.
    pub fn make(&self, store: &Store) -> Result<Made> {
        let name = self.name.rsplit('/').next().unwrap_or_default();
        let name = name.split(':').next().unwrap_or_default();
        let layers = self.layers.iter().enumerate();
        let layers: Vec<_> = layers
            .map(|(number, layer)| store.layer(&format!("{name}-{number}"), layer))
            .collect::<Result<_>>()?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": self.env,
                "User": self.user,
                "Labels": self.labels,
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|layer| format!("sha256:{}", layer.digest)).collect::<Vec<_>>(),
            },
        });
        let config = config.to_string().into_bytes();
        let described = layers.iter().map(|layer| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": format!("sha256:{}", layer.digest),
                "size": layer.size,
            })
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": described.collect::<Vec<_>>(),
        });
        Ok(Made { name: self.name.clone(), config, manifest: manifest.to_string().into_bytes(), layers })
    }
}

/// Writes the images as one archive, without the layers that its reader has.
///
/// # Errors
/// When a layer can't be read or the archive can't be written.
pub fn write(images: &[Made], has: &BTreeSet<String>, to: impl io::Write) -> Result<()> {
    let mut archive = Builder::new(to);
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let manifests = images.iter().map(|image| {
        let mut manifest = descriptor("application/vnd.oci.image.manifest.v1+json", &image.manifest);
        manifest["annotations"] = json!({"io.containerd.image.name": image.name});
        manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
        manifest
    });
    let index = json!({"schemaVersion": 2, "manifests": manifests.collect::<Vec<_>>()});
    append(&mut archive, "index.json", index.to_string().as_bytes())?;
    let mut written = has.clone();
    for image in images {
        for layer in &image.layers {
            if written.insert(layer.digest.clone()) {
                let mut header = header(EntryType::Regular, layer.size, 0o644);
                archive.append_data(&mut header, blob(&layer.digest), File::open(&layer.path)?)?;
            }
        }
        for content in [&image.config, &image.manifest] {
            let digest = digest(content);
            if written.insert(digest.clone()) {
                append(&mut archive, &blob(&digest), content)?;
            }
        }
    }
    io::Write::flush(&mut archive.into_inner()?)?;
    Ok(())
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", digest(content)), "size": content.len()})
}

/// Go's name of the architecture, as images use it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(name, content);
        }
        files
    }

    #[test]
    fn an_archive_leads_from_the_index_to_every_layer_and_two_tags_of_the_same_files_share_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_in(dir.path()).unwrap();
        let mut layer = Layer::default();
        layer.text("/etc/passwd", "nonroot:x:65532:65532::/:/\n");
        let mut images = Vec::new();
        for tag in ["one", "two"] {
            let mut image = Image::new(format!("localhost/test/thing:{tag}"), vec![layer.clone()]);
            image.labels.insert("tag".into(), tag.into());
            images.push(image.make(&store).unwrap());
        }
        let mut archive = Vec::new();
        write(&images, &BTreeSet::new(), &mut archive).unwrap();

        let files = files(&archive);
        let read = |descriptor: &Value| -> Vec<u8> {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let content = files[&blob(digest)].clone();
            assert_eq!(digest, self::digest(&content));
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let mut layers = BTreeSet::new();
        let mut configs = BTreeSet::new();
        for descriptor in index["manifests"].as_array().unwrap() {
            let manifest: Value = serde_json::from_slice(&read(descriptor)).unwrap();
            configs.insert(read(&manifest["config"]));
            layers.insert(read(&manifest["layers"][0]));
            let config: Value = serde_json::from_slice(configs.last().unwrap()).unwrap();
            assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        }
        assert_eq!(
            index["manifests"][1]["annotations"]["io.containerd.image.name"],
            "localhost/test/thing:two"
        );
        assert_eq!((configs.len(), layers.len()), (2, 1));

        let has = images[0].layers.iter().map(|layer| layer.digest.clone()).collect();
        let mut rest = Vec::new();
        write(&images, &has, &mut rest).unwrap();
        assert!(self::files(&rest).keys().all(|name| !has.iter().any(|layer| name.contains(layer))));
    }
}
