//! What becomes of records when the bucket fails, the buffers fill up or the process is told to stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::{
    Fault, Ingest, KEY, OTHER_KEY, answer, frame_kind, logs, record, settings, tenant, until,
};
use serde_json::json;
use spillway_ingest::TenantsSource;
use spillway_model::settings::{ByteSize, LimitSettings, Objects, Span, TenantsFile};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

#[tokio::test]
async fn an_unclear_put_is_repeated_under_the_same_key() {
    let ingest = Ingest::start(settings()).await;
    ingest.bucket.next(&[Fault::LostAnswer, Fault::LostAnswer, Fault::Unavailable]);
    assert_eq!(ingest.send(logs(&[record("shop", "api", "once")])).await.0, 200);
    let attempts = ingest.bucket.attempts.lock().clone();
    assert_eq!(attempts.len(), 4);
    assert_eq!(attempts.iter().collect::<BTreeSet<_>>().len(), 1, "{attempts:?}");
    assert_eq!(ingest.bucket.messages(), ["once"]);
}

#[tokio::test]
async fn a_put_that_hangs_is_given_up_and_repeated() {
    let mut settings = settings();
    settings.put_timeout = Span::ms(100);
    let ingest = Ingest::start(settings).await;
    ingest.bucket.next(&[Fault::Hang, Fault::Denied]);
    assert_eq!(ingest.send(logs(&[record("shop", "api", "once")])).await.0, 200);
    assert_eq!(ingest.bucket.messages(), ["once"]);
    assert_eq!(ingest.metrics().await.sum("spillway_ingest_puts_total"), 3.0);
}

#[tokio::test]
async fn a_store_that_asks_to_slow_down_is_left_alone() {
    let ingest = Ingest::start(settings()).await;
    ingest.bucket.next(&[Fault::SlowDown]);
    let started = Instant::now();
    let (one, two) = tokio::join!(ingest.send(logs(&[record("shop", "api", "1")])), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        ingest.send(logs(&[record("blog", "web", "2")])).await
    });
    assert_eq!((one.0, two.0), (200, 200));
    assert!(started.elapsed() >= Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(ingest.bucket.attempts.lock().len(), 3, "other streams waited too");
}

