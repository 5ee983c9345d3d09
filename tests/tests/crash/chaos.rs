//! Everything at once, by chance: what nobody thought of. The seed is printed with the case; CHAOS_SEED and
//! CHAOS_SECONDS repeat or prolong it.

use std::time::{Duration, Instant};

use hyper::Method;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use spillway_model::settings::Span;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::proxy::{Action, Gate, Reply, Rule};
use spillway_tests::traffic::Workload;
use spillway_tests::verdict::Verdict;

use crate::{Case, case};

const CASES: u64 = 2;

pub(crate) fn cases() -> Vec<Case> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("CHAOS_SECONDS").unwrap_or(20);
    let seeds = match number("CHAOS_SEED") {
        Some(seed) => vec![seed],
        None => (0..CASES).map(|_| rand::random_range(0..1_000_000)).collect(),
    };
    seeds
        .into_iter()
        .map(|seed| {
            case(format!("chaos for {seconds} s, seed {seed}"), async move |servers, name| {
                chaos(servers, name, seed, Duration::from_secs(seconds)).await
            })
        })
        .collect()
}

async fn chaos(servers: &mut Servers, name: &str, seed: u64, lasts: Duration) -> Verdict {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 120;
    pipeline.syncer_settings.insert_timeout = Span::secs(2);
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let load = Workload { pause: Duration::from_millis(60), days: 3, ..Workload::default() };
    let traffic = pipeline.send(load);
    let mut gates = Vec::new();
    let since = Instant::now();
    while since.elapsed() < lasts {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
        disturb(servers, &mut pipeline, &mut gates, &mut random).await;
        keep_one_syncer(&mut pipeline);
    }
    // Peace: no more faults, what was held arrives, what was paused goes on.
    for proxy in [&pipeline.ingest_s3, &pipeline.syncer_s3, &pipeline.clickhouse_proxy] {
        proxy.behave();
    }
    gates.iter().for_each(Gate::open);
    for syncer in &pipeline.syncers {
        syncer.resume();
    }
    traffic.stop().await;
    pipeline.send_all(100).await;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        keep_one_syncer(&mut pipeline);
    }
    pipeline.conclude().await
}

/// As whoever runs it would: a syncer that has ended is started again.
fn keep_one_syncer(pipeline: &mut Pipeline) {
    pipeline.syncers.retain_mut(|syncer| syncer.is_running());
    if pipeline.syncers.is_empty() {
        pipeline.start_syncer();
    }
}

async fn disturb(
    servers: &mut Servers,
    pipeline: &mut Pipeline,
    gates: &mut Vec<Gate>,
    random: &mut SmallRng,
) {
    match random.random_range(0..16) {
        0 | 1 => pipeline.syncer().kill(),
        2 => {
            pipeline.syncer().pause();
            if pipeline.syncers.len() < 3 {
                pipeline.start_syncer();
            }
        }
        3 | 4 => pipeline.syncers.iter().for_each(|syncer| syncer.resume()),
        5 if pipeline.syncers.len() < 3 => {
            pipeline.start_syncer();
        }
        6 => pipeline.syncer().terminate(),
        7 => {
            pipeline.ingest().kill();
            pipeline.start_ingest().await;
        }
        8 => {
            servers.front.kill();
            servers.front.start_again().await;
        }
        9 => gates.iter().for_each(Gate::open),
        10 | 11 => {
            let action = action(gates, random, &Reply::s3(500, "InternalError"));
            let method = [Method::PUT, Method::GET, Method::POST][random.random_range(0..3)].clone();
            pipeline.syncer_s3.add(Rule::new(action).method(method).times(1));
        }
        12 => {
            let action = action(gates, random, &Reply::s3(503, "SlowDown"));
            pipeline.ingest_s3.add(Rule::new(action).method(Method::PUT).times(1));
        }
        _ => {
            let action = action(gates, random, &Reply::clickhouse_200_with_exception(241));
            let skip = random.random_range(0..4);
            pipeline.clickhouse_proxy.add(Rule::new(action).method(Method::POST).skip(skip).times(1));
        }
    }
}

fn action(gates: &mut Vec<Gate>, random: &mut SmallRng, reply: &Reply) -> Action {
    let gate = Gate::default();
    gates.push(gate.clone());
    match random.random_range(0..8) {
        0 => Action::AnswerBefore(reply.clone()),
        1 => Action::AnswerAfter(reply.clone()),
        2 => Action::CutBefore,
        3 => Action::CutAfter,
        4 => Action::HoldRequest(gate),
        5 => Action::HoldAnswer(gate),
        6 => Action::HoldHalf(gate),
        _ => Action::Delay(Duration::from_millis(random.random_range(1..1500))),
    }
}
