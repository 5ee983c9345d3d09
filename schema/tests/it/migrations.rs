//! What happens to databases in all the states in which they are found.

use crate::engine::{Engine, made_up, run, values};
use serde_json::json;
use spillway_model::settings::MessageIndex;
use spillway_model::{COLUMNS, Day};
use spillway_schema::ledger::{running, sync_statement};
use spillway_schema::migrations::{MIGRATIONS, SchemaError, statements};
use spillway_schema::preflight::{check_permissions, check_server, clock_skew};
use spillway_schema::sql::literal;
use spillway_schema::views::Partition;
use spillway_schema::{DATA_ERRORS, SchemaSpec, Topology, Version, View, apply};

fn spec() -> SchemaSpec {
    SchemaSpec::new("observability", "logs")
}

#[tokio::test]
async fn applying_twice_changes_nothing_the_second_time() {
    let engine = Engine::start();
    let client = engine.client();

    let first = apply(&client, &spec()).await.unwrap();
    let second = apply(&client, &spec()).await.unwrap();

    assert!(first.steps.len() > 10);
    assert_eq!(second.steps, []);
    assert_eq!(second.advice, []);
    let recorded = values(&client, "SELECT number, name FROM observability.logs_spillway_migrations").await;
    assert_eq!(recorded.len(), MIGRATIONS.len());
    check_server(&client).await.unwrap();
    check_permissions(&client, &spec()).await.unwrap();
    assert!(clock_skew(&client).await.unwrap().abs() < 5_000);
}

#[tokio::test]
async fn the_table_has_exactly_the_models_columns_in_order() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();

    let found = values(
        &client,
        "SELECT name, type FROM system.columns WHERE database = 'observability' AND table = 'logs' ORDER BY position",
    )
    .await;

    let wanted: Vec<_> =
        COLUMNS.iter().map(|c| json!({"name": c.name, "type": c.kind.clickhouse_type()})).collect();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn a_schema_that_broke_off_half_way_is_finished_by_the_next_run() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    for object in [
        "VIEW observability.logs_error_rate_feed",
        "VIEW observability.logs_tenant_volume",
        "TABLE observability.logs_spillway_migrations",
    ] {
        run(&client, &format!("DROP {object}")).await;
    }

    let again = apply(&client, &spec()).await.unwrap();

    assert_eq!(again.steps.len(), 3 + MIGRATIONS.len(), "{:?}", again.steps);
    assert_eq!(apply(&client, &spec()).await.unwrap().steps, []);
}

#[tokio::test]
async fn an_older_table_gains_what_it_lacks_and_keeps_its_rows() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    for view in ["error_rate", "http_latency", "tenant_volume"] {
        run(&client, &format!("DROP VIEW observability.logs_{view}_feed")).await;
    }
    run(&client, &made_up(&spec(), "old", 0, 1000)).await;
    run(
        &client,
        "ALTER TABLE observability.logs DROP INDEX idx_session_id, DROP COLUMN request_id, DROP COLUMN error_stack, \
         RESET SETTING non_replicated_deduplication_window",
    )
    .await;

    let applied = apply(&client, &spec()).await.unwrap();

    let whats: Vec<&str> = applied.steps.iter().map(|step| step.what.as_str()).collect();
    assert!(whats.iter().any(|what| what.starts_with("add column error_stack")), "{whats:?}");
    assert!(whats.iter().any(|what| what.starts_with("add column request_id")), "{whats:?}");
    assert!(whats.iter().any(|what| what.starts_with("add index idx_session_id")), "{whats:?}");
    assert!(whats.iter().any(|what| what.contains("non_replicated_deduplication_window")), "{whats:?}");
    let names = values(
        &client,
        "SELECT name FROM system.columns WHERE database = 'observability' AND table = 'logs' ORDER BY position",
    )
    .await;
    let wanted: Vec<_> = COLUMNS.iter().map(|c| json!({"name": c.name})).collect();
    assert_eq!(names, wanted, "added columns stand where a new table has them");
    assert_eq!(values(&client, "SELECT count() AS n FROM observability.logs").await, [json!({"n": 1000})]);

    // The views were added over rows: the advice fills them, however often it is followed.
    assert_eq!(applied.advice.len(), 3);
    for _ in 0..2 {
        for advice in &applied.advice {
            run(&client, &advice.sql).await;
        }
    }
    let total = values(&client, "SELECT sum(records) AS n FROM observability.logs_tenant_volume").await;
    assert_eq!(total, [json!({"n": 1000})]);
}

#[tokio::test]
async fn columns_that_others_added_are_left_alone() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    run(&client, "ALTER TABLE observability.logs ADD COLUMN team LowCardinality(String) DEFAULT 'none'")
        .await;
    assert_eq!(apply(&client, &spec()).await.unwrap().steps, []);
}