#[tokio::test]
async fn a_tenant_whose_objects_are_denied_delays_no_other() {
    let mut settings = settings();
    settings.put_concurrency = 4;
    let ingest = Ingest::start(settings).await;
    ingest.bucket.denies(&["shop/"]);
    for n in 0..20 {
        let memory =
            ingest.post(logs(&[record("shop", &format!("s{n}"), "m")])).header("x-spillway-ack", "memory");
        assert_eq!(answer(memory).await.0, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for n in 0..5 {
        let started = Instant::now();
        let (status, body) = ingest.send_as(OTHER_KEY, logs(&[record("bank", "api", &n.to_string())])).await;
        assert_eq!(status, 200, "{body}");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    let metrics = ingest.metrics().await;
    assert_eq!(metrics.identity(), (25.0, 25.0));
    ingest.bucket.denies(&[]);
    until("what was denied is staged", async || ingest.bucket.messages().len() == 25).await;
}

#[tokio::test]
async fn many_tenants_whose_objects_are_denied_delay_no_other() {
    let mut settings = settings();
    settings.put_concurrency = 4;
    settings.max_puts_per_second = 20;
    let names: Vec<_> = (0..24).map(|n| format!("denied{n}")).collect();
    let mut tenants: Vec<_> =
        names.iter().map(|name| tenant(name, name, &[name], LimitSettings::default())).collect();
    tenants.push(tenant("other", OTHER_KEY, &["bank"], LimitSettings::default()));
    let ingest = Ingest::start_with(settings, tenants).await;
    ingest.bucket.denies(&["denied"]);
    ingest.bucket.delay_ms.store(20, Ordering::Relaxed);
    for name in &names {
        let request = ingest.client.post(format!("{}/v1/drain", ingest.url)).header("authorization", name);
        let memory = request.header("x-spillway-ack", "memory").body(logs(&[record(name, "api", "m")]));
        assert_eq!(answer(memory).await.0, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let started = Instant::now();
    for n in 0..10 {
        let (status, body) = ingest.send_as(OTHER_KEY, logs(&[record("bank", "api", &n.to_string())])).await;
        assert_eq!(status, 200, "{body}");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn without_the_bucket_a_durable_request_is_told_so_and_its_records_are_kept() {
    let mut settings = settings();
    settings.ack_timeout = Span::ms(300);
    let ingest = Ingest::start(settings).await;
    ingest.bucket.fails(Fault::Unavailable);
    let started = Instant::now();
    let response =
        ingest.post(logs(&[record("shop", "api", "kept"), record("shop", "", "bad")])).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert!(started.elapsed() < Duration::from_secs(5));
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "not_yet_durable");
    assert!(body["error"]["message"].as_str().unwrap().contains("may duplicate"), "{body}");
    assert_eq!((&body["accepted"], &body["rejected"]), (&json!(1), &json!(1)));

    let memory = ingest.post(logs(&[record("shop", "api", "memory")])).header("x-spillway-ack", "memory");
    assert_eq!(answer(memory).await.0, 200);
    assert!(ingest.bucket.keys().is_empty());
    let (received, accounted) = ingest.metrics().await.identity();
    assert_eq!((received, accounted), (3.0, 3.0));

    ingest.bucket.works();
    until("kept records are staged", async || ingest.bucket.messages() == ["kept", "memory"]).await;
    let metrics = ingest.metrics().await;
    assert_eq!(metrics.identity(), (3.0, 3.0));
    assert_eq!(metrics.sum("spillway_ingest_queue_bytes"), 0.0);
    assert_eq!(ingest.stop().await.exit_code(), 0);
}

#[tokio::test]
async fn overload_is_answered_at_once_and_costs_no_accepted_record() {
    let mut settings = settings();
    settings.queue.max_bytes = ByteSize(64 * 1024);
    settings.flush.max_bytes = ByteSize(16 * 1024);
    let ingest = Ingest::start(settings).await;
    ingest.bucket.fails(Fault::Unavailable);
    let mut accepted = Vec::new();
    let mut refused = 0;
    for n in 0..200 {
        let message = format!("{n:03} {}", "x".repeat(1000));
        let request =
            ingest.post(logs(&[record("shop", "api", &message)])).header("x-spillway-ack", "memory");
        let started = Instant::now();
        let response = request.send().await.unwrap();
        match response.status().as_u16() {
            200 => accepted.push(message),
            429 => {
                refused += 1;
                assert!(response.headers().contains_key("retry-after"));
                assert!(started.elapsed() < Duration::from_secs(1));
            }
            other => panic!("{other}"),
        }
    }
    assert!(accepted.len() > 10 && refused > 100, "{} {refused}", accepted.len());
    ingest.bucket.works();
    until("accepted records are staged", async || ingest.bucket.messages() == accepted).await;
    assert_eq!(ingest.send(logs(&[record("shop", "api", "room again")])).await.0, 200);
}

#[tokio::test]
async fn requests_under_way_are_bounded() {
    let mut settings = settings();
    settings.queue.max_requests = 4;
    settings.queue.tenant_share = 1.0;
    let ingest = Ingest::start(settings).await;
    ingest.bucket.delay_ms.store(400, std::sync::atomic::Ordering::Relaxed);
    let sends = (0..20).map(|n| ingest.send(logs(&[record("shop", "api", &n.to_string())])));
    let answers = futures::future::join_all(sends).await;
    let codes = answers.iter().map(|a| a.0).collect::<BTreeSet<_>>();
    assert_eq!(codes, BTreeSet::from([200, 429]), "{answers:?}");
    let good = answers.iter().filter(|a| a.0 == 200).count();
    assert_eq!(ingest.bucket.messages().len(), good);
}

#[tokio::test]
async fn when_the_put_budget_is_short_small_streams_share_an_object() {
    let mut settings = settings();
    settings.max_puts_per_second = 4;
    let ingest = Ingest::start(settings).await;
    let records: Vec<_> = (0..40).map(|n| record("shop", &format!("s{n:02}"), &format!("{n:02}"))).collect();
    assert_eq!(ingest.send(logs(&records)).await.0, 200);
    let keys = ingest.bucket.keys();
    assert!(keys.len() <= 4, "{keys:?}");
    assert!(keys.iter().any(|k| k.starts_with("_packed/")));
    assert_eq!(ingest.bucket.messages(), (0..40).map(|n| format!("{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn per_service_objects_are_never_shared() {
    let mut settings = settings();
    settings.max_puts_per_second = 10;
    settings.objects = Objects::PerService;
    let ingest = Ingest::start(settings).await;
    let records: Vec<_> = (0..15).map(|n| record("shop", &format!("s{n:02}"), "m")).collect();
    let started = Instant::now();
    assert_eq!(ingest.send(logs(&records)).await.0, 200);
    assert!(started.elapsed() > Duration::from_millis(300), "the budget holds: {:?}", started.elapsed());
    assert_eq!(ingest.bucket.keys().len(), 15);
    assert!(ingest.bucket.keys().iter().all(|k| k.starts_with("shop/s")));
}

#[tokio::test]
async fn a_stream_is_flushed_at_the_seeds_hundred_records() {
    let mut settings = settings();
    settings.flush.max_records = 100;
    settings.flush.max_age = Span::secs(60);
    let ingest = Ingest::start(settings).await;
    for n in 0..10 {
        let memory = ingest
            .post(logs(&vec![record("shop", "api", &n.to_string()); 25]))
            .header("x-spillway-ack", "memory");
        assert_eq!(answer(memory).await.0, 200);
    }
    until("two objects", async || ingest.bucket.messages().len() == 200).await;
    assert_eq!(ingest.bucket.keys().len(), 2);
    ingest.stop().await;
}

#[tokio::test]
async fn draining_answers_what_is_under_way_and_stages_everything() {
    let mut settings = settings();
    settings.flush.max_age = Span::secs(60);
    let ingest = Ingest::start(settings).await;
    let memory = ingest.post(logs(&[record("shop", "api", "memory")])).header("x-spillway-ack", "memory");
    assert_eq!(answer(memory).await.0, 200);
    let durable = tokio::spawn(answer(ingest.post(logs(&[record("shop", "api", "durable")]))));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let bucket = std::sync::Arc::clone(&ingest.bucket);
    let report = ingest.stop().await;
    assert_eq!((report.exit_code(), report.all_answered), (0, true));
    assert_eq!(durable.await.unwrap().0, 200);
    assert_eq!(bucket.messages(), ["durable", "memory"]);
}

#[tokio::test]
async fn a_drain_without_the_bucket_says_how_many_records_are_lost() {
    let mut settings = settings();
    settings.ack_timeout = Span::ms(200);
    settings.drain.flush_timeout = Span::ms(300);
    let ingest = Ingest::start(settings).await;
    ingest.bucket.fails(Fault::Unavailable);
    let memory = ingest.post(logs(&vec![record("shop", "api", "m"); 7])).header("x-spillway-ack", "memory");
    assert_eq!(answer(memory).await.0, 200);
    assert_eq!(ingest.send(logs(&vec![record("blog", "api", "d"); 5])).await.0, 503);
    let report = ingest.stop().await;
    assert_eq!(report.exit_code(), 4);
    assert_eq!((report.left_over.lost_records, report.left_over.unacknowledged_records), (7, 5));
}

#[tokio::test]
async fn a_drain_that_leaves_records_of_durable_requests_fails_too() {
    let mut settings = settings();
    settings.ack_timeout = Span::ms(200);
    settings.drain.flush_timeout = Span::ms(300);
    let ingest = Ingest::start(settings).await;
    ingest.bucket.fails(Fault::Unavailable);
    let (status, body) = ingest.send(logs(&vec![record("blog", "api", "d"); 5])).await;
    assert_eq!(status, 503);
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("unless the process is stopped first"), "{message}");
    let report = ingest.stop().await;
    assert_eq!((report.left_over.lost_records, report.left_over.unacknowledged_records), (0, 5));
    assert_eq!(report.exit_code(), 4);
}

#[tokio::test]
async fn told_to_stop_it_turns_readiness_off_and_takes_requests_until_load_balancers_noticed() {
    let mut settings = settings();
    settings.drain.readiness_delay = Span::ms(1500);
    let ingest = Ingest::start(settings).await;
    let started = Instant::now();
    ingest.shutdown.drain.cancel();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ingest.get(&format!("{}/readyz", ingest.admin)).await.0, 503);
    assert_eq!(ingest.send(logs(&[record("shop", "api", "late")])).await.0, 200);
    let bucket = Arc::clone(&ingest.bucket);
    assert_eq!(ingest.ended().await.exit_code(), 0);
    assert!(started.elapsed() >= Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(bucket.messages(), ["late"]);
}

#[tokio::test]
async fn after_a_call_of_drain_stopping_waits_no_second_time() {
    let mut settings = settings();
    settings.drain.readiness_delay = Span::ms(1500);
    let ingest = Ingest::start(settings).await;
    assert_eq!(ingest.get(&format!("{}/drain", ingest.admin)).await.0, 200);
    let started = Instant::now();
    ingest.stop().await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_http2_peer_is_told_to_go_away() {
    let ingest = Ingest::start(settings()).await;
    let mut peer = TcpStream::connect(ingest.url.trim_start_matches("http://")).await.unwrap();
    // The preface and an empty SETTINGS frame (RFC 9113, 3.4).
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert_eq!(frame_kind(&mut peer).await, 4, "SETTINGS");
    ingest.shutdown.drain.cancel();
    while frame_kind(&mut peer).await != 7 {}
    drop(peer);
    assert!(ingest.ended().await.all_answered);
}

#[tokio::test]
async fn a_changed_tenants_file_takes_effect_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenants.json");
    let write = |key| {
        let tenants = vec![tenant("acme", key, &["shop"], LimitSettings::default())];
        let file = TenantsFile { version: 1, tenants };
        std::fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
    };
    write(KEY);
    let ingest = Ingest::start_from(settings(), TenantsSource::Path(path.clone())).await;
    let one = logs(&[record("shop", "api", "m")]);
    assert_eq!(ingest.send(one.clone()).await.0, 200);
    write(OTHER_KEY);
    let deadline = Instant::now() + Duration::from_secs(10);
    while ingest.send_as(OTHER_KEY, one.clone()).await.0 != 200 {
        assert!(Instant::now() < deadline, "the new key is never known");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ingest.send(one.clone()).await.0, 401, "the old key is no longer one");
    std::fs::write(&path, "tenants: [").unwrap();
    while ingest.metrics().await.sum("spillway_ingest_tenants_reload_failures_total") == 0.0 {
        assert!(Instant::now() < deadline, "the broken file is never noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ingest.send_as(OTHER_KEY, one).await.0, 200, "a broken file changes nothing");
}

#[tokio::test]
async fn a_second_signal_ends_it() {
    let ingest = Ingest::start(settings()).await;
    ingest.bucket.fails(Fault::Hang);
    let memory = ingest.post(logs(&[record("shop", "api", "m")])).header("x-spillway-ack", "memory");
    assert_eq!(answer(memory).await.0, 200);
    ingest.shutdown.drain.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    ingest.shutdown.force.cancel();
    let started = Instant::now();
    let report = ingest.ended().await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!((report.exit_code(), report.left_over.lost_records), (5, 1));
}

#[tokio::test]
async fn many_streams_under_load_are_all_accounted_for() {
    let mut settings = settings();
    settings.max_puts_per_second = 30;
    let ingest = Ingest::start(settings).await;
    ingest.bucket.delay_ms.store(5, std::sync::atomic::Ordering::Relaxed);
    ingest.bucket.next(&[Fault::LostAnswer, Fault::None, Fault::Unavailable, Fault::LostAnswer]);
    let sends = (0..60u32).map(|n| {
        let ingest = &ingest;
        async move {
            let mut records: Vec<_> = (0..20)
                .map(|m| record("shop", &format!("s{}", (n * 7 + m) % 90), &format!("{n}-{m}")))
                .collect();
            records.push(record("shop", "", "bad"));
            assert_eq!(ingest.send(logs(&records)).await.0, 200);
            let (received, accounted) = ingest.metrics().await.identity();
            assert_eq!(received, accounted);
        }
    });
    futures::future::join_all(sends).await;
    let mut expected: Vec<_> = (0..60).flat_map(|n| (0..20).map(move |m| format!("{n}-{m}"))).collect();
    expected.sort();
    assert_eq!(ingest.bucket.messages(), expected);
    let ids: BTreeSet<_> = ingest.bucket.rows().into_iter().map(|r| r.3).collect();
    assert_eq!(ids.len(), 1200);
    // Numbers without gaps: an audit would see an object that vanished.
    let mut numbers: Vec<_> =
        ingest.bucket.keys().iter().map(|k| spillway_model::ObjectKey::parse(k).unwrap().number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}
