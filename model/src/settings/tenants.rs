use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ByteSize, SettingsError, check_version, version};
use crate::name::{ProjectId, TenantName};

/// The tenants that ingest admits; read again when it changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantsFile {
    #[serde(default = "version")]
    pub version: u32,
    #[serde(default)]
    pub tenants: Vec<TenantSettings>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantSettings {
    pub name: TenantName,
    /// Digests of its API keys; any of them admits.
    #[serde(default)]
    pub keys: Vec<KeyDigest>,
    /// A project belongs to one tenant.
    #[serde(default)]
    pub projects: Vec<ProjectId>,
    /// Days its rows are kept; none: the pipeline's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u16>,
    #[serde(default)]
    pub limits: LimitSettings,
}

/// SHA-256 of an API key: the key itself is in no file that Spillway reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

/// None: no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LimitSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_second: Option<u64>,
    /// Bytes of request bodies, decompressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<ByteSize>,
    /// How many seconds' worth may come at once; none: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_record_bytes: Option<ByteSize>,
}

#[derive(Serialize, Deserialize)]
struct KeyText {
    sha256: String,
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell two keys apart in a log, too little to look one up.
        write!(f, "KeyDigest({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        KeyText { sha256: self.0.iter().map(|b| format!("{b:02x}")).collect() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let KeyText { sha256 } = KeyText::deserialize(deserializer)?;
        let bad = || de::Error::custom("a key's sha256 must be 64 hexadecimal digits");
        let mut digest = [0; 32];
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&sha256[at..at + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(digest))
    }
}

impl TenantsFile {
    /// # Errors
    /// When two tenants share a name, a project or a key, or a retention is 0.
    pub fn validate(&self) -> Result<(), SettingsError> {
        self.check_version()?;
        let mut check = TenantsCheck::default();
        self.tenants.iter().try_for_each(|tenant| check.add(tenant))
    }

    /// # Errors
    /// When it may mean something else than what this code reads.
    pub fn check_version(&self) -> Result<(), SettingsError> {
        check_version(self.version)
    }
}

/// A set of tenants of which none contradicts another. Of two that do, the one that came first stays.
#[derive(Debug, Default)]
pub struct TenantsCheck {
    names: BTreeSet<TenantName>,
    projects: BTreeMap<ProjectId, TenantName>,
    keys: BTreeMap<[u8; 32], TenantName>,
}

