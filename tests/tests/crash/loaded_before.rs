//! Staged objects that are in the table and that nothing names any more: a PUT that was retried brought one back, or
//! somebody took its batch out of the manifest. What is loaded whole is deleted again; what is loaded in part is neither
//! loaded again nor deleted, and holds nothing else up.

use std::time::Duration;

use spillway_model::settings::Span;
use spillway_model::time::UnixNanos;
use spillway_schema::View;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::stage::Object;
use spillway_tests::verdict::Verdict;
use spillway_tests::wait::until;

use crate::{Case, case};

const MANIFEST: &str = "_spillway/manifest.json";
const STATUS: &str = "_spillway/status.json";
const DAY: i64 = 86_400_000_000_000;
/// Half of it makes a key old.
const REMEMBERED: Duration = Duration::from_secs(2);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("an object that was loaded and forgotten is deleted", loaded_whole),
        case("an object of which one partition was loaded waits for help", async |servers, name| {
            loaded_in_part(servers, name, "inserted:1", false).await
        }),
        case("an object of which one row is missing waits for help", async |servers, name| {
            loaded_in_part(servers, name, "deleting", true).await
        }),
    ]
}

/// Ten records of each of these days, counted back from today. Each has a time of its own, by which it is found.
pub(crate) fn of_days(ages: &[i64]) -> Object {
    let UnixNanos(now) = UnixNanos::now();
    let mut object = Object::default();
    for age in ages {
        for number in 0..10 {
            object.record(UnixNanos(now - age * DAY + number), "");
        }
    }
    object
}

/// One insert to a partition.
async fn pipeline(servers: &Servers, name: &str) -> Pipeline {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_partitions = 1;
    pipeline.syncer_settings.removed_memory = Span::ms(u64::try_from(REMEMBERED.as_millis()).unwrap());
    pipeline
}

/// Loads the object until a syncer is killed there, and takes its batch out of the manifest.
async fn forgotten_at(pipeline: &mut Pipeline, step: &str, object: &Object) -> String {
    let key = pipeline.stage(object).await;
    let killed = pipeline.start_syncer_with(Some(step)).wait(Duration::from_secs(40)).await;
    assert_eq!(killed.code(), None, "it should have been killed");
    let (bytes, tag) = pipeline.bucket.get(MANIFEST).await.unwrap().expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(manifest["batches"].as_object().map(serde_json::Map::len), Some(1));
    manifest["batches"] = serde_json::json!({});
    let body = serde_json::to_vec(&manifest).unwrap().into();
    pipeline.bucket.swap(MANIFEST, Some(&tag), body).await.unwrap();
    tokio::time::sleep(REMEMBERED / 2).await;
    key
}

async fn loaded_whole(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    let key = forgotten_at(&mut pipeline, "deleting", &of_days(&[1, 0])).await;
    assert_eq!(pipeline.rows().await, 20);
    assert!(pipeline.bucket.head(&key).await.unwrap().is_some());
    pipeline.stage(&of_days(&[0])).await;
    pipeline.start_syncer();
    pipeline.conclude().await
}

async fn loaded_in_part(servers: &mut Servers, name: &str, step: &str, but_one_row: bool) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    let object = of_days(&[1, 0]);
    let key = forgotten_at(&mut pipeline, step, &object).await;
    if but_one_row {
        let last = object.ids.last().unwrap();
        delete(&pipeline, &pipeline.schema.records().to_string(), &format!("message = '{last}'")).await;
    }
    let loaded = if but_one_row { 19 } else { 10 };
    assert_eq!(pipeline.rows().await, loaded);
    pipeline.stage(&of_days(&[0, 1, 2])).await;
    pipeline.start_syncer();
    until("the other object to be loaded", Duration::from_secs(40), async || {
        (pipeline.rows().await == loaded + 30).then_some(())
    })
    .await;
    until("the status to name the object", Duration::from_secs(40), async || {
        let (bytes, _) = pipeline.bucket.get(STATUS).await.unwrap()?;
        let status: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let error = &status["lastError"];
        (error["reason"] == "ObjectPartlyLoaded" && error["message"].as_str()?.contains(&key)).then_some(())
    })
    .await;
    assert!(pipeline.bucket.head(&key).await.unwrap().is_some(), "rows that are nowhere else were deleted");
    assert_eq!(pipeline.rows().await, loaded + 30, "rows were loaded twice");
    // As docs/recovery.md says.
    delete_everywhere(&pipeline, "batch_id LIKE '%-1-00000001'").await;
    pipeline.conclude().await
}

/// In the table and in what the views are made of.
pub(crate) async fn delete_everywhere(pipeline: &Pipeline, which: &str) {
    let views = View::of(&pipeline.schema).map(|view| view.target(&pipeline.schema));
    for table in std::iter::once(pipeline.schema.records()).chain(views) {
        delete(pipeline, &table.to_string(), which).await;
    }
}

async fn delete(pipeline: &Pipeline, table: &str, which: &str) {
    let wait = [("mutations_sync", "2".to_owned())];
    pipeline.clickhouse.execute(&format!("ALTER TABLE {table} DELETE WHERE {which}"), &wait).await.unwrap();
}
