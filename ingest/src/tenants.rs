//! Who may send: API keys, projects and limits, read again when their file changes.

mod folder;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use sha2::{Digest as _, Sha256};
use spillway_model::settings::{KeyDigest, LimitSettings, TenantSettings, TenantsFile};
use spillway_model::{ProjectId, TenantName};
use subtle::ConstantTimeEq as _;

use crate::limits::RateLimits;
use crate::settings::LoadError;
use folder::{Merged, Parts};

/// How soon a changed file is noticed.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// One tenant, as requests see it.
#[derive(Debug)]
pub struct Tenant {
    pub name: TenantName,
    pub projects: HashSet<ProjectId>,
    pub retention_days: u16,
    /// Bytes of one record as a staged row; none: the process's own limit.
    pub max_record_bytes: Option<u64>,
    limits: LimitSettings,
    rates: Mutex<RateLimits>,
}

impl Tenant {
    fn new(settings: &TenantSettings, default_retention_days: u16, now: Instant) -> Self {
        Self {
            name: settings.name.clone(),
            projects: settings.projects.iter().cloned().collect(),
            retention_days: settings.retention_days.unwrap_or(default_retention_days),
            max_record_bytes: settings.limits.max_record_bytes.map(|b| b.0),
            limits: settings.limits.clone(),
            rates: Mutex::new(RateLimits::new(&settings.limits, now)),
        }
    }

    /// # Errors
    /// How long to wait, when the tenant is over its rates.
    pub fn check_rates(&self, now: Instant) -> Result<(), Duration> {
        self.rates.lock().check(now)
    }

    pub fn charge(&self, records: u64, bytes: u64, now: Instant) {
        self.rates.lock().charge(records, bytes, now);
    }
}

/// Where tenants come from.
#[derive(Debug, Clone)]
pub enum TenantsSource {
    /// A file, or a directory whose files are taken together (a Secret holds at most 1 MiB).
    Path(PathBuf),
    Fixed(TenantsFile),
}

impl TenantsSource {
    /// `earlier`: what the files of a folder said last.
    fn load(&self, earlier: &Parts) -> Result<Merged, LoadError> {
        let whole = |file: TenantsFile, path: &Path| {
            file.validate().map_err(|source| LoadError::Invalid { path: path.to_owned(), source })?;
            Ok(Merged { file, parts: Parts::new(), problems: vec![], incomplete: false })
        };
        match self {
            Self::Fixed(file) => whole(file.clone(), Path::new("tenants")),
            Self::Path(path) if path.is_dir() => {
                let reading = folder::read(path)?;
                // Who deletes a Secret by mistake has not told all tenants to go.
                if reading.is_empty() && !earlier.is_empty() {
                    return Err(LoadError::NoFiles { path: path.clone() });
                }
                Ok(folder::merge(reading, earlier))
            }
            Self::Path(path) => whole(folder::read_file(path)?, path),
        }
    }
}

/// All tenants at one moment.
#[derive(Debug, Default)]
pub struct Tenants {
    /// By the first two bytes of the digest: what a lookup's time could tell is 16 bits of a hash.
    keys: HashMap<[u8; 2], Vec<(KeyDigest, Arc<Tenant>)>>,
    by_name: BTreeMap<TenantName, Arc<Tenant>>,
}

impl Tenants {
    /// Tenants whose limits did not change keep their rates: reading the file again forgives no debt.
    #[must_use]
    pub fn new(file: &TenantsFile, default_retention_days: u16, earlier: &Self, now: Instant) -> Self {
        let mut tenants = Self::default();
        for settings in &file.tenants {
            let tenant = Tenant::new(settings, default_retention_days, now);
            if let Some(same) = earlier.by_name.get(&settings.name).filter(|t| t.limits == settings.limits) {
                *tenant.rates.lock() = same.rates.lock().clone();
            }
            let tenant = Arc::new(tenant);
            for key in &settings.keys {
                let slot = tenants.keys.entry([key.0[0], key.0[1]]).or_default();
                slot.push((*key, Arc::clone(&tenant)));
            }
            tenants.by_name.insert(settings.name.clone(), tenant);
        }
        tenants
    }

