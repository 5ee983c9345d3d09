//! `--demo`: sends some logs and shows them coming back from ClickHouse.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Deserialize;
use spillway_model::{ProjectId, ServiceName, UnixNanos};
use spillway_schema::{ClickHouse, ClickHouseError, sql::literal};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::start::Up;
use crate::{
    output::{self, Table},
    send::{
        answer::{self, Answer},
        generator::{Load, Producer, RUN},
    },
};

const SERVICES: &[&str] = &["checkout", "catalog", "accounts"];
/// Projects that are sent for, however many the pipeline has.
const PROJECTS: usize = 2;
/// Records of each project and service.
const RECORDS: usize = 50;
/// From the last acknowledgement until everything must be back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the logs don't come back.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("the pipeline has no tenant to send for; add one under spec.tenants")]
    NoTenants,
    #[error("{url} did not take the logs: {why}")]
    NotTaken { url: String, why: String },
    #[error("ClickHouse can't be asked: {0}")]
    ClickHouse(#[from] ClickHouseError),
    #[error(
        "{there} of {sent} records came back within {PATIENCE:?}; `spillway status` says what holds them up"
    )]
    NotBack { there: u64, sent: u64 },
}

/// One request and what is known of it.
struct Sent {
    project: ProjectId,
    service: ServiceName,
    begun: Instant,
    acknowledged: Duration,
    queryable: Option<Duration>,
}

#[derive(Deserialize)]
struct Rows {
    project_id: String,
    service: String,
    rows: u64,
    errors: u64,
}

#[derive(Deserialize)]
struct Line {
    time: String,
    project_id: String,
    service: String,
    severity: String,
    message: String,
}

/// Sends, waits, shows.
///
/// # Errors
/// When the logs are not taken or don't come back.
pub async fn run(up: &Up) -> Result<(), DemoError> {
    output::line(&up.summary());
    let run = format!("{:08x}", rand::random::<u32>());
    let mut sent = send(up, &run).await?;
    let clickhouse = up.connect()?;
    let rows = wait(&clickhouse, &up.table, &run, &mut sent).await?;
    let last = last_errors(&clickhouse, &up.table, &run).await?;
    show(&sent, &rows, &last);
    let slowest = sent.iter().filter_map(|request| request.queryable).max().unwrap_or_default();
    output::line(&format!(
        "\n{} records of {} requests came back, the last one queryable {} ms after it was sent.",
        sent.len() * RECORDS,
        sent.len(),
        slowest.as_millis()
    ));
    output::line(&next_steps(up));
    Ok(())
}

