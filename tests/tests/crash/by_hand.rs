//! What docs/recovery.md says under "By hand", done as it says: manifest and lists are lost together, and only the
//! records tell what is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use spillway_model::codec::{self, FormatVersion};
use spillway_model::settings::Span;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::proxy::{Action, Reply};
use spillway_tests::verdict::Verdict;
use spillway_tests::wait::until;

use crate::answers::inserts;
use crate::loaded_before::{delete_everywhere, of_days};
use crate::lost_state::{INCORRECT_DATA, is_killed, is_refused, lists, lose, pipeline};
use crate::{Case, case};

const LIMIT: usize = 1 << 20;

pub(crate) fn cases() -> Vec<Case> {
    vec![case("a lost manifest and lost lists, mended by hand", lost_together)]
}

async fn lost_together(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_partitions = 1;
    let grace = std::mem::replace(&mut pipeline.syncer_settings.delete_grace, Span::secs(600));
    // Loaded, and still staged.
    let loaded = pipeline.stage(&of_days(&[1, 0])).await;
    pipeline.start_syncer();
    until("the first object to be loaded", Duration::from_secs(40), async || {
        (pipeline.rows().await == 20).then_some(())
    })
    .await;
    pipeline.syncer().terminate();
    pipeline.syncer().wait(Duration::from_secs(40)).await;
    // Half inserted: one of two partitions.
    for days in [&[1][..], &[1], &[1, 0]] {
        pipeline.stage(&of_days(days)).await;
    }
    let refusal = Action::AnswerBefore(Reply::clickhouse_exception(INCORRECT_DATA));
    pipeline.clickhouse_proxy.add(inserts(refusal).times(1));
    is_killed(pipeline.start_syncer_with(Some("inserted:2"))).await;
    assert_eq!(pipeline.rows().await, 30);
    // Never planned.
    pipeline.stage(&of_days(&[0])).await;

    lose(&pipeline).await;
    let keys: Vec<String> = lists(&pipeline).await.into_iter().map(|(key, _)| key).collect();
    pipeline.bucket.delete_many(&keys).await.unwrap();
    is_refused(&mut pipeline, "in the table already").await;
    let Mended { objects, batches } = by_hand(&pipeline).await;
    assert_eq!((objects, batches.len()), (vec![loaded], 1));
    pipeline.rebuild().await;
    pipeline.syncer_settings.delete_grace = grace;
    pipeline.start_syncer();
    pipeline.conclude().await
}

struct Mended {
    /// They were loaded, and are deleted.
    objects: Vec<String>,
    /// They were loaded in part, and their rows are deleted.
    batches: BTreeSet<String>,
}

async fn by_hand(pipeline: &Pipeline) -> Mended {
    let table = pipeline.schema.records();
    let (mut whole, mut partly, mut sums) = (Vec::new(), BTreeSet::new(), BTreeMap::<_, u64>::new());
    for key in pipeline.backlog().await {
        let ids = ids(pipeline, &key).await;
        let sql = format!(
            "SELECT batch_id, count() AS rows FROM {table} WHERE id IN ('{}') GROUP BY batch_id",
            ids.join("', '")
        );
        let found: Vec<Value> = pipeline.clickhouse.query_json(&sql, &[]).await.unwrap();
        let batch = |row: &Value| row["batch_id"].as_str().unwrap().to_owned();
        for row in &found {
            *sums.entry(batch(row)).or_default() += row["rows"].as_u64().unwrap();
        }
        match &found[..] {
            [] => {}
            [row] if row["rows"].as_u64() == Some(ids.len() as u64) => whole.push((key, batch(row))),
            rows => partly.extend(rows.iter().map(batch)),
        }
    }
    for batch in &partly {
        let sql = format!("SELECT count() AS rows FROM {table} WHERE batch_id = '{batch}'");
        let rows: Vec<Value> = pipeline.clickhouse.query_json(&sql, &[]).await.unwrap();
        assert_eq!(rows[0]["rows"].as_u64(), Some(sums[batch]), "all of its objects are there");
        delete_everywhere(pipeline, &format!("batch_id = '{batch}'")).await;
    }
    whole.retain(|(_, batch)| !partly.contains(batch));
    let objects: Vec<String> = whole.into_iter().map(|(key, _)| key).collect();
    pipeline.bucket.delete_many(&objects).await.unwrap();
    Mended { objects, batches: partly }
}

/// The ids of the object's lines.
async fn ids(pipeline: &Pipeline, key: &str) -> Vec<String> {
    let (bytes, _) = pipeline.bucket.get(key).await.unwrap().expect("a staged object");
    let lines = String::from_utf8(codec::decode(FormatVersion::V1, &bytes, LIMIT).unwrap()).unwrap();
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}
