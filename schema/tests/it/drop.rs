//! What is dropped with a pipeline, and what is not.

use crate::engine::{Engine, made_up, run, values};
use serde_json::{Value, json};
use spillway_model::settings::ClickHouseSettings;
use spillway_schema::drop::WhyKept;
use spillway_schema::{ClickHouse, Dropped, Login, SchemaSpec, apply, drop_all};

const PIPELINE: &str = "0123abcd";

fn spec() -> SchemaSpec {
    SchemaSpec::new("observability", "logs")
}

async fn tables(client: &ClickHouse) -> Vec<Value> {
    values(client, "SELECT name FROM system.tables WHERE database = 'observability' ORDER BY name").await
}

#[tokio::test]
async fn what_the_pipeline_made_goes_and_foreign_tables_and_the_database_stay() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    let other = SchemaSpec::new("observability", "audit");
    apply(&client, &other).await.unwrap();
    let of_other = tables(&client).await.len() - 11;
    run(&client, "CREATE TABLE observability.logs_by_hand (n UInt8) ENGINE = MergeTree ORDER BY n").await;
    run(&client, &made_up(&spec(), &format!("{PIPELINE}-1-00000001"), 0, 1000)).await;

    let Dropped::All(dropped) = drop_all(&client, &spec(), Some(PIPELINE)).await.unwrap() else {
        panic!("kept")
    };

    assert_eq!(dropped.len(), 11, "{dropped:?}");
    let left = tables(&client).await;
    assert!(left.contains(&json!({"name": "logs_by_hand"})));
    assert_eq!(left.len(), of_other + 1, "{left:?}");
    assert_eq!(drop_all(&client, &spec(), Some(PIPELINE)).await.unwrap(), Dropped::All(Vec::new()));
    apply(&client, &spec()).await.unwrap();
}

#[tokio::test]
async fn a_table_with_anybody_elses_rows_is_kept_and_the_statements_are_given() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    run(&client, &made_up(&spec(), &format!("{PIPELINE}-1-00000001"), 0, 100)).await;
    let before = tables(&client).await;
    for pipeline in [None, Some("another"), Some("0123abc")] {
        let dropped = drop_all(&client, &spec(), pipeline).await.unwrap();
        let Dropped::Kept { why, .. } = &dropped else { panic!("{pipeline:?}: {dropped}") };
        assert_eq!(*why, WhyKept::ForeignRows);
        assert!(dropped.to_string().contains("DROP TABLE IF EXISTS `observability`.`logs`"), "{dropped}");
    }
    run(&client, &made_up(&spec(), "by-hand", 0, 1)).await;
    let dropped = drop_all(&client, &spec(), Some(PIPELINE)).await.unwrap();
    let Dropped::Kept { by_hand, .. } = dropped else { panic!("{dropped}") };
    assert_eq!(tables(&client).await, before);
    for statement in by_hand {
        run(&client, &statement).await;
    }
    assert_eq!(tables(&client).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_table_that_was_refused_is_not_dropped() {
    let engine = Engine::start();
    let client = engine.client();
    run(&client, "CREATE DATABASE observability").await;
    run(&client, "CREATE TABLE observability.logs (batch_id String) ENGINE = MergeTree ORDER BY batch_id")
        .await;
    apply(&client, &spec()).await.unwrap_err();
    let dropped = drop_all(&client, &spec(), None).await.unwrap();
    let Dropped::Kept { why, .. } = dropped else { panic!("{dropped}") };
    assert_eq!(why, WhyKept::NotRecorded);
    assert_eq!(tables(&client).await.len(), 1);
}

#[tokio::test]
async fn an_empty_table_of_nobody_known_is_not_dropped() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    let before = tables(&client).await;
    let dropped = drop_all(&client, &spec(), None).await.unwrap();
    let Dropped::Kept { why, .. } = dropped else { panic!("{dropped}") };
    assert_eq!(why, WhyKept::NoManifest);
    assert_eq!(tables(&client).await, before);
}

#[tokio::test]
async fn dropping_that_broke_off_is_finished_by_the_next_run() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    for object in ["VIEW observability.logs_error_rate_feed", "TABLE observability.logs"] {
        run(&client, &format!("DROP {object}")).await;
    }
    let Dropped::All(dropped) = drop_all(&client, &spec(), Some(PIPELINE)).await.unwrap() else {
        panic!("kept")
    };
    assert_eq!(dropped.len(), 9);
    assert_eq!(tables(&client).await, Vec::<Value>::new());
    let elsewhere = SchemaSpec::new("nowhere", "logs");
    assert_eq!(drop_all(&client, &elsewhere, None).await.unwrap(), Dropped::All(Vec::new()));
}

#[tokio::test]
async fn a_login_as_a_value_reaches_the_server_and_stays_out_of_logs() {
    let engine = Engine::start();
    let settings = ClickHouseSettings { url: engine.url().to_owned(), ..ClickHouseSettings::default() };
    let login = Login { username: "default".to_owned(), password: String::new() };
    let client = ClickHouse::connect_as(&settings, Some(&login), None).unwrap();
    assert_eq!(values(&client, "SELECT 1 AS n").await, [json!({"n": 1})]);
    let bad = Login { username: "a\nb".to_owned(), password: "hidden".to_owned() };
    let error = ClickHouse::connect_as(&settings, Some(&bad), None).unwrap_err();
    assert!(error.to_string().contains("username") && !format!("{bad:?}").contains("hidden"), "{error}");
    assert!(ClickHouse::connect_as(&settings, None, Some(b"no certificate")).is_err());
}
