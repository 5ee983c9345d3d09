//! `dead-letters replay`: stages rows again, exactly once.
//!
//! The plan (which rows under which keys) is written first, put-if-absent, so that every later call works on the same
//! keys; a second note says that all of them are staged. A call that finds a plan without that note was preceded by
//! one that broke off: an object that is no longer in the bucket may have been loaded since, so the table is asked for
//! the rows' ids before it is staged again.

use std::{collections::BTreeMap, fs, path::Path};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use spillway_bucket::{Bucket, Put, PutMeta};
use spillway_model::{
    FormatVersion, Home, Incarnation, ObjectKey, ProjectId, ServiceName, UnixMs,
    codec::{self, DEFAULT_LEVEL},
    read_row, write_row,
};
use spillway_schema::{ClickHouse, sql::literals};

use super::store::{self, DeadLetterError};
use crate::output::{self, Format};

/// What a replay stages; kept in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Format, 1.
    pub version: u32,
    /// Of all rows: a later call must bring the same.
    pub digest: String,
    pub keys: Vec<String>,
}

/// One object of a plan, with its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    pub key: String,
    pub rows: u64,
    /// Ids of its rows.
    pub ids: Vec<String>,
    /// Rows, one a line.
    pub lines: Vec<u8>,
}

/// What became of one object of dead letters.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    pub key: String,
    /// Staged by this call.
    pub staged: Vec<String>,
    /// Rows in them.
    pub rows: u64,
    /// An earlier call had done it.
    pub before: bool,
}

pub async fn run(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    table: &str,
    keys: &[String],
    repaired: Option<&Path>,
    format: Format,
) -> Result<(), DeadLetterError> {
    for key in keys {
        let replayed = replay(bucket, clickhouse, table, key, repaired).await?;
        match format {
            Format::Json => output::json(&replayed)?,
            Format::Human if replayed.before => output::line(&format!("{key} was replayed before")),
            Format::Human => {
                output::line(&format!("{key}: {} rows staged again", output::count(replayed.rows)))
            }
        }
    }
    Ok(())
}

async fn replay(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    table: &str,
    key: &str,
    repaired: Option<&Path>,
) -> Result<Replayed, DeadLetterError> {
    let mut replayed = Replayed { key: key.to_owned(), staged: Vec::new(), rows: 0, before: false };
    let letters = store::read(bucket, key).await?;
    let (place, lines) = match repaired {
        Some(path) => {
            let text =
                fs::read(path).map_err(|source| DeadLetterError::Rows { path: path.to_owned(), source })?;
            (path.display().to_string(), split(&text))
        }
        None => (key.to_owned(), letters.iter().map(|letter| letter.raw().unwrap_or_default()).collect()),
    };
    let earlier = read_plan(bucket, key).await?;
    let made = match &earlier {
        // The keys must be those of the first call.
        Some(plan) => plan_time(plan).unwrap_or_else(UnixMs::now),
        None => UnixMs::now(),
    };
    let objects = objects(key, &place, &lines, made)?;
    let plan = Plan {
        version: 1,
        digest: digest(&objects),
        keys: objects.iter().map(|object| object.key.clone()).collect(),
    };
    match &earlier {
        Some(earlier) if *earlier != plan => return Err(DeadLetterError::OtherRows { key: key.to_owned() }),
        Some(_) => {}
        None => {
            let body = Bytes::from(serde_json::to_vec(&plan)?);
            if bucket.put_if_absent(&store::plan_key(key), body, &PutMeta::default()).await? == Put::Exists {
                // Another call was first and is at work, or has just ended.
                return Err(DeadLetterError::OtherRows { key: key.to_owned() });
            }
        }
    }
    if bucket.head(&store::done_key(key)).await?.is_some() {
        replayed.before = true;
        return Ok(replayed);
    }
    for object in objects {
        let staged_before = earlier.is_some()
            && (bucket.head(&object.key).await?.is_some() || is_loaded(clickhouse, table, &object).await?);
        if !staged_before {
            stage(bucket, &object).await?;
            replayed.rows += object.rows;
            replayed.staged.push(object.key);
        }
    }
    let body = Bytes::from_static(b"{\"version\":1}");
    bucket.put_if_absent(&store::done_key(key), body, &PutMeta::default()).await?;
    Ok(replayed)
}

