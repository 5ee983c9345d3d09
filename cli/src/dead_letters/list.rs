//! `dead-letters list`

use std::collections::BTreeMap;

use serde::Serialize;
use spillway_bucket::Bucket;
use spillway_syncer::dead::DeadLetter;

use super::store::{self, DeadLetterError};
use crate::output::{self, Format, Table};

#[derive(Serialize)]
struct Line {
    key: String,
    rows: u64,
    /// Rows by project; `?` where it can't be told.
    projects: BTreeMap<String, u64>,
    /// Rows by reason.
    reasons: BTreeMap<String, u64>,
    /// All of them have been staged again.
    replayed: bool,
}

pub async fn run(
    bucket: &Bucket,
    date: Option<&str>,
    limit: usize,
    format: Format,
) -> Result<(), DeadLetterError> {
    let keys = store::keys(bucket, date).await?;
    let skipped = keys.len().saturating_sub(limit);
    let mut lines = Vec::new();
    for key in &keys[skipped..] {
        let letters = store::read(bucket, key).await?;
        let replayed = bucket.head(&store::done_key(key)).await?.is_some();
        lines.push(line(key, &letters, replayed));
    }
    match format {
        Format::Json => output::json(&lines)?,
        Format::Human => output::line(&text(&lines, skipped)),
    }
    Ok(())
}

fn line(key: &str, letters: &[DeadLetter], replayed: bool) -> Line {
    let (mut projects, mut reasons) = (BTreeMap::new(), BTreeMap::new());
    for letter in letters {
        let project = letter.row.project.as_ref().map_or("?", |project| project.as_str());
        *projects.entry(project.to_owned()).or_default() += letter.row.rows;
        *reasons.entry(letter.row.reason.clone()).or_default() += letter.row.rows;
    }
    let rows = letters.iter().map(|letter| letter.row.rows).sum();
    Line { key: key.to_owned(), rows, projects, reasons, replayed }
}

fn text(lines: &[Line], skipped: usize) -> String {
    if lines.is_empty() {
        return "there are no dead letters".to_owned();
    }
    let list = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let mut table = Table::new(&["key", ">rows", "projects", "reasons", "replayed"]);
    for line in lines {
        let replayed = if line.replayed { "yes" } else { "" };
        table.row([
            line.key.clone(),
            output::count(line.rows),
            list(&line.projects),
            list(&line.reasons),
            replayed.to_owned(),
        ]);
    }
    let older = if skipped == 0 { String::new() } else { format!("\n{skipped} older ones: raise --limit") };
    format!("{}{older}", table.render())
}