    /// The tenant that holds this API key.
    #[must_use]
    pub fn authenticate(&self, token: &str) -> Option<Arc<Tenant>> {
        let digest = digest(token);
        let mut found = None;
        for (key, tenant) in self.keys.get(&[digest[0], digest[1]])? {
            if bool::from(key.0.ct_eq(&digest)) {
                found = Some(tenant);
            }
        }
        found.cloned()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The digest of an API key, as a tenants file holds it.
#[must_use]
pub fn key_digest(token: &str) -> KeyDigest {
    KeyDigest(digest(token))
}

/// The tenants that requests are checked against; replaced whole when the source changes.
#[derive(Debug)]
pub struct Registry {
    source: TenantsSource,
    default_retention_days: u16,
    loaded: Mutex<Loaded>,
    current: RwLock<Arc<Tenants>>,
    incomplete: AtomicBool,
}

#[derive(Debug)]
struct Loaded {
    file: TenantsFile,
    parts: Parts,
    /// What is wrong with a part of the source; the rest is used.
    problems: Vec<String>,
}

/// What another reading of the source brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    pub changed: bool,
    /// What could not be used of it.
    pub problems: Vec<String>,
}

impl Registry {
    /// # Errors
    /// When nothing of the source can be used. A folder without a file is no error, see
    /// [`Registry::is_incomplete`].
    pub fn load(source: TenantsSource, default_retention_days: u16) -> Result<Self, LoadError> {
        let mut merged = source.load(&Parts::new())?;
        if merged.parts.is_empty() && !merged.problems.is_empty() {
            return Err(merged.problems.swap_remove(0));
        }
        let Merged { file, parts, problems, incomplete } = merged;
        let tenants = Tenants::new(&file, default_retention_days, &Tenants::default(), Instant::now());
        let problems = problems.iter().map(ToString::to_string).collect();
        Ok(Self {
            source,
            default_retention_days,
            loaded: Mutex::new(Loaded { file, parts, problems }),
            current: RwLock::new(Arc::new(tenants)),
            incomplete: AtomicBool::new(incomplete),
        })
    }

    #[must_use]
    pub fn current(&self) -> Arc<Tenants> {
        Arc::clone(&self.current.read())
    }

    /// The source is a folder without a file, or with one that could never be read: whose key is in none of
    /// the others may still be a tenant.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.incomplete.load(Ordering::Acquire)
    }

    /// Loads the source again.
    ///
    /// # Errors
    /// When nothing of it can be used; the tenants stay as they were.
    pub fn reload(&self) -> Result<Reloaded, LoadError> {
        let mut loaded = self.loaded.lock();
        let Merged { file, parts, problems, incomplete } = self.source.load(&loaded.parts)?;
        let changed = loaded.file != file;
        if changed {
            let tenants = Tenants::new(&file, self.default_retention_days, &self.current(), Instant::now());
            *self.current.write() = Arc::new(tenants);
        }
        self.incomplete.store(incomplete, Ordering::Release);
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        *loaded = Loaded { file, parts, problems: problems.clone() };
        Ok(Reloaded { changed, problems })
    }