async fn read_plan(bucket: &Bucket, key: &str) -> Result<Option<Plan>, DeadLetterError> {
    match bucket.get(&store::plan_key(key)).await? {
        Some((body, _)) => Ok(Some(serde_json::from_slice(&body)?)),
        None => Ok(None),
    }
}

fn plan_time(plan: &Plan) -> Option<UnixMs> {
    plan.keys.first().and_then(|key| ObjectKey::parse(key).ok()).map(|key| key.time)
}

async fn stage(bucket: &Bucket, object: &Staged) -> Result<(), DeadLetterError> {
    let body = codec::encode(FormatVersion::V1, &object.lines, DEFAULT_LEVEL)?;
    let meta = PutMeta { content_type: Some("application/gzip"), tagging: None };
    match bucket.put_if_absent(&object.key, body.into(), &meta).await? {
        Put::Created(_) => Ok(()),
        Put::Exists => Err(DeadLetterError::Taken { key: object.key.clone() }),
    }
}

async fn is_loaded(clickhouse: &ClickHouse, table: &str, object: &Staged) -> Result<bool, DeadLetterError> {
    #[derive(Deserialize)]
    struct Count {
        rows: u64,
    }
    let ids = literals(object.ids.iter().map(String::as_str));
    let sql = format!("SELECT count() AS rows FROM {table} WHERE id IN ({ids})");
    let counts: Vec<Count> = clickhouse.query_json(&sql, &[]).await?;
    Ok(counts.first().is_some_and(|count| count.rows > 0))
}

fn split(text: &[u8]) -> Vec<Vec<u8>> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// The objects that rows become: one per stream. The same dead letters, rows and time give the same objects.
///
/// # Errors
/// Naming the first row that can't be loaded.
pub fn objects(
    key: &str,
    place: &str,
    lines: &[Vec<u8>],
    made: UnixMs,
) -> Result<Vec<Staged>, DeadLetterError> {
    let mut streams: BTreeMap<(ProjectId, ServiceName), (Vec<u8>, Vec<String>)> = BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        let (place, number) = (place.to_owned(), at + 1);
        let record = read_row(line.trim_ascii_end()).map_err(|source| DeadLetterError::Row {
            place: place.clone(),
            number,
            source,
        })?;
        let name = |error: spillway_model::NameError| DeadLetterError::Name {
            place: place.clone(),
            number,
            message: error.to_string(),
        };
        let project = ProjectId::parse(&record.project_id).map_err(name)?;
        let service = ServiceName::parse(&record.service).map_err(name)?;
        let (rows, ids) = streams.entry((project, service)).or_default();
        write_row(rows, &record);
        ids.push(record.id.to_string());
    }
    // A life of its own for each object of dead letters, so that no two replays share a key.
    let name = Sha256::digest(key);
    let mut seed = [0; 8];
    seed.copy_from_slice(&name[..8]);
    let incarnation = Incarnation::new("replay", u64::from_be_bytes(seed));
    let objects = streams.into_iter().zip(1..).map(|(((project, service), (lines, ids)), number)| {
        let key = ObjectKey {
            home: Home::Stream { project, service },
            time: made,
            incarnation: incarnation.clone(),
            number,
            version: FormatVersion::V1,
            rows: ids.len() as u64,
            raw_bytes: lines.len() as u64,
        };
        Staged { key: key.to_string(), rows: ids.len() as u64, ids, lines }
    });
    Ok(objects.collect())
}

