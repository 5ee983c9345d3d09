//! The verdict: what was sent and acknowledged against what is in the table and in the views.

use std::collections::{HashMap, HashSet};
use std::fmt;

use parking_lot::Mutex;
use serde::Deserialize;
use spillway_schema::{ClickHouse, SchemaSpec, View};

/// Identities of all records that were ever sent.
#[derive(Debug, Default)]
pub struct Sent {
    records: Mutex<Records>,
}

#[derive(Debug, Default)]
struct Records {
    /// Promised: must be there once.
    acknowledged: HashSet<String>,
    /// The answer was lost or an error: there at most once.
    unknown: HashSet<String>,
}

impl Sent {
    pub fn acknowledged(&self, ids: impl IntoIterator<Item = String>) {
        self.records.lock().acknowledged.extend(ids);
    }

    pub fn unknown(&self, ids: impl IntoIterator<Item = String>) {
        self.records.lock().unknown.extend(ids);
    }

    /// How many were acknowledged so far.
    pub fn count(&self) -> u64 {
        self.records.lock().acknowledged.len() as u64
    }
}

/// Everything that is not as it must be, with a few examples of each.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub acknowledged: u64,
    pub rows: u64,
    pub missing: Vec<String>,
    pub duplicated: Vec<String>,
    /// Rows that nobody sent, or whose project or service is another's.
    pub foreign: Vec<String>,
    /// Per view, what differs from the table.
    pub views: Vec<String>,
}

impl Verdict {
    pub fn is_exact(&self) -> bool {
        self.missing.is_empty()
            && self.duplicated.is_empty()
            && self.foreign.is_empty()
            && self.views.is_empty()
    }

    /// One line's worth of several verdicts.
    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.rows += other.rows;
        self.missing.extend(other.missing);
        self.duplicated.extend(other.duplicated);
        self.foreign.extend(other.foreign);
        self.views.extend(other.views);
    }

    pub fn assert_exact(&self, what: &str) {
        assert!(self.is_exact(), "{what}: {self}");
        assert!(self.acknowledged > 0, "{what}: nothing was sent, so nothing was shown");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "acknowledged={} rows={}", self.acknowledged, self.rows)?;
        for (name, ids) in
            [("missing", &self.missing), ("duplicated", &self.duplicated), ("foreign", &self.foreign)]
        {
            write!(f, " {name}={}", ids.len())?;
            if !ids.is_empty() {
                write!(f, " {:?}", &ids[..ids.len().min(5)])?;
            }
        }
        match &self.views[..] {
            [] => write!(f, " views=exact"),
            views => write!(f, " views=[{}]", views.join("; ")),
        }
    }
}

#[derive(Deserialize)]
struct Row {
    project_id: String,
    service: String,
    message: String,
    rows: u64,
}

#[derive(Deserialize)]
struct Count {
    rows: u64,
}

/// Rows in the table.
pub async fn count(clickhouse: &ClickHouse, schema: &SchemaSpec) -> u64 {
    let sql = format!("SELECT count() AS rows FROM {}", schema.records());
    let answer: Vec<Count> = clickhouse.query_json(&sql, &[]).await.expect("the table can be counted");
    answer[0].rows
}

pub async fn compare(clickhouse: &ClickHouse, schema: &SchemaSpec, sent: &Sent) -> Verdict {
    let sql = format!(
        "SELECT project_id, service, message, count() AS rows FROM {} GROUP BY project_id, service, message",
        schema.records()
    );
    let rows: Vec<Row> = clickhouse.query_json(&sql, &[]).await.expect("the table can be read");
    let mut verdict = judge(&sent.records.lock(), &rows);
    for view in View::of(schema) {
        verdict.views.extend(view_differences(clickhouse, schema, view).await);
    }
    verdict
}

fn judge(sent: &Records, rows: &[Row]) -> Verdict {
    let mut verdict = Verdict {
        acknowledged: sent.acknowledged.len() as u64,
        rows: rows.iter().map(|row| row.rows).sum(),
        ..Verdict::default()
    };
    let mut present: HashMap<&str, u64> = HashMap::new();
    for row in rows {
        let is_at_its_place = row.message.starts_with(&format!("{}/{}/", row.project_id, row.service));
        let was_sent = sent.acknowledged.contains(&row.message) || sent.unknown.contains(&row.message);
        if !is_at_its_place || !was_sent {
            verdict.foreign.push(row.message.clone());
        }
        *present.entry(&row.message).or_default() += row.rows;
    }
    verdict.duplicated =
        present.iter().filter(|(_, rows)| **rows > 1).map(|(id, _)| (*id).to_owned()).collect();
    verdict.missing =
        sent.acknowledged.iter().filter(|id| !present.contains_key(id.as_str())).cloned().collect();
    verdict
}