    /// Reloads for ever. The content is compared, not the time of change: kubelet swaps symbolic links.
    pub async fn watch(self: Arc<Self>, failures: impl Fn() + Send) {
        if matches!(self.source, TenantsSource::Fixed(_)) {
            return;
        }
        let (mut told, mut problems) = (Vec::new(), self.loaded.lock().problems.clone());
        if self.is_incomplete() && problems.is_empty() {
            tracing::warn!("there is no tenants file yet; every request is put off until there is one");
        }
        loop {
            if !problems.is_empty() {
                failures();
            }
            for problem in problems.iter().filter(|problem| !told.contains(*problem)) {
                tracing::error!(%problem, "not all tenants can be used; what is not named here stays as it was");
            }
            told.clone_from(&problems);
            tokio::time::sleep(RELOAD_EVERY).await;
            let registry = Arc::clone(&self);
            let result = tokio::task::spawn_blocking(move || registry.reload()).await;
            match result {
                Ok(Ok(reloaded)) => {
                    if reloaded.changed {
                        tracing::info!(tenants = self.current().len(), "tenants changed");
                    }
                    problems = reloaded.problems;
                }
                Ok(Err(error)) => problems = vec![error.to_string()],
                Err(error) => tracing::error!(%error, "reading the tenants file failed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn file(name: &str, project: &str, token: &str) -> TenantsFile {
        TenantsFile {
            version: 1,
            tenants: vec![TenantSettings {
                name: TenantName::parse(name).unwrap(),
                keys: vec![key_digest(token)],
                projects: vec![ProjectId::parse(project).unwrap()],
                retention_days: None,
                limits: LimitSettings { records_per_second: Some(10), ..Default::default() },
            }],
        }
    }

    #[test]
    fn a_key_admits_its_tenant_and_nothing_else_does() {
        let tenants = Tenants::new(&file("a", "p", "secret"), 30, &Tenants::default(), Instant::now());
        assert_eq!(tenants.authenticate("secret").unwrap().name.as_str(), "a");
        for token in ["", "Secret", "secret ", "secre"] {
            assert!(tenants.authenticate(token).is_none(), "{token:?}");
        }
    }

    #[test]
    fn a_changed_file_takes_effect_and_a_broken_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tenants.json");
        let write = |file: &TenantsFile| std::fs::write(&path, serde_json::to_string(file).unwrap()).unwrap();
        write(&file("a", "p", "one"));
        let registry = Registry::load(TenantsSource::Path(path.clone()), 30).unwrap();
        assert!(!registry.reload().unwrap().changed);
        write(&file("a", "p", "two"));
        assert!(registry.reload().unwrap().changed);
        assert!(registry.current().authenticate("one").is_none());
        assert!(registry.current().authenticate("two").is_some());
        std::fs::write(&path, "tenants: [{name: 7").unwrap();
        assert!(registry.reload().is_err());
        assert!(registry.current().authenticate("two").is_some());
    }

    #[test]
    fn reading_the_file_again_forgives_no_debt() {
        let now = Instant::now();
        let before = Tenants::new(&file("a", "p", "k"), 30, &Tenants::default(), now);
        before.authenticate("k").unwrap().charge(1000, 0, now);
        let after = Tenants::new(&file("a", "q", "k"), 30, &before, now);
        assert!(after.authenticate("k").unwrap().check_rates(now).is_err());
    }

    /// A folder as kubelet makes it of Secrets.
    struct Mount {
        dir: tempfile::TempDir,
        moments: usize,
    }

    impl Mount {
        fn new() -> Self {
            let mount = Self { dir: tempfile::tempdir().unwrap(), moments: 0 };
            std::fs::create_dir(mount.path().join("..0")).unwrap();
            std::os::unix::fs::symlink("..0", mount.path().join("..data")).unwrap();
            mount
        }

        fn path(&self) -> &Path {
            self.dir.path()
        }

        /// Up to the moment at which the link is swapped: single files' links are put right later.
        fn swap(&mut self, files: &[(&str, &str)]) {
            self.moments += 1;
            let (now, link) = (format!("..{}", self.moments), self.path().join("..data_tmp"));
            std::fs::create_dir(self.path().join(&now)).unwrap();
            for (name, text) in files {
                std::fs::write(self.path().join(&now).join(name), text).unwrap();
            }
            std::os::unix::fs::symlink(now, &link).unwrap();
            std::fs::rename(link, self.path().join("..data")).unwrap();
        }

        fn registry(&self) -> Result<Registry, LoadError> {
            Registry::load(TenantsSource::Path(self.path().into()), 30)
        }
    }

    fn json(files: &[TenantsFile]) -> String {
        let tenants = files.iter().flat_map(|file| file.tenants.clone()).collect();
        serde_json::to_string(&TenantsFile { version: 1, tenants }).unwrap()
    }

    fn known(registry: &Registry) -> String {
        let keys = ["one", "two", "three", "four"];
        keys.into_iter()
            .filter(|key| registry.current().authenticate(key).is_some())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn tenants() -> [TenantsFile; 4] {
        [file("a", "p", "one"), file("b", "q", "two"), file("c", "r", "three"), file("d", "s", "four")]
    }

    #[test]
    fn a_folder_of_files_is_one_set_of_tenants_that_changes_as_one() {
        let [a, b, c, d] = tenants();
        let mut mount = Mount::new();
        mount.swap(&[("tenants-0.json", &json(&[a.clone(), b.clone()]))]);
        let registry = mount.registry().unwrap();
        assert_eq!((known(&registry).as_str(), registry.is_incomplete()), ("one two", false));
        // A tenant moves into a file that was not there before.
        mount.swap(&[("tenants-0.json", &json(from_ref(&a))), ("tenants-1.json", &json(&[b, c, d]))]);
        assert_eq!(registry.reload().unwrap(), Reloaded { changed: true, problems: vec![] });
        assert_eq!(known(&registry), "one two three four");
        // Parts that are no longer needed go.
        mount.swap(&[("tenants-0.json", &json(&[a]))]);
        assert!(registry.reload().unwrap().changed);
        assert_eq!(known(&registry), "one");
    }

    #[test]
    fn a_folder_in_which_files_lie_themselves_is_read_as_well() {
        let [a, b, ..] = tenants();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.json"), json(&[a])).unwrap();
        std::fs::write(dir.path().join("b.yaml"), json(&[b])).unwrap();
        std::fs::write(dir.path().join(".b.yaml.swp"), "not ours").unwrap();
        let registry = Registry::load(TenantsSource::Path(dir.path().into()), 30).unwrap();
        assert_eq!(known(&registry), "one two");
    }

    #[test]
    fn a_malformed_file_keeps_what_it_said_and_the_others_go_on() {
        let [a, b, c, d] = tenants();
        let mut mount = Mount::new();
        mount.swap(&[("0", &json(from_ref(&a))), ("1", &json(from_ref(&b)))]);
        let registry = mount.registry().unwrap();
        for broken in ["", "{", "version: 9", r#"{"tenants":[{"name":"b"},{"name":[]}]}"#] {
            let new = file("a", "p", "three");
            mount.swap(&[("0", &json(from_ref(&new))), ("1", broken)]);
            let problems = registry.reload().unwrap().problems;
            assert!(problems.len() == 1 && problems[0].contains("/1"), "{problems:?}");
            assert_eq!(known(&registry), "two three");
            mount.swap(&[("0", &json(from_ref(&a))), ("1", &json(from_ref(&b)))]);
            registry.reload().unwrap();
        }
        // Its tenant has moved, and a new one has come: both are in a sound file.
        mount.swap(&[("0", &json(&[a.clone(), b.clone(), c.clone()])), ("1", "{")]);
        assert_eq!(registry.reload().unwrap().problems.len(), 1);
        assert_eq!((known(&registry).as_str(), registry.is_incomplete()), ("one two three", false));
        // All are broken.
        mount.swap(&[("0", "{"), ("1", "{")]);
        assert_eq!(registry.reload().unwrap().problems.len(), 2);
        assert_eq!(known(&registry), "one two three");
        // Mended.
        mount.swap(&[("0", &json(&[a])), ("1", &json(&[d]))]);
        assert_eq!(registry.reload().unwrap(), Reloaded { changed: true, problems: vec![] });
        assert_eq!(known(&registry), "one four");
    }

    #[test]
    fn a_folder_that_loses_all_files_loses_no_tenant() {
        let [a, ..] = tenants();
        let mut mount = Mount::new();
        mount.swap(&[("0", &json(&[a]))]);
        let registry = mount.registry().unwrap();
        mount.swap(&[]);
        assert_eq!(registry.reload().unwrap_err().reason(), "no_files");
        assert_eq!(known(&registry), "one");
        std::fs::remove_file(mount.path().join("..data")).unwrap();
        assert!(registry.reload().is_err(), "kubelet's old directories are no tenants files");
        assert_eq!(known(&registry), "one");
        mount.swap(&[("0", &json(&[]))]);
        assert!(registry.reload().unwrap().changed);
        assert_eq!(known(&registry), "", "a file that says that there is none is believed");
    }

    #[test]
    fn of_two_tenants_that_contradict_each_other_the_first_one_stays() {
        let [a, b, ..] = tenants();
        let mut mount = Mount::new();
        let clash = file("c", "p", "three");
        mount.swap(&[("0", &json(&[a])), ("1", &json(&[clash, b]))]);
        let registry = mount.registry().unwrap();
        assert_eq!(known(&registry), "one two");
        let problems = registry.reload().unwrap().problems;
        assert!(problems.len() == 1 && problems[0].contains("/1: "), "{problems:?}");
    }

    #[test]
    fn until_every_file_was_read_once_an_unknown_key_may_be_a_tenant_s() {
        let [a, b, ..] = tenants();
        let mut mount = Mount::new();
        let registry = mount.registry().unwrap();
        assert!(registry.is_incomplete(), "no file so far");
        mount.swap(&[("0", &json(std::slice::from_ref(&a))), ("1", "{")]);
        registry.reload().unwrap();
        assert!(registry.is_incomplete());
        assert_eq!(known(&registry), "one");
        assert!(mount.registry().unwrap().is_incomplete(), "a start beside a broken file");
        mount.swap(&[("0", &json(&[a])), ("1", &json(&[b]))]);
        registry.reload().unwrap();
        assert!(!registry.is_incomplete());
        mount.swap(&[("0", "{")]);
        assert!(mount.registry().is_err(), "no file can be used");
    }

    #[test]
    fn fields_and_a_version_of_tomorrow_are_read() {
        let mut mount = Mount::new();
        let mut text: serde_json::Value = serde_json::from_str(&json(&[file("a", "p", "one")])).unwrap();
        text["version"] = 2.into();
        text["soon"] = true.into();
        text["tenants"][0]["soon"] = serde_json::json!({"x": [1]});
        text["tenants"][0]["limits"]["soon"] = 1.into();
        mount.swap(&[("0", &text.to_string())]);
        assert_eq!(known(&mount.registry().unwrap()), "one");
    }
}