fn digest(objects: &[Staged]) -> String {
    let mut hash = Sha256::new();
    objects.iter().for_each(|object| hash.update(&object.lines));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use spillway_model::{
        Record,
        settings::{BucketSettings, ClickHouseSettings},
    };
    use spillway_syncer::{
        batch::{BatchId, DeadRow},
        dead::{self, DeadLetter},
    };
    use uuid::Uuid;

    use super::*;

    const KEY: &str = "_dead-letter/2026-01-31/1-00000002.json.gz";

    fn row(project: &str, message: &str) -> Vec<u8> {
        let record = Record {
            id: Uuid::now_v7(),
            project_id: project.into(),
            service: "web".into(),
            message: message.into(),
            retention_days: 30,
            ..Record::default()
        };
        let mut line = Vec::new();
        write_row(&mut line, &record);
        line
    }

    async fn bucket(lines: &[Vec<u8>]) -> (tempfile::TempDir, Bucket) {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(&BucketSettings::directory(folder.path())).await.unwrap();
        let letter = |(at, line): (usize, &Vec<u8>)| {
            let row = DeadRow {
                row: at as u32,
                rows: 1,
                attempt: 0,
                project: None,
                reason: "refused".into(),
                detail: String::new(),
            };
            DeadLetter::new(BatchId { epoch: 1, number: 2 }, row, "shop/web/x".into(), line.trim_ascii_end())
        };
        let letters: Vec<_> = lines.iter().enumerate().map(letter).collect();
        let body = dead::encode(&letters).unwrap();
        bucket.put_if_absent(KEY, body.into(), &PutMeta::default()).await.unwrap();
        (folder, bucket)
    }

    /// Nothing listens there: a call that asks it fails.
    fn nowhere() -> ClickHouse {
        let url = "http://127.0.0.1:1".to_owned();
        ClickHouse::connect(&ClickHouseSettings { url, ..ClickHouseSettings::default() }).unwrap()
    }

    #[test]
    fn each_stream_becomes_one_object_whose_key_says_what_it_holds() {
        let lines = [row("shop", "a"), row("blog", "b"), row("shop", "c")];
        let objects = objects(KEY, KEY, &lines, UnixMs(1_700_000_000_000)).unwrap();
        let rows: Vec<_> = objects.iter().map(|object| object.rows).collect();
        assert_eq!(rows, [1, 2]);
        let key = ObjectKey::parse(&objects[1].key).unwrap();
        assert_eq!((key.rows, key.raw_bytes), (2, objects[1].lines.len() as u64));
    }

    #[test]
    fn a_row_that_would_be_a_dead_letter_again_is_refused() {
        let error = objects(KEY, KEY, &[b"{\"nonsense\":1}".to_vec()], UnixMs(0)).unwrap_err();
        assert!(matches!(error, DeadLetterError::Row { number: 1, .. }), "{error}");
    }

    #[tokio::test]
    async fn however_often_it_is_called_rows_are_staged_once() {
        let (_folder, bucket) = bucket(&[row("shop", "a"), row("shop", "b")]).await;
        let first = replay(&bucket, &nowhere(), "t", KEY, None).await.unwrap();
        assert_eq!((first.rows, first.before), (2, false));
        // Loaded and deleted meanwhile.
        bucket.delete_many(&first.staged).await.unwrap();
        let second = replay(&bucket, &nowhere(), "t", KEY, None).await.unwrap();
        assert_eq!((second.rows, second.before), (0, true));
        assert!(bucket.head(&first.staged[0]).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_replay_that_broke_off_asks_the_table_before_it_stages_again() {
        let (_folder, bucket) = bucket(&[row("shop", "a")]).await;
        let first = replay(&bucket, &nowhere(), "t", KEY, None).await.unwrap();
        bucket.delete_many(&[store::done_key(KEY)]).await.unwrap();
        // Still there: nothing to ask.
        assert_eq!(replay(&bucket, &nowhere(), "t", KEY, None).await.unwrap().rows, 0);
        bucket.delete_many(&[store::done_key(KEY), first.staged[0].clone()]).await.unwrap();
        let error = replay(&bucket, &nowhere(), "t", KEY, None).await.unwrap_err();
        assert!(matches!(error, DeadLetterError::ClickHouse(_)), "{error}");
    }

    #[tokio::test]
    async fn repaired_rows_can_be_replayed_once_and_no_others_after_them() {
        let (folder, bucket) = bucket(&[b"{\"broken\":".to_vec()]).await;
        let error = replay(&bucket, &nowhere(), "t", KEY, None).await.unwrap_err();
        assert!(error.to_string().contains("--rows"), "{error}");
        let path = folder.path().join("rows");
        fs::write(&path, row("shop", "repaired")).unwrap();
        assert_eq!(replay(&bucket, &nowhere(), "t", KEY, Some(&path)).await.unwrap().rows, 1);
        fs::write(&path, row("shop", "other")).unwrap();
        let error = replay(&bucket, &nowhere(), "t", KEY, Some(&path)).await.unwrap_err();
        assert!(matches!(error, DeadLetterError::OtherRows { .. }), "{error}");
    }
}