#[tokio::test]
async fn a_table_with_another_key_is_refused_with_statements_that_resolve_it() {
    let engine = Engine::start();
    let client = engine.client();
    run(&client, "CREATE DATABASE observability").await;
    run(
        &client,
        "CREATE TABLE observability.logs (id UUID, project_id LowCardinality(String), service LowCardinality(String), \
         timestamp DateTime64(9, 'UTC'), message String, retention_days UInt16) ENGINE = MergeTree \
         PARTITION BY toYYYYMM(timestamp) ORDER BY (service, timestamp)",
    )
    .await;
    run(
        &client,
        "INSERT INTO observability.logs SELECT generateUUIDv4(), 'p', 's', now64(9, 'UTC'), 'kept', 30",
    )
    .await;

    let refused = apply(&client, &spec()).await.unwrap_err();

    assert_eq!(refused.reason(), "SchemaDiffers");
    let SchemaError::Refused(refusals) = refused else { panic!("{refused}") };
    let whats: Vec<&str> = refusals.iter().map(|refusal| refusal.what.as_str()).collect();
    assert_eq!(whats, ["PARTITION BY", "ORDER BY", "TTL"]);
    let tables = values(&client, "SELECT name FROM system.tables WHERE database = 'observability'").await;
    assert_eq!(tables, [json!({"name": "logs"})], "nothing is changed by a refusal");

    for statement in &refusals[1].by_hand {
        run(&client, statement).await;
    }
    apply(&client, &spec()).await.unwrap();
    let kept = values(&client, "SELECT message FROM observability.logs").await;
    assert_eq!(kept, [json!({"message": "kept"})]);
    assert_eq!(apply(&client, &spec()).await.unwrap().steps, []);
}

#[tokio::test]
async fn a_column_of_another_type_is_refused_with_the_statement_that_changes_it() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    run(&client, "ALTER TABLE observability.logs MODIFY COLUMN http_duration_ms Int64").await;

    let refused = apply(&client, &spec()).await.unwrap_err();

    let text = refused.to_string();
    assert!(text.contains("MODIFY COLUMN `http_duration_ms` Float64") && text.contains("Int64"), "{text}");
    let SchemaError::Refused(refusals) = refused else { panic!("{text}") };
    run(&client, &refusals[0].by_hand[0]).await;
    assert_eq!(apply(&client, &spec()).await.unwrap().steps, []);
}

#[tokio::test]
async fn either_index_serves_a_search_for_a_word_and_an_existing_one_stays() {
    let engine = Engine::start();
    let client = engine.client();
    for (table, index, name) in [
        ("by_text", MessageIndex::Text, "idx_message_text"),
        ("by_bloom", MessageIndex::TokenBloom, "idx_message_tokens"),
    ] {
        let spec = SchemaSpec { message_index: index, ..SchemaSpec::new("observability", table) };
        apply(&client, &spec).await.unwrap();
        run(&client, &made_up(&spec, "b", 0, 20_000)).await;
        let search =
            format!("SELECT count() AS n FROM {} WHERE hasToken(message, 'declined')", spec.records());
        assert_eq!(values(&client, &search).await, [json!({"n": 20_000})]);
        let absent = format!("SELECT * FROM {} WHERE hasToken(message, 'absent')", spec.records());
        let explained = values(&client, &format!("SELECT explain FROM (EXPLAIN indexes = 1 {absent})")).await;
        let explained = serde_json::Value::from(explained).to_string();
        assert!(explained.contains(name), "{explained}");

        let auto = SchemaSpec { message_index: MessageIndex::Auto, ..spec };
        assert_eq!(apply(&client, &auto).await.unwrap().steps, []);
    }
}

#[tokio::test]
async fn codes_of_data_errors_have_the_names_the_server_gives_them() {
    let engine = Engine::start();
    let client = engine.client();
    for error in DATA_ERRORS {
        let name = values(&client, &format!("SELECT errorCodeToName({}) AS name", error.code)).await;
        assert_eq!(name, [json!({"name": error.name})], "{}", error.code);
    }
}

#[tokio::test]
async fn what_a_cluster_is_told_is_sql_that_the_server_can_parse() {
    let engine = Engine::start();
    let client = engine.client();
    let spec = SchemaSpec { topology: Topology::Cluster("main".to_owned()), ..spec() };
    let mut statements: Vec<String> =
        statements(&spec, Version::new(26, 9, 2)).into_iter().map(|step| step.sql).collect();
    let partition = Partition { day: Day(20_600), retention_days: 30 };
    for view in View::ALL {
        statements.extend(view.fold_statements(&spec, &partition, ["open"]));
        statements.push(view.backfill_statement(&spec));
    }
    statements.extend(sync_statement(&spec));
    statements.push(running(&spec, "id"));
    for statement in statements {
        run(&client, &format!("SELECT formatQuery({})", literal(&statement))).await;
    }
}