async fn send(up: &Up, run: &str) -> Result<Vec<Sent>, DemoError> {
    let url = format!("{}/v1/drain", up.http_url());
    // It is this process that is asked. Its certificate is for the name under which others know it.
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap_or_default();
    let mut requests = JoinSet::new();
    for (project, key) in up.keys.iter().take(PROJECTS) {
        let Ok(project) = ProjectId::parse(project) else { continue };
        for service in SERVICES.iter().filter_map(|name| ServiceName::parse(name).ok()) {
            let services = vec![service.clone()];
            let load = Load { run: run.to_owned(), project: project.clone(), services, message_bytes: None };
            let seed = rand::random();
            let (_, body) = Producer::new(Arc::new(load), 0, seed).request(RECORDS, UnixNanos::now());
            let request =
                client.post(&url).bearer_auth(key).header("Content-Type", "application/json").body(body);
            let project = project.clone();
            requests.spawn(async move {
                let begun = Instant::now();
                take(request).await?;
                let acknowledged = begun.elapsed();
                Ok(Sent { project, service, begun, acknowledged, queryable: None })
            });
        }
    }
    if requests.is_empty() {
        return Err(DemoError::NoTenants);
    }
    let mut sent = Vec::new();
    while let Some(done) = requests.join_next().await {
        let why = match done {
            Ok(Ok(request)) => {
                sent.push(request);
                continue;
            }
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        return Err(DemoError::NotTaken { url, why });
    }
    sent.sort_by(|a, b| (&a.project, &a.service).cmp(&(&b.project, &b.service)));
    Ok(sent)
}

async fn take(request: reqwest::RequestBuilder) -> Result<(), String> {
    let response = request.send().await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.bytes().await.map_err(|error| error.to_string())?;
    match answer::read(status, None, &body) {
        Answer::Accepted { refused } if refused.is_empty() => Ok(()),
        _ => Err(format!("{status} {}", String::from_utf8_lossy(&body))),
    }
}

/// Asks until all rows are there, and notes when each request's were.
async fn wait(
    clickhouse: &ClickHouse,
    table: &str,
    run: &str,
    sent: &mut [Sent],
) -> Result<Vec<Rows>, DemoError> {
    let query = format!(
        "SELECT project_id, service, count() AS rows, countIf(severity >= 'error') AS errors FROM {table} \
         WHERE attributes['{RUN}'] = {} GROUP BY project_id, service ORDER BY project_id, service",
        literal(run)
    );
    let started = Instant::now();
    loop {
        let rows: Vec<Rows> = clickhouse.query_json(&query, &[]).await?;
        let now = Instant::now();
        let there: BTreeMap<(&str, &str), u64> =
            rows.iter().map(|row| ((row.project_id.as_str(), row.service.as_str()), row.rows)).collect();
        for request in sent.iter_mut().filter(|request| request.queryable.is_none()) {
            let key = (request.project.as_str(), request.service.as_str());
            if there.get(&key).is_some_and(|rows| *rows >= RECORDS as u64) {
                request.queryable = Some(now - request.begun);
            }
        }
        if sent.iter().all(|request| request.queryable.is_some()) {
            return Ok(rows);
        }
        if started.elapsed() > PATIENCE {
            let there = rows.iter().map(|row| row.rows).sum();
            return Err(DemoError::NotBack { there, sent: (sent.len() * RECORDS) as u64 });
        }
        sleep(Duration::from_millis(25)).await;
    }
}

async fn last_errors(clickhouse: &ClickHouse, table: &str, run: &str) -> Result<Vec<Line>, ClickHouseError> {
    let query = format!(
        "SELECT formatDateTime(timestamp, '%T') AS time, project_id, service, toString(severity) AS severity, message \
         FROM {table} WHERE attributes['{RUN}'] = {} AND severity >= 'warn' ORDER BY timestamp DESC LIMIT 5",
        literal(run)
    );
    clickhouse.query_json(&query, &[]).await
}

fn show(sent: &[Sent], rows: &[Rows], last: &[Line]) {
    let millis = |time: Duration| format!("{} ms", time.as_millis());
    let mut table = Table::new(&[
        "project",
        "service",
        ">sent",
        ">in ClickHouse",
        ">errors",
        ">acknowledged",
        ">queryable",
    ]);
    for (request, row) in sent.iter().zip(rows) {
        table.row([
            request.project.to_string(),
            request.service.to_string(),
            RECORDS.to_string(),
            row.rows.to_string(),
            row.errors.to_string(),
            millis(request.acknowledged),
            millis(request.queryable.unwrap_or_default()),
        ]);
    }
    output::line(&format!("\n{}\n", table.render()));
    let mut table = Table::new(&["time", "project", "service", "severity", "message"]);
    for Line { time, project_id, service, severity, message } in last {
        table.row([time, project_id, service, severity, message]);
    }
    output::line(&table.render());
}

/// Commands to go on with. The keys are those of the manifest that the user has just named.
fn next_steps(up: &Up) -> String {
    let mut text = String::from("\nGo on with:\n");
    if let Some((project, key)) = up.keys.first_key_value() {
        text.push_str(&format!(
            "  curl -i {}/v1/drain -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n    \
             -d '{{\"logs\":[{{\"project_id\":\"{project}\",\"timestamp\":\"'$(date -u +%Y-%m-%dT%H:%M:%SZ)'\",\"level\":\"info\",\"service\":\"web\",\"message\":\"hello\",\"metadata\":{{\"user_id\":\"42\"}}}}]}}'\n",
            up.http_url()
        ));
    }
    text.push_str(&format!(
        "  curl '{}' --data 'SELECT project_id, service, count() FROM {} GROUP BY ALL FORMAT PrettyCompact'\n",
        up.clickhouse_url, up.table
    ));
    text.push_str(&format!("  curl {}/metrics", up.admin_url()));
    text
}
