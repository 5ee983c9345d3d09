//! `spec.tenants`, checked one by one: a bad one is left out, the others go on.

use std::collections::BTreeMap;

use spillway_model::{ProjectId, TenantName, settings::ByteSize};

use super::{FieldError, LONGEST_RETENTION_DAYS, Problem, read::Reader};
use crate::tenants::{LimitsSpec, TenantSpec};

/// A tenant that may send.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tenant {
    /// Its place in `spec.tenants`, for messages.
    pub index: usize,
    pub name: TenantName,
    /// Name of the Secret of API keys.
    pub api_keys_secret: String,
    pub projects: Vec<ProjectId>,
    pub retention_days: u16,
    pub limits: Limits,
}

/// What a tenant may send at most, on each ingest pod. `None`: the settings' default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub records_per_second: Option<u32>,
    /// Bytes of uncompressed requests.
    pub bytes_per_second: Option<ByteSize>,
    /// Seconds' worth of both rates.
    pub burst: Option<u32>,
    pub max_record_bytes: Option<ByteSize>,
}

/// A tenant that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedTenant {
    /// As written, for messages.
    pub name: String,
    pub errors: Vec<FieldError>,
}

/// Splits the tenants into those that may send and those that are left out. The first to name a project or to
/// bear a name keeps it, so that a tenant added later can't take an earlier one away.
pub(super) fn check(specs: &[TenantSpec], default_retention: u16) -> (Vec<Tenant>, Vec<RefusedTenant>) {
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    let mut names: BTreeMap<TenantName, usize> = BTreeMap::new();
    let mut owners: BTreeMap<ProjectId, TenantName> = BTreeMap::new();
    for (index, spec) in specs.iter().enumerate() {
        match check_one(index, spec, default_retention, &names, &owners) {
            Ok(tenant) => {
                names.insert(tenant.name.clone(), index);
                owners.extend(tenant.projects.iter().map(|project| (project.clone(), tenant.name.clone())));
                good.push(tenant);
            }
            Err(errors) => refused.push(RefusedTenant { name: spec.name.clone(), errors }),
        }
    }
    (good, refused)
}

fn check_one(
    index: usize,
    spec: &TenantSpec,
    default_retention: u16,
    names: &BTreeMap<TenantName, usize>,
    owners: &BTreeMap<ProjectId, TenantName>,
) -> Result<Tenant, Vec<FieldError>> {
    let TenantSpec { name, api_keys_secret_ref, projects, limits, retention_days } = spec;
    let path = |field: &str| format!("spec.tenants[{index}].{field}");
    let mut reader = Reader::default();

    let parsed_name = TenantName::parse(name);
    match &parsed_name {
        Err(source) => {
            reader.refuse(path("name"), Problem::BadName { text: name.clone(), source: *source });
        }
        Ok(parsed) => {
            if let Some(first) = names.get(parsed) {
                let first = format!("spec.tenants[{first}].name");
                reader.refuse(path("name"), Problem::Duplicate { text: name.clone(), first });
            }
        }
    }
    if projects.is_empty() {
        reader.refuse(
            path("projects"),
            Problem::Missing { remedy: "name the projects that the tenant may send to" },
        );
    }
    let mut mine: BTreeMap<ProjectId, usize> = BTreeMap::new();
    let mut parsed_projects = Vec::new();
    for (at, text) in projects.iter().enumerate() {
        let path = format!("spec.tenants[{index}].projects[{at}]");
        let project = match ProjectId::parse(text) {
            Ok(project) => project,
            Err(source) => {
                reader.refuse(path, Problem::BadName { text: text.clone(), source });
                continue;
            }
        };
        if let Some(owner) = owners.get(&project) {
            let (project, owner) = (project.to_string(), owner.to_string());
            reader.refuse(path, Problem::ProjectTaken { project, owner });
        } else if let Some(first) = mine.insert(project.clone(), at) {
            let first = format!("spec.tenants[{index}].projects[{first}]");
            reader.refuse(path, Problem::Duplicate { text: text.clone(), first });
        } else {
            parsed_projects.push(project);
        }
    }
    if api_keys_secret_ref.name.is_empty() {
        reader.refuse(
            path("apiKeysSecretRef.name"),
            Problem::Missing { remedy: "name the Secret that holds the tenant's API keys" },
        );
    }
    let days = retention_days.unwrap_or(default_retention);
    reader.range(&path("retentionDays"), u64::from(days), 1, u64::from(LONGEST_RETENTION_DAYS));
    let limits = check_limits(&mut reader, &path("limits"), limits.as_ref());

    // A name that can't be parsed has been refused above: `finish` then never returns a tenant.
    let Ok(name) = parsed_name else { return reader.finish(()).and(Err(Vec::new())) };
    reader.finish(Tenant {
        index,
        name,
        api_keys_secret: api_keys_secret_ref.name.clone(),
        projects: parsed_projects,
        retention_days: days,
        limits,
    })
}

fn check_limits(reader: &mut Reader, path: &str, spec: Option<&LimitsSpec>) -> Limits {
    let Some(LimitsSpec { records_per_second, bytes_per_second, burst, max_record_bytes }) = spec else {
        return Limits::default();
    };
    if let Some(rate) = records_per_second {
        reader.range(&format!("{path}.recordsPerSecond"), u64::from(*rate), 1, 1_000_000_000);
    }
    if let Some(burst) = burst {
        reader.range(&format!("{path}.burst"), u64::from(*burst), 1, 60);
    }
    Limits {
        records_per_second: *records_per_second,
        bytes_per_second: reader.size(
            &format!("{path}.bytesPerSecond"),
            bytes_per_second.as_ref(),
            1 << 10,
            4095 << 20,
        ),
        burst: *burst,
        max_record_bytes: reader.size(
            &format!("{path}.maxRecordBytes"),
            max_record_bytes.as_ref(),
            64,
            256 << 20,
        ),
    }
}
