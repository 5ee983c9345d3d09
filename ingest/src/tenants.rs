//! Who may send: API keys, projects and limits, read again when their file changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use sha2::{Digest as _, Sha256};
use spillway_model::settings::{KeyDigest, LimitSettings, SettingsError, TenantSettings, TenantsFile};
use spillway_model::{ProjectId, TenantName};
use subtle::ConstantTimeEq as _;

use crate::limits::RateLimits;
use crate::settings::{LoadError, parse};

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
    /// # Errors
    /// When a file can't be read, is no tenants file, or two tenants contradict each other.
    pub fn load(&self) -> Result<TenantsFile, LoadError> {
        match self {
            Self::Fixed(file) => {
                file.validate().map_err(|source| LoadError::Invalid { path: "tenants".into(), source })?;
                Ok(file.clone())
            }
            Self::Path(path) => {
                let mut all =
                    TenantsFile { version: spillway_model::settings::SETTINGS_VERSION, tenants: vec![] };
                for file in files(path)? {
                    let text = read(&file)?;
                    let part: TenantsFile = parse(&file, &text)?;
                    if part.version != all.version {
                        let source = SettingsError::Version { found: part.version };
                        return Err(LoadError::Invalid { path: file, source });
                    }
                    all.tenants.extend(part.tenants);
                }
                all.validate().map_err(|source| LoadError::Invalid { path: path.clone(), source })?;
                Ok(all)
            }
        }
    }
}

fn read(path: &Path) -> Result<String, LoadError> {
    std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}

fn files(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // kubelet keeps the real files of a mounted Secret in directories that begin with "..".
        if !entry.file_name().to_string_lossy().starts_with('.') && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
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
    loaded: Mutex<TenantsFile>,
    current: RwLock<Arc<Tenants>>,
}

impl Registry {
    /// # Errors
    /// When the source can't be loaded.
    pub fn load(source: TenantsSource, default_retention_days: u16) -> Result<Self, LoadError> {
        let file = source.load()?;
        let tenants = Tenants::new(&file, default_retention_days, &Tenants::default(), Instant::now());
        Ok(Self {
            source,
            default_retention_days,
            loaded: Mutex::new(file),
            current: RwLock::new(Arc::new(tenants)),
        })
    }

    #[must_use]
    pub fn current(&self) -> Arc<Tenants> {
        Arc::clone(&self.current.read())
    }

    /// Loads the source again; true when it had changed.
    ///
    /// # Errors
    /// When it can't be loaded; the tenants stay as they were.
    pub fn reload(&self) -> Result<bool, LoadError> {
        let file = self.source.load()?;
        let mut loaded = self.loaded.lock();
        if *loaded == file {
            return Ok(false);
        }
        let tenants = Tenants::new(&file, self.default_retention_days, &self.current(), Instant::now());
        *self.current.write() = Arc::new(tenants);
        *loaded = file;
        Ok(true)
    }

    /// Reloads for ever. The content is compared, not the time of change: kubelet swaps symbolic links.
    pub async fn watch(self: Arc<Self>, failures: impl Fn() + Send) {
        if matches!(self.source, TenantsSource::Fixed(_)) {
            return;
        }
        let mut complained = String::new();
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            let registry = Arc::clone(&self);
            let result = tokio::task::spawn_blocking(move || registry.reload()).await;
            match result {
                Ok(Ok(true)) => tracing::info!(tenants = self.current().len(), "tenants changed"),
                Ok(Ok(false)) => complained.clear(),
                Ok(Err(error)) => {
                    failures();
                    let text = error.to_string();
                    if text != complained {
                        tracing::error!(%error, "tenants file can't be used; the earlier tenants stay");
                        complained = text;
                    }
                }
                Err(error) => tracing::error!(%error, "reading the tenants file failed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert!(!registry.reload().unwrap());
        write(&file("a", "p", "two"));
        assert!(registry.reload().unwrap());
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

    #[test]
    fn a_directory_of_files_is_one_set_of_tenants() {
        let dir = tempfile::tempdir().unwrap();
        for (name, project) in [("a", "p"), ("b", "q")] {
            let text = serde_json::to_string(&file(name, project, name)).unwrap();
            std::fs::write(dir.path().join(format!("{name}.json")), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("..data")).unwrap();
        assert_eq!(TenantsSource::Path(dir.path().into()).load().unwrap().tenants.len(), 2);
        let clash = serde_json::to_string(&file("c", "p", "c")).unwrap();
        std::fs::write(dir.path().join("c.json"), clash).unwrap();
        assert!(TenantsSource::Path(dir.path().into()).load().is_err());
    }
}
