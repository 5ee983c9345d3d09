//! Where a pipeline's bucket and ClickHouse are, for the commands that look at them from outside.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use spillway_bucket::Bucket;
use spillway_crds::{
    FieldError, Secrets, ValidatedPipeline,
    settings::{self, Files, SettingsError, StandIns},
    validate,
};
use spillway_model::settings::{self as model, BucketSettings, ClickHouseSettings};
use spillway_schema::ClickHouse;
use tempfile::TempDir;

use crate::{
    exit::{Exit, Failure},
    manifest,
    up::{files, signals::Signals},
};

/// Which pipeline.
#[derive(Clone, Debug, clap::Args)]
pub struct PlaceArgs {
    /// Manifest file of the pipeline
    #[arg(short, long, global = true, value_name = "FILE", default_value = "examples/quickstart.yaml")]
    pub file: PathBuf,
    /// Folder that `spillway up` keeps its data in
    #[arg(long, global = true, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
    /// Port of the ClickHouse that `spillway up` started, for a pipeline that names none
    #[arg(long, global = true, value_name = "PORT", default_value_t = 8123)]
    pub clickhouse_port: u16,
}

/// A pipeline that was read and checked.
pub struct Place {
    pub bucket: BucketSettings,
    pub clickhouse: ClickHouseSettings,
    /// Holds the credentials. Not the data folder's, which belong to whoever runs there.
    _files: TempDir,
}

impl Place {
    /// Reads the file that the command line names, checks the pipeline, and writes the credentials that it names into
    /// a folder of their own.
    ///
    /// # Errors
    /// Everything that is wrong with it, by line or field.
    pub fn read(args: &PlaceArgs) -> Result<Self, Failure> {
        let (pipeline, secrets) = read_pipeline(&args.file)?;
        let (files, folder) = write_files(&pipeline, &secrets)?;
        let local = format!("http://127.0.0.1:{}", args.clickhouse_port);
        let stand_ins = stand_ins(&args.data, local);
        let bucket = settings::bucket(&pipeline, &files, &stand_ins).map_err(unusable)?;
        let clickhouse = settings::clickhouse(&pipeline, &files, &stand_ins).map_err(unusable)?;
        Ok(Self { bucket, clickhouse, _files: folder })
    }

    /// Opens the bucket.
    ///
    /// # Errors
    /// When its settings can't work, or when it is a folder that isn't there: opening would make it.
    pub async fn open_bucket(&self) -> Result<Bucket, Failure> {
        if let model::Place::Directory(folder) = &self.bucket.place
            && !folder.is_dir()
        {
            let folder = folder.display();
            return Err(Failure::new(
                Exit::Start,
                format!("there is no bucket {folder}; check --file and --data"),
            ));
        }
        Bucket::open(&self.bucket).await.map_err(|error| Failure::new(Exit::Start, error))
    }

    /// A client of the ClickHouse.
    ///
    /// # Errors
    /// When its settings can't work.
    pub fn connect(&self) -> Result<ClickHouse, Failure> {
        ClickHouse::connect(&self.clickhouse).map_err(|error| Failure::new(Exit::Start, error))
    }

    /// The table, as SQL names it.
    pub fn table(&self) -> String {
        format!("{}.{}", self.clickhouse.database, self.clickhouse.table)
    }
}

/// The ClickHouse of a pipeline, or `local` where it names none, for one that needn't have the bucket's credentials.
/// Its own are in the folder.
///
/// # Errors
/// When a Secret or one of its entries is missing.
pub fn clickhouse(
    pipeline: &ValidatedPipeline,
    secrets: &Secrets,
    local: &str,
) -> Result<(ClickHouseSettings, TempDir), Failure> {
    let mut pipeline = pipeline.clone();
    pipeline.storage.s3 = None;
    let (files, folder) = write_files(&pipeline, secrets)?;
    let stand_ins = StandIns { directory: None, clickhouse: Some(local.to_owned()) };
    Ok((settings::clickhouse(&pipeline, &files, &stand_ins).map_err(unusable)?, folder))
}

/// Into a folder of their own, which only we can read, and which goes when it is dropped.
fn write_files(pipeline: &ValidatedPipeline, secrets: &Secrets) -> Result<(Files, TempDir), Failure> {
    let ours = Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new()
        .prefix("spillway-")
        .permissions(ours)
        .tempdir()
        .map_err(|error| Failure::new(Exit::Start, error))?;
    let files =
        files::write(pipeline, secrets, folder.path()).map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok((files, folder))
}

