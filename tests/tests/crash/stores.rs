//! S3 that answers wrongly, late or not at all, before and after the effect.

use std::time::Duration;

use hyper::Method;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::proxy::{Action, Gate, Reply, Rule};
use spillway_tests::traffic::Workload;
use spillway_tests::verdict::Verdict;

use crate::{Case, case};

/// Which requests to S3 are disturbed.
#[derive(Clone, Copy)]
enum Victim {
    /// Ingest's staged objects.
    Staging,
    /// The syncer's manifest: its commits.
    Swap,
    /// The syncer's list objects.
    BatchList,
    Get,
    List,
    Delete,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Swap => "manifest swaps",
            Self::BatchList => "batch lists",
            Self::Get => "reads",
            Self::List => "listings",
            Self::Delete => "deletions",
        }
    }

    fn narrow(self, rule: Rule) -> Rule {
        match self {
            Self::Staging => rule.method(Method::PUT).target_has(".json.gz"),
            Self::Swap => rule.method(Method::PUT).target_has("manifest.json"),
            Self::BatchList => rule.method(Method::PUT).target_has("_spillway/batches"),
            Self::Get => rule.method(Method::GET).target_has(".json.gz"),
            Self::List => rule.method(Method::GET).target_has("list-type=2"),
            Self::Delete => rule.method(Method::POST).target_has("delete"),
        }
    }
}

const VICTIMS: [Victim; 6] =
    [Victim::Staging, Victim::Swap, Victim::BatchList, Victim::Get, Victim::List, Victim::Delete];

fn faults() -> [(&'static str, Action); 6] {
    [
        ("500 before the effect", Action::AnswerBefore(Reply::s3(500, "InternalError"))),
        ("500 after the effect", Action::AnswerAfter(Reply::s3(500, "InternalError"))),
        ("SlowDown before the effect", Action::AnswerBefore(Reply::s3(503, "SlowDown"))),
        ("SlowDown after the effect", Action::AnswerAfter(Reply::s3(503, "SlowDown"))),
        ("cut before the effect", Action::CutBefore),
        ("cut after the effect", Action::CutAfter),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (fault, action) in faults() {
        let action = action.clone();
        cases.push(case(
            format!("S3: {fault}, every third request of any kind"),
            async move |servers, name| disturbed(servers, name, &VICTIMS, action).await,
        ));
    }
    for victim in [Victim::Staging, Victim::Swap] {
        let victim_name = victim.name();
        for (fault, action) in [
            ("timeout before the effect", Action::HangBefore),
            ("timeout after the effect", Action::HangAfter),
        ] {
            cases.push(case(format!("S3: {fault}, {victim_name}"), async move |servers, name| {
                timed_out(servers, name, victim, action).await
            }));
        }
        cases.push(case(
            format!("S3: 412 and 409 after the effect, {victim_name}"),
            async move |servers, name| refused_although_done(servers, name, victim).await,
        ));
    }
    cases.push(case("S3: a stalled PUT lands after its twin was loaded and deleted", stalled_put));
    cases.push(case("S3: killed under load and started again", killed_store));
    cases
}

/// Of each victim's requests a few early ones fail.
async fn disturbed(servers: &mut Servers, name: &str, victims: &[Victim], action: Action) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 150;
    pipeline.start_ingest().await;
    let syncer = pipeline.start_syncer();
    assert!(syncer.is_running());
    pipeline.send_all(50).await;
    let mut rules = Vec::new();
    for victim in victims {
        for skip in [0, 2, 4] {
            let rule = victim.narrow(Rule::new(action.clone())).skip(skip).times(1);
            let proxy =
                if matches!(victim, Victim::Staging) { &pipeline.ingest_s3 } else { &pipeline.syncer_s3 };
            rules.push(proxy.add(rule));
        }
    }
    pipeline.send_all(600).await;
    restart_if_ended(&mut pipeline).await;
    let taken: usize = rules.iter().map(|rule| rule.taken()).sum();
    assert!(taken >= victims.len(), "only {taken} requests were disturbed");
    pipeline.conclude().await
}

/// A syncer may end itself when it can't tell whether it still is the writer; whoever runs it starts it again.
async fn restart_if_ended(pipeline: &mut Pipeline) {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if !pipeline.syncer().is_running() {
            pipeline.start_syncer();
        }
    }
}

async fn timed_out(servers: &mut Servers, name: &str, victim: Victim, action: Action) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(50).await;
    let proxy = if matches!(victim, Victim::Staging) { &pipeline.ingest_s3 } else { &pipeline.syncer_s3 };
    let rule = proxy.add(victim.narrow(Rule::new(action)).times(1));
    let traffic = pipeline.send(Workload { records: Some(300), ..Workload::default() });
    rule.was_taken(1).await;
    traffic.finish().await;
    restart_if_ended(&mut pipeline).await;
    pipeline.conclude().await
}

async fn refused_although_done(servers: &mut Servers, name: &str, victim: Victim) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(50).await;
    let proxy = if matches!(victim, Victim::Staging) { &pipeline.ingest_s3 } else { &pipeline.syncer_s3 };
    let mut rules = Vec::new();
    for (skip, (status, code)) in
        [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict")].into_iter().enumerate()
    {
        let action = Action::AnswerAfter(Reply::s3(status, code));
        rules.push(proxy.add(victim.narrow(Rule::new(action)).skip(skip).times(1)));
    }
    pipeline.send_all(300).await;
    for rule in &rules {
        rule.was_taken(1).await;
    }
    pipeline.conclude().await
}

async fn stalled_put(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    let gate = Gate::default();
    let rule = Victim::Staging.narrow(Rule::new(Action::HoldRequest(gate.clone()))).times(3);
    let rule = pipeline.ingest_s3.add(rule);
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(200).await;
    assert!(rule.taken() >= 1, "no PUT was held");
    pipeline.settle().await;
    let before = pipeline.rows().await;
    gate.open();
    // Long enough for the late object to be listed several times.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pipeline.rows().await, before, "the late object was loaded again");
    pipeline.send_all(50).await;
    pipeline.conclude().await
}

async fn killed_store(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload::default());
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        servers.minio.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        servers.minio.start_again();
    }
    traffic.stop().await;
    restart_if_ended(&mut pipeline).await;
    pipeline.send_all(100).await;
    pipeline.conclude().await
}