/// Every group of the view against the same group of the table, both ways.
async fn view_differences(clickhouse: &ClickHouse, schema: &SchemaSpec, view: View) -> Option<String> {
    let from_table = format!("SELECT {} FROM {} {}", expected(view), schema.records(), grouping(view));
    let from_view = format!("SELECT {} FROM {}", shown(view), view.view(schema));
    let sql = format!(
        "SELECT * FROM (SELECT 'only in table' AS side, * FROM ({from_table} EXCEPT {from_view}) \
         UNION ALL SELECT 'only in view' AS side, * FROM ({from_view} EXCEPT {from_table})) LIMIT 5"
    );
    let differences: Vec<serde_json::Value> = match clickhouse.query_json(&sql, &[]).await {
        Ok(differences) => differences,
        Err(error) => return Some(format!("{}: {error}", view.suffix())),
    };
    if differences.is_empty() {
        return None;
    }
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    Some(format!("{}: {}", view.suffix(), lines.join(" ")))
}

/// What the views mean, written down a second time and independently of their definition.
fn expected(view: View) -> &'static str {
    match view {
        View::ErrorRate => {
            "project_id, service, toStartOfMinute(timestamp) AS minute, count() AS records, \
             countIf(severity IN ('error', 'fatal')) AS errors"
        }
        View::HttpLatency => {
            "project_id, service, http_method, http_path, toStartOfMinute(timestamp) AS minute, \
             count() AS requests, countIf(http_status_code >= 500) AS server_errors"
        }
        View::TenantVolume => {
            "project_id, toStartOfMinute(timestamp) AS minute, count() AS records, sum(\
             length(message) + length(display_text) + length(body) + length(http_url) + length(error_message) \
             + length(error_stack) + arraySum(arrayMap(t -> length(t), tags)) \
             + length(arrayStringConcat(arrayConcat(mapKeys(attributes), mapValues(attributes), mapKeys(data), \
             mapValues(data), mapKeys(resource_attributes), mapValues(resource_attributes))))) AS bytes"
        }
    }
}

fn grouping(view: View) -> &'static str {
    match view {
        View::ErrorRate => "GROUP BY project_id, service, minute",
        View::HttpLatency => {
            "WHERE http_duration_ms > 0 GROUP BY project_id, service, http_method, http_path, minute"
        }
        View::TenantVolume => "GROUP BY project_id, minute",
    }
}

fn shown(view: View) -> &'static str {
    match view {
        View::ErrorRate => "project_id, service, minute, records, errors",
        View::HttpLatency => "project_id, service, http_method, http_path, minute, requests, server_errors",
        View::TenantVolume => "project_id, minute, records, bytes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(message: &str, rows: u64) -> Row {
        Row { project_id: "shop".into(), service: "api".into(), message: message.into(), rows }
    }

    fn ids(ids: &[&str]) -> HashSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn each_kind_of_wrong_is_told_apart() {
        let sent = Records {
            acknowledged: ids(&["shop/api/1/0", "shop/api/1/1", "shop/api/1/2"]),
            unknown: ids(&["shop/api/2/0", "shop/api/2/1", "shop/api/2/2"]),
        };
        let rows = [
            row("shop/api/1/0", 1),
            row("shop/api/1/1", 2),
            row("shop/api/2/1", 1),
            row("shop/api/2/2", 2),
            row("shop/api/9/9", 1),
            row("bank/api/1/2", 1),
        ];
        let mut verdict = judge(&sent, &rows);
        verdict.duplicated.sort();
        assert_eq!(verdict.missing, ["shop/api/1/2"]);
        assert_eq!(verdict.duplicated, ["shop/api/1/1", "shop/api/2/2"]);
        assert_eq!(verdict.foreign, ["shop/api/9/9", "bank/api/1/2"]);
        assert_eq!((verdict.acknowledged, verdict.rows), (3, 8));
    }

    #[test]
    fn an_unknown_record_may_be_there_or_not() {
        let sent =
            Records { acknowledged: ids(&["shop/api/1/0"]), unknown: ids(&["shop/api/2/0", "shop/api/2/1"]) };
        assert!(judge(&sent, &[row("shop/api/1/0", 1), row("shop/api/2/0", 1)]).is_exact());
    }
}
