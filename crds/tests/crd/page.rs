//! docs/logpipeline.md, the reference of the resource.

use std::fmt::Write;

use spillway_crds::status::conditions;

use super::{
    fields::{Field, below},
    schema,
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/logpipeline.md");

/// What each condition says when it is true.
const CONDITIONS: [(&str, &str); 7] = [
    (
        conditions::READY,
        "Records are received and loaded. False while another condition but `TenantsValid` isn't True, with the reason and message of the first of them, while the pipeline is suspended (`Suspending`, `Suspended`) and while it is being deleted (`Deleting`). While it is paused the reason is `Paused`, and the rest follows from its pods and from what was last said of everything else.",
    ),
    (
        conditions::SPEC_VALID,
        "The spec and everything that it names can be used. Otherwise nothing is changed, and what ran goes on.",
    ),
    (
        conditions::TENANTS_VALID,
        "Every tenant may send. Otherwise those with a mistake are left out, by name and field, and the others go on.",
    ),
    (
        conditions::BUCKET_READY,
        "The bucket is there, is as `storage.bucketPolicy` says, and can be written conditionally.",
    ),
    (
        conditions::SCHEMA_READY,
        "Table and views are as the spec says. A migration that is not made by itself is refused with the statements to run by hand.",
    ),
    (conditions::INGEST_AVAILABLE, "Ingest pods answer."),
    (conditions::SYNCER_AVAILABLE, "A syncer holds the Lease and makes progress."),
];

fn generated() -> String {
    let crd = spillway_crds::crd();
    let root = schema().properties.unwrap();
    let mut page = String::from(
        "# LogPipeline\n\nGenerated from `crds/src`; a test compares the two, `make crd` writes it anew. \
         `kubectl explain logpipeline.spec` shows the same.\n\n\
         `apiVersion: spillway.dev/v1alpha1`, `kind: LogPipeline`, short name `lp`, namespaced. A name has at most 40 \
         lower-case letters, digits and `-`, and begins with a letter: what the pipeline consists of is named after it.\n\n\
         Sizes are whole numbers of bytes, alone or with `k`, `M`, `G` (powers of 1000) or `Ki`, `Mi`, `Gi` (of 1024). \
         Durations are whole numbers with `ms`, `s`, `m`, `h` or `d`. A Secret is one of the pipeline's own namespace. \
         What is left out stays left out: the object holds what its user wrote, and the defaults below apply.\n\n\
         ```\nkubectl get lp\nkubectl wait --for=condition=Ready lp/NAME\n```\n",
    );
    let spec = &root["spec"];
    let (groups, single): (Vec<_>, Vec<_>) = spec
        .properties
        .iter()
        .flatten()
        .partition(|(_, property)| property.properties.is_some() || property.items.is_some());
    let all = below("spec", spec);
    let is_single = |field: &&Field| single.iter().any(|(name, _)| field.path == format!("spec.{name}"));
    section(&mut page, "spec", None, &all.iter().filter(is_single).collect::<Vec<_>>());
    for (name, _) in groups {
        let prefix = format!("spec.{name}");
        let intro = all.iter().find(|field| field.path == prefix);
        let inside: Vec<_> = all
            .iter()
            .filter(|field| field.path.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with(['.', '['])))
            .collect();
        section(&mut page, &prefix, intro, &inside);
    }
    page.push_str("\n## What can't be changed\n\n`storage.s3.bucket`, `storage.s3.prefix`, `clickhouse.database`, `clickhouse.cluster` and `schema.table` stay as they \
         were when the pipeline was made, and so does whether they are set: what was staged or loaded would stay behind. \
         `storage.s3` can be added, not taken away.\n");
    let status = below("status", &root["status"]);
    page.push_str("\n## status\n\n| field | type | meaning |\n|---|---|---|\n");
    for field in &status {
        writeln!(page, "| `{}` | {} | {} |", short(&field.path), field.type_(), cell(&field.meaning()))
            .unwrap();
    }
    page.push_str("\n## Conditions\n\n| type | what it says when it is true |\n|---|---|\n");
    for (type_, meaning) in CONDITIONS {
        writeln!(page, "| `{type_}` | {meaning} |").unwrap();
    }
    page.push_str("\n## Columns of `kubectl get`\n\n| column | from | meaning |\n|---|---|---|\n");
    for column in crd.spec.versions[0].additional_printer_columns.iter().flatten() {
        let wide = if column.priority.unwrap_or(0) > 0 { " With `-o wide`." } else { "" };
        let meaning = column.description.as_deref().unwrap_or("When it was made");
        writeln!(page, "| {} | `{}` | {meaning}.{wide} |", column.name, column.json_path).unwrap();
    }
    page
}

fn section(page: &mut String, title: &str, intro: Option<&Field>, fields: &[&Field]) {
    writeln!(page, "\n## {title}\n").unwrap();
    if let Some(intro) = intro {
        let default = intro.default().map(|default| format!(" Default: {default}.")).unwrap_or_default();
        writeln!(page, "{}{default}\n", intro.meaning()).unwrap();
    }
    page.push_str("| field | type | unit | default | bounds | meaning |\n|---|---|---|---|---|---|\n");
    for field in fields {
        let default = match (field.required, field.default()) {
            (true, _) => "required".to_owned(),
            (false, default) => default.unwrap_or_default(),
        };
        let unit = field.unit().unwrap_or_default();
        let cells = [field.type_(), unit, default, field.bounds(), field.meaning()].map(|text| cell(&text));
        writeln!(page, "| `{}` | {} |", short(&field.path), cells.join(" | ")).unwrap();
    }
}

/// Without `spec.` and `status.`, as the heading says that.
fn short(path: &str) -> &str {
    path.split_once('.').map_or(path, |(_, rest)| rest)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// `make crd` writes the page anew.
#[test]
fn the_reference_is_that_of_the_types() {
    let generated = generated();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PAGE, &generated).unwrap();
    }
    let kept = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(kept == generated, "docs/logpipeline.md is stale: make crd");
}

#[test]
fn every_condition_is_on_the_page() {
    assert_eq!(CONDITIONS.map(|(type_, _)| type_), conditions::ALL);
}

#[test]
fn kubectl_shows_what_a_person_asks_first() {
    let columns = spillway_crds::crd().spec.versions.remove(0).additional_printer_columns.unwrap();
    let (wide, narrow): (Vec<_>, Vec<_>) =
        columns.iter().partition(|column| column.priority.is_some_and(|priority| priority > 0));
    let names: Vec<_> = narrow.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["Ready", "Ingest", "Backlog", "Lag", "Syncer", "Age"]);
    assert_eq!(wide[0].name, "Reason");
}
