//! The statements as they reach a server, kept as files so that a change of the schema shows in its diff.
//! `UPDATE_GOLDEN=1 cargo test -p spillway-schema --test it golden` writes them anew.

use std::path::Path;

use spillway_model::Day;
use spillway_schema::drop::drops;
use spillway_schema::existing::{Existing, ExistingObject};
use spillway_schema::migrations::statements;
use spillway_schema::views::Partition;
use spillway_schema::{DayRange, SchemaSpec, Topology, Version, View};

fn spec() -> SchemaSpec {
    SchemaSpec::new("spillway", "logs")
}

fn clustered() -> SchemaSpec {
    SchemaSpec { topology: Topology::Cluster("main".to_owned()), ..spec() }
}

fn script(spec: &SchemaSpec, version: Version) -> String {
    statements(spec, version).into_iter().map(|step| format!("-- {}\n{};\n\n", step.what, step.sql)).collect()
}

#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        golden,
        text,
        "{} differs; if it should, write it anew (see the top of this test)",
        file.display()
    );
}

#[test]
fn one_server_with_the_text_index_gets_merge_trees() {
    let text = script(&spec(), Version::new(26, 9, 2));
    assert!(text.contains("TYPE text(") && !text.contains("tokenbf_v1"));
    assert_golden("single.sql", &text);
}

#[test]
fn a_server_before_26_2_gets_a_token_bloom_filter() {
    let text = script(&spec(), Version::new(24, 8, 4));
    assert!(text.contains("tokenbf_v1") && !text.contains("TYPE text("));
    assert_golden("single-24.8.sql", &text);
}

#[test]
fn a_cluster_gets_replicated_tables_and_a_distributed_one_everywhere() {
    let text = script(&clustered(), Version::new(26, 3, 1));
    for statement in text.split(";\n\n").filter(|statement| statement.contains("CREATE")) {
        assert!(statement.contains("ON CLUSTER `main`"), "{statement}");
    }
    assert_golden("cluster.sql", &text);
}

#[test]
fn repairs_and_folds_read_as_they_are_documented() {
    let days = DayRange { first: Day(20_700), last: Day(20_701) };
    let partition = Partition { day: Day(20_600), retention_days: 30 };
    let mut text = String::new();
    for view in View::ALL {
        text.push_str(&format!(
            "-- repair {}\n{};\n\n",
            view.suffix(),
            view.repair_statement(&spec(), "b-1", days, 2)
        ));
        for sql in view.fold_statements(&spec(), &partition, ["b-open"]) {
            text.push_str(&format!("-- fold {}\n{sql};\n\n", view.suffix()));
        }
    }
    assert_golden("views.sql", &text);
}

/// Everything that was created, as a server would list it.
fn created(spec: &SchemaSpec) -> Existing {
    let replicated = if matches!(spec.topology, Topology::Cluster(_)) { "Replicated" } else { "" };
    let mut objects = vec![
        (spec.local(&spec.table).name, format!("{replicated}MergeTree")),
        (spec.migrations().name, format!("{replicated}MergeTree")),
    ];
    if matches!(spec.topology, Topology::Cluster(_)) {
        objects.push((spec.records().name, "Distributed".to_owned()));
    }
    for view in View::ALL {
        objects.push((view.view(spec).name, "View".to_owned()));
        objects.push((view.feed(spec).name, "MaterializedView".to_owned()));
        objects.push((view.target(spec).name, format!("{replicated}ReplacingMergeTree")));
    }
    let objects = objects
        .into_iter()
        .map(|(name, engine)| (name, ExistingObject { engine, ..ExistingObject::default() }));
    Existing { database: true, objects: objects.collect(), recorded: vec![1] }
}

#[test]
fn what_reads_or_feeds_a_table_is_dropped_before_it_and_the_record_last() {
    for (name, spec) in [("drop-single.sql", spec()), ("drop-cluster.sql", clustered())] {
        let text: String =
            drops(&spec, &created(&spec)).into_iter().map(|removal| format!("{};\n", removal.sql)).collect();
        assert_golden(name, &text);
    }
}

#[test]
fn an_object_of_our_name_that_is_of_another_kind_is_left() {
    let mut existing = created(&spec());
    existing.objects.insert(
        "logs_error_rate".to_owned(),
        ExistingObject { engine: "MergeTree".to_owned(), ..ExistingObject::default() },
    );
    let drops = drops(&spec(), &existing);
    assert!(drops.iter().all(|removal| removal.object.name != "logs_error_rate"));
    assert_eq!(drops.len(), existing.objects.len() - 1);
}
