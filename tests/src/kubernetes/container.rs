//! A Deployment's container as a process on this machine: its files, its arguments, its ServiceAccount.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, PodSpec, Secret, Volume, VolumeMount};
use serde_json::Value;

use super::operator::token;
use super::space::Space;
use crate::child::free_port;
use crate::process::{Process, built};

pub struct Container {
    pub process: Process,
    /// Where records are received.
    pub http: u16,
    pod: PodSpec,
    files: tempfile::TempDir,
}

impl Container {
    /// Starts the only container of a Deployment.
    pub async fn start(space: &Space, deployment: &str, pod: &str) -> Self {
        let object: Deployment = space.get(deployment).await;
        let spec = object.spec.and_then(|spec| spec.template.spec).expect("a pod");
        let files = tempfile::Builder::new().prefix("spillway-pod-").tempdir().expect("a temporary folder");
        for (mount, volume) in mounts(&spec) {
            bring(space, mount, volume, files.path()).await;
        }
        let (http, admin) = (free_port(), free_port());
        listen_on(&files.path().join("etc/spillway/settings/settings.json"), files.path(), http, admin);
        let container = &spec.containers[0];
        let mut words = container.command.iter().flatten().chain(container.args.iter().flatten());
        let mut command = built(words.next().expect("a program"));
        command.args(words.map(|word| moved(word, files.path())));
        command.env("POD_NAME", pod).env("POD_NAMESPACE", &space.namespace);
        // As kubelet does: a token only where the pod asks for one.
        if spec.automount_service_account_token == Some(true) {
            let account = spec.service_account_name.as_deref().expect("a ServiceAccount");
            let token = token(space, account, None).await;
            let name = format!("{}-{pod}", space.namespace);
            command.env("KUBECONFIG", space.world.control_plane.kubeconfig(&name, &token));
        }
        let process = Process::start(pod, files.path(), &mut command);
        Self { process, http, pod: spec, files }
    }

    /// Brings Secrets as they are now, as kubelet does when their pod is touched.
    pub async fn sync(&self, space: &Space) {
        for (mount, volume) in mounts(&self.pod).filter(|(_, volume)| volume.config_map.is_none()) {
            bring(space, mount, volume, self.files.path()).await;
        }
    }
}

/// Paths of the image, below `root`.
fn moved(text: &str, root: &Path) -> String {
    text.replace("/etc/spillway", &root.join("etc/spillway").display().to_string())
}

/// Puts the settings' paths below `root`, and their ports where nobody else listens.
fn listen_on(path: &Path, root: &Path, http: u16, admin: u16) {
    let text = std::fs::read_to_string(path).expect("the settings file");
    let mut settings: Value = serde_json::from_str(&moved(&text, root)).expect("settings");
    for (field, port) in [("http", http), ("admin", admin)] {
        if settings.get(field).is_some() {
            settings[field] = format!("127.0.0.1:{port}").into();
        }
    }
    std::fs::write(path, settings.to_string()).expect("the settings file");
}

/// Mounts of the pod's only container.
fn mounts(pod: &PodSpec) -> impl Iterator<Item = (&VolumeMount, &Volume)> {
    pod.containers[0].volume_mounts.iter().flatten().map(|mount| {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        (mount, volume.expect("the volume"))
    })
}

/// Fills a mount's folder. As kubelet does it, all files change in one moment: each is a link through `..data`.
async fn bring(space: &Space, mount: &VolumeMount, volume: &Volume, root: &Path) {
    let dir = root.join(mount.mount_path.trim_start_matches('/'));
    let moment = format!("..{:016x}", rand::random::<u64>());
    std::fs::create_dir_all(dir.join(&moment)).expect("the mount's folder");
    for (path, bytes) in content(space, volume).await {
        let file = dir.join(&moment).join(&path);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("the file's folder");
        std::fs::write(file, bytes).expect("a file");
        let first = path.components().next().expect("a name");
        let link = dir.join(first);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(first), link).expect("a link");
        }
    }
    let next = dir.join("..data_next");
    symlink(&moment, &next).expect("a link");
    std::fs::rename(next, dir.join("..data")).expect("the new files");
}

async fn content(space: &Space, volume: &Volume) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    if let Some(source) = &volume.config_map {
        files.extend(config_map(space, &source.name, source.items.as_deref()).await);
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().expect("a name");
        files.extend(secret(space, name, source.items.as_deref()).await);
    }
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        if let Some(source) = &source.secret {
            files.extend(secret(space, &source.name, source.items.as_deref()).await);
        }
        if let Some(source) = &source.config_map {
            files.extend(config_map(space, &source.name, source.items.as_deref()).await);
        }
    }
    files
}

async fn config_map(space: &Space, name: &str, items: Option<&[KeyToPath]>) -> Vec<(PathBuf, Vec<u8>)> {
    let map: ConfigMap = space.get(name).await;
    let entries = map.data.unwrap_or_default().into_iter();
    entries.filter_map(|(key, text)| Some((place(&key, items)?, text.into_bytes()))).collect()
}

/// Nothing when it isn't there: the optional ones may be missing.
async fn secret(space: &Space, name: &str, items: Option<&[KeyToPath]>) -> Vec<(PathBuf, Vec<u8>)> {
    let found: Option<Secret> = space.api().get_opt(name).await.expect("the Secret can be read");
    let entries = found.and_then(|secret| secret.data).unwrap_or_default().into_iter();
    entries.filter_map(|(key, bytes)| Some((place(&key, items)?, bytes.0))).collect()
}

/// Where an entry lies; `None`: it is not among the chosen ones.
fn place(key: &str, items: Option<&[KeyToPath]>) -> Option<PathBuf> {
    match items {
        None => Some(key.into()),
        Some(items) => items.iter().find(|item| item.key == key).map(|item| PathBuf::from(&item.path)),
    }
}