impl TenantsCheck {
    /// Takes a tenant into the set.
    ///
    /// # Errors
    /// When it shares a name, a project or a key with one that is in it, or has a limit that can't be; then
    /// the set stays as it was.
    pub fn add(&mut self, tenant: &TenantSettings) -> Result<(), SettingsError> {
        let name = &tenant.name;
        if self.names.contains(name) {
            return Err(SettingsError::value("tenants.name", format!("{:?} is there twice", name.as_str())));
        }
        let mut own = BTreeSet::new();
        for project in &tenant.projects {
            let other = self.projects.get(project).or_else(|| (!own.insert(project)).then_some(name));
            if let Some(other) = other {
                let (project, other, name) = (project.as_str(), other.as_str(), name.as_str());
                return Err(SettingsError::value(
                    "tenants.projects",
                    format!("give {project:?} to {other:?} and to {name:?}; a project has one tenant"),
                ));
            }
        }
        if let Some(other) = tenant.keys.iter().find_map(|key| self.keys.get(&key.0)) {
            let (other, name) = (other.as_str(), name.as_str());
            let message = format!("give one key to {other:?} and to {name:?}");
            return Err(SettingsError::value("tenants.keys", message));
        }
        if tenant.retention_days == Some(0) {
            return Err(SettingsError::value("tenants.retentionDays", "must be more than 0"));
        }
        if tenant.limits.burst == Some(0) {
            return Err(SettingsError::value("tenants.limits.burst", "must be more than 0"));
        }
        self.names.insert(name.clone());
        self.projects.extend(tenant.projects.iter().map(|project| (project.clone(), name.clone())));
        self.keys.extend(tenant.keys.iter().map(|key| (key.0, name.clone())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{IngestSettings, Place, SyncerSettings};

    fn tenant(name: &str, project: &str, key: u8) -> TenantSettings {
        TenantSettings {
            name: TenantName::parse(name).unwrap(),
            keys: vec![KeyDigest([key; 32])],
            projects: vec![ProjectId::parse(project).unwrap()],
            retention_days: None,
            limits: LimitSettings::default(),
        }
    }

    #[test]
    fn what_two_tenants_may_not_share_is_named() {
        let file = |a, b| TenantsFile { version: 1, tenants: vec![a, b] };
        assert!(file(tenant("a", "p", 1), tenant("b", "q", 2)).validate().is_ok());
        for (a, b, field) in [
            (tenant("a", "p", 1), tenant("a", "q", 2), "tenants.name"),
            (tenant("a", "p", 1), tenant("b", "p", 2), "tenants.projects"),
            (tenant("a", "p", 1), tenant("b", "q", 1), "tenants.keys"),
        ] {
            let error = file(a, b).validate().unwrap_err();
            assert!(matches!(&error, SettingsError::Value { field: f, .. } if *f == field), "{error}");
        }
    }

    #[test]
    fn files_of_a_newer_minor_version_are_read() {
        let json = r#"{"version":1,"new":true,"tenants":[{"name":"a","soon":1,"projects":["p"],
            "keys":[{"sha256":"0101010101010101010101010101010101010101010101010101010101010101"}],
            "limits":{"recordsPerSecond":5,"bytesPerSecond":"1Mi"}}]}"#;
        let file: TenantsFile = serde_json::from_str(json).unwrap();
        assert_eq!(file.tenants[0].keys, [KeyDigest([1; 32])]);
        assert_eq!(file.tenants[0].limits.bytes_per_second, Some(ByteSize::mib(1)));
        let again: TenantsFile = serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
        assert_eq!(again, file);
    }

    #[test]
    fn a_file_may_be_one_version_ahead_and_no_more() {
        for (version, good) in [(0, false), (1, true), (2, true), (3, false)] {
            let found = TenantsFile { version, tenants: vec![] }.validate();
            assert_eq!(found, if good { Ok(()) } else { Err(SettingsError::Version { found: version }) });
        }
    }

    #[test]
    fn a_tenant_that_is_not_taken_leaves_no_trace() {
        let mut check = TenantsCheck::default();
        check.add(&tenant("a", "p", 1)).unwrap();
        let mut both = tenant("b", "q", 2);
        both.projects.push(ProjectId::parse("p").unwrap());
        assert!(check.add(&both).is_err());
        check.add(&tenant("b", "q", 2)).unwrap();
        both = tenant("c", "r", 3);
        both.projects.push(ProjectId::parse("r").unwrap());
        assert!(check.add(&both).is_err(), "the same project twice");
    }

    #[test]
    fn only_the_bucket_has_no_default() {
        let ingest: IngestSettings =
            serde_json::from_str(r#"{"bucket":{"directory":"/data","prefix":"logs/","later":1}}"#).unwrap();
        assert_eq!(ingest.bucket.place, Place::Directory("/data".into()));
        assert_eq!(ingest.bucket.prefix, "logs/");
        let mut expected = IngestSettings::new(ingest.bucket.clone());
        assert_eq!(ingest, expected);
        assert!(ingest.validate().is_ok());
        expected.queue.tenant_share = 0.0;
        assert!(expected.validate().is_err());

        let syncer: SyncerSettings = serde_json::from_str(
            r#"{"bucket":{"s3":{"bucket":"b","region":"x","pathStyle":true}},"interval":"30s"}"#,
        )
        .unwrap();
        assert!(matches!(&syncer.bucket.place, Place::S3(s3) if s3.bucket == "b" && s3.path_style));
        assert!(syncer.validate().is_ok());
        let again: SyncerSettings = serde_json::from_str(&serde_json::to_string(&syncer).unwrap()).unwrap();
        assert_eq!(again, syncer);
        assert!(serde_json::from_str::<SyncerSettings>("{}").is_err());
    }
}
