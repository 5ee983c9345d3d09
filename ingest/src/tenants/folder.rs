//! A folder of tenants files, as kubelet mounts Secrets: some missing, maybe one malformed, all swapped at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use spillway_model::settings::{SETTINGS_VERSION, TenantsCheck, TenantsFile};

use crate::settings::{LoadError, parse};

/// kubelet swaps a mount once a minute at most.
const READINGS: usize = 3;
/// The link to the mount's files as they are at this moment.
const MOUNTED: &str = "..data";

/// What each file says, by its path.
pub(super) type Parts = BTreeMap<PathBuf, TenantsFile>;

/// What was read of each file.
pub(super) type Reading = Vec<(PathBuf, Result<TenantsFile, LoadError>)>;

/// Reads one tenants file.
pub(super) fn read_file(path: &Path) -> Result<TenantsFile, LoadError> {
    let text =
        fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    if text.trim().is_empty() {
        // No tenants are written as such: this one is half written.
        return Err(LoadError::Parse { path: path.to_owned(), message: "it is empty".to_owned() });
    }
    let file: TenantsFile = parse(path, &text)?;
    file.check_version().map_err(|source| LoadError::Invalid { path: path.to_owned(), source })?;
    Ok(file)
}

/// Reads all files of a folder as they were at one moment.
///
/// # Errors
/// When the folder can't be read.
pub(super) fn read(folder: &Path) -> Result<Reading, LoadError> {
    let mounted = || fs::read_link(folder.join(MOUNTED)).ok();
    for _ in 0..READINGS {
        // kubelet makes a new directory with all files, swaps the link, adds and removes the links to single
        // files, and only then removes the old directory: one directory is one moment, the links are not.
        let moment = mounted();
        let place = moment.as_ref().map_or_else(|| folder.to_owned(), |target| folder.join(target));
        let reading = read_all(folder, &place);
        if mounted() == moment {
            return reading;
        }
    }
    Err(LoadError::Unsteady { path: folder.to_owned() })
}

fn read_all(folder: &Path, place: &Path) -> Result<Reading, LoadError> {
    let failed = |source| LoadError::Read { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(place).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Names that begin with a dot are kubelet's own, or an editor's.
        if !entry.file_name().to_string_lossy().starts_with('.') && entry.path().is_file() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names.into_iter().map(|name| (folder.join(&name), read_file(&place.join(&name)))).collect())
}

/// What the files of a folder say together.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) file: TenantsFile,
    /// What each file says, or said before it broke.
    pub(super) parts: Parts,
    pub(super) problems: Vec<LoadError>,
    /// Somebody's key may be in what could not be read so far.
    pub(super) incomplete: bool,
}

/// Puts the files together. A malformed file takes nothing from the others and keeps what it said earlier; of
/// two tenants that contradict each other the first one stays, and one of a sound file goes before one of a
/// broken file, from which it may have been moved.
pub(super) fn merge(reading: Reading, earlier: &Parts) -> Merged {
    let (mut parts, mut problems) = (Parts::new(), Vec::new());
    let mut incomplete = reading.is_empty();
    let (mut sound, mut broken) = (Vec::new(), Vec::new());
    for (path, part) in reading {
        match part {
            Ok(part) => {
                sound.push(path.clone());
                parts.insert(path, part);
            }
            Err(error) => {
                problems.push(error);
                match earlier.get(&path) {
                    Some(part) => {
                        broken.push(path.clone());
                        parts.insert(path, part.clone());
                    }
                    None => incomplete = true,
                }
            }
        }
    }
    let mut check = TenantsCheck::default();
    let mut file = TenantsFile { version: SETTINGS_VERSION, tenants: vec![] };
    for (path, is_sound) in sound.iter().map(|p| (p, true)).chain(broken.iter().map(|p| (p, false))) {
        for tenant in parts.get(path).iter().flat_map(|part| &part.tenants) {
            match check.add(tenant) {
                Ok(()) => file.tenants.push(tenant.clone()),
                Err(source) if is_sound => {
                    problems.push(LoadError::Invalid { path: path.clone(), source });
                }
                Err(_) => {}
            }
        }
    }
    Merged { file, parts, problems, incomplete }
}