/// Runs a command until it is done or a signal comes. A signal's own default would leave the credentials behind.
///
/// # Errors
/// Those of the command, and that it was interrupted.
pub async fn until_interrupted(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let mut signals = Signals::listen().map_err(|error| Failure::new(Exit::Start, error))?;
    tokio::select! {
        done = work => done,
        () = signals.next() => Err(Failure::new(Exit::Forced, "interrupted")),
    }
}

/// What stands in for a bucket and a ClickHouse that the pipeline doesn't name.
pub fn stand_ins(data: &Path, clickhouse: String) -> StandIns {
    StandIns { directory: Some(data.join("bucket")), clickhouse: Some(clickhouse) }
}

/// Settings that can't be had from a pipeline.
pub fn unusable(error: SettingsError) -> Failure {
    Failure::new(Exit::Usage, error)
}

/// Reads a file and checks its pipeline. On one machine a tenant that would be left out is an error: whoever wrote
/// it is there to correct it.
///
/// # Errors
/// Everything that is wrong with it, by line or field.
pub fn read_pipeline(file: &Path) -> Result<(ValidatedPipeline, Secrets), Failure> {
    let manifest = manifest::read(file).map_err(|error| Failure::new(Exit::Usage, error))?;
    let pipeline = validate(&manifest.pipeline).map_err(|errors| wrong(file, &errors))?;
    let refused: Vec<FieldError> =
        pipeline.refused_tenants.iter().flat_map(|tenant| tenant.errors.clone()).collect();
    if refused.is_empty() { Ok((pipeline, manifest.secrets)) } else { Err(wrong(file, &refused)) }
}

/// All mistakes, one a line.
pub fn wrong(file: &Path, errors: &[FieldError]) -> Failure {
    let lines: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
    Failure::new(Exit::Usage, format!("{} can't be run:{}", file.display(), lines.concat()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FILE: &str = "apiVersion: spillway.dev/v1alpha1\nkind: LogPipeline\nmetadata: {name: p}\n\
        spec:\n  storage: {s3: {bucket: logs, credentialsSecretRef: {name: missing}}}\n  \
        clickhouse: {url: 'http://ch:8123', credentialsSecretRef: {name: ch}}\n---\n\
        apiVersion: v1\nkind: Secret\nmetadata: {name: ch}\nstringData: {username: u, password: other}\n---\n\
        apiVersion: v1\nkind: Secret\nmetadata: {name: s3}\n\
        stringData: {access_key_id: other, secret_access_key: other}\n";

    fn args(text: &str, folder: &Path) -> PlaceArgs {
        let file = folder.join("pipeline.yaml");
        fs::write(&file, text).unwrap();
        PlaceArgs { file, data: folder.join("data"), clickhouse_port: 1 }
    }

    #[test]
    fn looking_at_a_pipeline_leaves_the_credentials_of_a_running_one_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(&FILE.replace("missing", "s3"), folder.path());
        let running = args.data.join("secrets/clickhouse/password");
        fs::create_dir_all(running.parent().unwrap()).unwrap();
        fs::write(&running, "theirs").unwrap();
        let place = Place::read(&args).unwrap();
        let ours = place.clickhouse.credentials_dir.clone().unwrap();
        assert_eq!(fs::read_to_string(ours.join("password")).unwrap(), "other");
        assert_eq!(fs::read_to_string(&running).unwrap(), "theirs");
        assert!(!args.data.join("secrets/s3").exists());
        let temporary = place._files.path().to_owned();
        assert_eq!(fs::metadata(&temporary).unwrap().permissions().mode() & 0o777, 0o700);
        drop(place);
        assert!(!temporary.exists());
    }

    #[test]
    fn the_table_can_be_asked_without_the_credentials_of_the_bucket() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(FILE, folder.path());
        let (pipeline, secrets) = read_pipeline(&args.file).unwrap();
        let (settings, _files) = clickhouse(&pipeline, &secrets, "http://local").unwrap();
        let folder = settings.credentials_dir.unwrap();
        assert_eq!(fs::read_to_string(folder.join("password")).unwrap(), "other");
        assert_eq!(settings.url, "http://ch:8123");
    }

    #[tokio::test]
    async fn a_bucket_that_is_not_there_is_not_made_by_looking_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = FILE.split("  storage").next().unwrap().replace("spec:\n", "spec: {}\n");
        let args = args(&pipeline, folder.path());
        let failure = Place::read(&args).unwrap().open_bucket().await.err().unwrap();
        assert_eq!(failure.exit, Exit::Start);
        assert!(!args.data.exists());
    }
}
