//! Where a pipeline's bucket and ClickHouse are, for the commands that look at them from outside.

use std::path::{Path, PathBuf};

use spillway_bucket::Bucket;
use spillway_crds::{FieldError, Secrets, ValidatedPipeline, settings, validate};
use spillway_model::settings::{BucketSettings, ClickHouseSettings};
use spillway_schema::ClickHouse;
use tempfile::TempDir;

use crate::{
    exit::{Exit, Failure},
    manifest,
    up::files,
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
    pub pipeline: ValidatedPipeline,
    pub secrets: Secrets,
    pub bucket: BucketSettings,
    pub clickhouse: ClickHouseSettings,
    /// Holds the credentials. Not the data folder's, which belong to whoever runs there.
    _files: TempDir,
}

impl Place {
    /// The place that the command line names.
    ///
    /// # Errors
    /// As [`Place::of`].
    pub fn read(args: &PlaceArgs) -> Result<Self, Failure> {
        Self::of(&args.file, &args.data, &format!("http://127.0.0.1:{}", args.clickhouse_port))
    }

    /// Reads the file, checks the pipeline, and writes the credentials that it names into a folder of their own.
    /// `data` and `clickhouse` are those of `spillway up`, for what the pipeline doesn't name.
    ///
    /// # Errors
    /// Everything that is wrong with it, by line or field.
    pub fn of(file: &Path, data: &Path, clickhouse: &str) -> Result<Self, Failure> {
        let (pipeline, secrets) = read_pipeline(file)?;
        let folder = tempfile::tempdir().map_err(|error| Failure::new(Exit::Start, error))?;
        let files = files::write(&pipeline, &secrets, folder.path())
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        let bucket = settings::bucket(&pipeline, &files, &bucket_folder(data));
        let clickhouse = settings::clickhouse(&pipeline, &files, clickhouse);
        Ok(Self { pipeline, secrets, bucket, clickhouse, _files: folder })
    }

    /// Opens the bucket.
    ///
    /// # Errors
    /// When its settings can't work.
    pub async fn open_bucket(&self) -> Result<Bucket, Failure> {
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

/// The folder that stands in for a bucket.
pub fn bucket_folder(data: &Path) -> PathBuf {
    data.join("bucket")
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
