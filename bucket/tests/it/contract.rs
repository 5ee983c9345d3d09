//! What a bucket promises, claimed once and tried on both backends: a directory and a real MinIO.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::join_all;
use spillway_bucket::preflight::{Check, Level, preflight};
use spillway_bucket::{Bucket, BucketError, Put, PutMeta, Swap};
use spillway_model::settings::{BucketSettings, Place, S3Settings};
use spillway_model::time::UnixMs;

use crate::common::{MINIO, child, minio};

/// Each promise becomes two tests, `directory::<promise>` and `s3::<promise>`.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        mod directory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let dir = tempfile::tempdir().unwrap();
                super::$promise(super::directory_bucket(dir.path(), "some/prefix/").await).await;
            })*
        }
        mod s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let prefix = concat!(stringify!($promise), "/pre fix/");
                super::$promise(super::minio_bucket(&crate::common::MINIO.endpoint(), prefix).await).await;
            })*
        }
    };
}

promises![
    what_was_put_comes_back,
    a_missing_key_is_none_and_not_an_error,
    a_taken_key_is_left_as_it_is,
    a_put_repeated_after_a_lost_answer_counts_as_created,
    of_many_racing_puts_exactly_one_creates,
    of_many_racing_swaps_exactly_one_wins,
    a_swap_repeated_after_a_lost_answer_counts_as_swapped,
    a_swap_of_a_missing_key_is_lost,
    a_first_swap_needs_a_missing_key,
    a_chain_of_swaps_passes_its_tags_on,
    a_listing_is_sorted_by_bytes_and_paginated,
    a_listing_starts_after_any_key_even_one_that_is_gone,
    deleting_what_is_not_there_is_fine,
    thousands_are_deleted_at_once,
    keys_that_escape_are_refused,
    an_empty_object_is_an_object,
    the_preflight_finds_nothing_to_complain_about,
];

async fn directory_bucket(path: &Path, prefix: &str) -> Bucket {
    let settings = BucketSettings { prefix: prefix.to_owned(), ..BucketSettings::directory(path) };
    Bucket::open(&settings).await.unwrap()
}

async fn minio_bucket(endpoint: &str, prefix: &str) -> Bucket {
    Bucket::open(&s3_settings(endpoint, prefix)).await.unwrap()
}

fn s3_settings(endpoint: &str, prefix: &str) -> BucketSettings {
    let s3 = S3Settings {
        endpoint: Some(endpoint.to_owned()),
        region: minio::REGION.to_owned(),
        bucket: minio::BUCKET.to_owned(),
        path_style: true,
        credentials_dir: Some(MINIO.credentials_dir()),
        ca_file: None,
    };
    BucketSettings { place: Place::S3(s3), prefix: prefix.to_owned() }
}

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(bucket: &Bucket, key: &str, text: &str) -> Put {
    bucket.put_if_absent(key, body(text), &PutMeta::default()).await.unwrap()
}

async fn text(bucket: &Bucket, key: &str) -> String {
    let (bytes, _) = bucket.get(key).await.unwrap().expect("the key is there");
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn what_was_put_comes_back(bucket: Bucket) {
    let meta = PutMeta { content_type: Some("application/gzip"), tagging: Some("kind=staged".into()) };
    let large = Bytes::from((0..3_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    let Put::Created(tag) = bucket.put_if_absent("a/b/c.gz", large.clone(), &meta).await.unwrap() else {
        panic!("the key was new");
    };
    let (bytes, read_tag) = bucket.get("a/b/c.gz").await.unwrap().unwrap();
    assert!(bytes == large, "the content differs");
    assert_eq!(read_tag, tag);
    let head = bucket.head("a/b/c.gz").await.unwrap().unwrap();
    assert_eq!((head.tag, head.size), (tag, large.len() as u64));
    assert_eq!(head.sha256.map(|hex| hex.len()), Some(64));
}

async fn a_missing_key_is_none_and_not_an_error(bucket: Bucket) {
    assert_eq!(bucket.get("no/such").await.unwrap(), None);
    assert_eq!(bucket.head("no/such").await.unwrap(), None);
    let page = bucket.list("no/", None, 10).await.unwrap();
    assert!(page.objects.is_empty() && page.next.is_none());
}

async fn a_taken_key_is_left_as_it_is(bucket: Bucket) {
    assert!(matches!(put(&bucket, "k", "first").await, Put::Created(_)));
    assert_eq!(put(&bucket, "k", "second").await, Put::Exists);
    assert_eq!(put(&bucket, "k", "other").await, Put::Exists, "of the same length as the first");
    assert_eq!(text(&bucket, "k").await, "first");
}

async fn a_put_repeated_after_a_lost_answer_counts_as_created(bucket: Bucket) {
    let first = put(&bucket, "k", "mine").await;
    assert!(matches!(first, Put::Created(_)));
    assert_eq!(put(&bucket, "k", "mine").await, first);
}

async fn of_many_racing_puts_exactly_one_creates(bucket: Bucket) {
    let outcomes = join_all((0..32).map(|racer| {
        let bucket = bucket.clone();
        tokio::spawn(async move { (racer, persistent_put(&bucket, "race", &format!("racer {racer}")).await) })
    }))
    .await;
    let winners: Vec<usize> = outcomes
        .into_iter()
        .map(Result::unwrap)
        .filter(|(_, put)| matches!(put, Put::Created(_)))
        .map(|(racer, _)| racer)
        .collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(text(&bucket, "race").await, format!("racer {}", winners[0]));
}

/// As a caller does it: an unknown outcome is retried under the same key.
async fn persistent_put(bucket: &Bucket, key: &str, text: &str) -> Put {
    loop {
        match bucket.put_if_absent(key, body(text), &PutMeta::default()).await {
            Ok(put) => return put,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

async fn of_many_racing_swaps_exactly_one_wins(bucket: Bucket) {
    let Swap::Swapped(mut tag) = bucket.swap("m.json", None, body("start")).await.unwrap() else {
        panic!("the key was new");
    };
    for round in 0..5 {
        let outcomes = join_all((0..32).map(|racer| {
            let (bucket, tag) = (bucket.clone(), tag.clone());
            tokio::spawn(async move {
                bucket.swap("m.json", Some(&tag), Bytes::from(format!("round {round} racer {racer}"))).await
            })
        }))
        .await;
        let winners: Vec<(usize, spillway_bucket::Tag)> = outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap().unwrap())
            .enumerate()
            .filter_map(|(racer, swap)| match swap {
                Swap::Swapped(tag) => Some((racer, tag)),
                Swap::Lost => None,
            })
            .collect();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert_eq!(text(&bucket, "m.json").await, format!("round {round} racer {}", winners[0].0));
        tag = winners[0].1.clone();
    }
}

async fn a_swap_repeated_after_a_lost_answer_counts_as_swapped(bucket: Bucket) {
    let Swap::Swapped(start) = bucket.swap("m", None, body("1")).await.unwrap() else { panic!("new") };
    let first = bucket.swap("m", Some(&start), body("2 with my nonce")).await.unwrap();
    let second = bucket.swap("m", Some(&start), body("2 with my nonce")).await.unwrap();
    assert!(matches!(first, Swap::Swapped(_)));
    assert_eq!(first, second);
    assert_eq!(bucket.swap("m", Some(&start), body("2 with your nonce")).await.unwrap(), Swap::Lost);
}

async fn a_swap_of_a_missing_key_is_lost(bucket: Bucket) {
    let Put::Created(tag) = put(&bucket, "m", "1").await else { panic!("new") };
    bucket.delete_many(&["m".to_owned()]).await.unwrap();
    assert_eq!(bucket.swap("m", Some(&tag), body("2")).await.unwrap(), Swap::Lost);
    assert_eq!(bucket.get("m").await.unwrap(), None);
}

async fn a_first_swap_needs_a_missing_key(bucket: Bucket) {
    put(&bucket, "m", "theirs").await;
    assert_eq!(bucket.swap("m", None, body("mine")).await.unwrap(), Swap::Lost);
    assert_eq!(text(&bucket, "m").await, "theirs");
}

async fn a_chain_of_swaps_passes_its_tags_on(bucket: Bucket) {
    let mut tag = None;
    for step in 0..20 {
        match bucket.swap("m", tag.as_ref(), Bytes::from(format!("{step}"))).await.unwrap() {
            Swap::Swapped(next) => tag = Some(next),
            Swap::Lost => panic!("nobody else swaps (step {step})"),
        }
    }
    let (bytes, read) = bucket.get("m").await.unwrap().unwrap();
    assert_eq!((&bytes[..], Some(read)), (&b"19"[..], tag));
}

async fn fill(bucket: &Bucket, keys: &BTreeSet<String>) {
    let keys: Vec<String> = keys.iter().cloned().collect();
    for keys in keys.chunks(64) {
        join_all(keys.iter().map(|key| put(bucket, key, "x"))).await;
    }
}

async fn listed(bucket: &Bucket, prefix: &str, limit: usize) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = bucket.list(prefix, after.as_deref(), limit).await.unwrap();
        assert!(page.objects.len() <= limit);
        keys.extend(page.objects.into_iter().map(|object| object.key));
        match page.next {
            Some(next) => after = Some(next),
            None => return keys,
        }
    }
}

async fn a_listing_is_sorted_by_bytes_and_paginated(bucket: Bucket) {
    let mut keys: BTreeSet<String> = (0..2_500).map(|n| format!("shop/api/{:05}.json.gz", n * 7)).collect();
    keys.extend(
        [
            "shop/a b+c/1",
            "shop/a&b<c>/1",
            "shop/ünï/é",
            "shop/%2F/1",
            "shop/a=b?c#d/1",
            "shop/'\"/1",
            "shop-2/x",
            "shop.3/x",
            "shop/日本/🦀",
            "shop/~tilde/*",
            "zebra",
            "Zebra",
        ]
        .map(str::to_owned),
    );
    fill(&bucket, &keys).await;
    let expected: Vec<String> = keys.iter().cloned().collect();
    for limit in [1000, 5000, 999] {
        assert!(listed(&bucket, "", limit).await == expected, "pages of {limit}");
    }
    let of_shop: Vec<String> = expected.iter().filter(|key| key.starts_with("shop/")).cloned().collect();
    assert!(listed(&bucket, "shop/", 700).await == of_shop);
    assert_eq!(listed(&bucket, "shop/a b", 1).await, ["shop/a b+c/1"]);
    let one = bucket.list("zebra", None, 10).await.unwrap().objects;
    assert_eq!(one[0].size, 1);
}

async fn a_listing_starts_after_any_key_even_one_that_is_gone(bucket: Bucket) {
    let keys = ["a/1", "a/3", "b/1"].map(str::to_owned);
    fill(&bucket, &BTreeSet::from(keys)).await;
    let after = async |start: &str| {
        let page = bucket.list("", Some(start), 10).await.unwrap();
        page.objects.into_iter().map(|object| object.key).collect::<Vec<_>>()
    };
    assert_eq!(after("a/1").await, ["a/3", "b/1"]);
    assert_eq!(after("a/2").await, ["a/3", "b/1"]);
    assert_eq!(after("a/9").await, ["b/1"]);
    assert_eq!(after("b/1").await, Vec::<String>::new());
}

async fn deleting_what_is_not_there_is_fine(bucket: Bucket) {
    put(&bucket, "a/there", "x").await;
    let keys = ["a/there", "a/not there", "nowhere/at/all"].map(str::to_owned);
    assert_eq!(bucket.delete_many(&keys).await.unwrap(), []);
    assert_eq!(bucket.delete_many(&keys).await.unwrap(), []);
    assert_eq!(bucket.delete_many(&[]).await.unwrap(), []);
    assert_eq!(bucket.get("a/there").await.unwrap(), None);
}

async fn thousands_are_deleted_at_once(bucket: Bucket) {
    let keys: BTreeSet<String> = (0..1_200).map(|n| format!("p/s & <t>/{n:04}")).collect();
    fill(&bucket, &keys).await;
    put(&bucket, "p/kept", "x").await;
    let keys: Vec<String> = keys.into_iter().collect();
    assert_eq!(bucket.delete_many(&keys).await.unwrap(), []);
    assert_eq!(listed(&bucket, "", 1000).await, ["p/kept"]);
}

async fn keys_that_escape_are_refused(bucket: Bucket) {
    for key in ["", "/etc/x", "../x", "a/../../x", "a//b", "a/", "a\0", ".spillway/swap.lock"] {
        let error = bucket.put_if_absent(key, body("x"), &PutMeta::default()).await.unwrap_err();
        assert!(matches!(error, BucketError::Invalid { .. }), "{key:?}: {error}");
        assert!(bucket.get(key).await.is_err(), "{key:?}");
        assert!(bucket.delete_many(&[key.to_owned()]).await.is_err(), "{key:?}");
    }
}

async fn an_empty_object_is_an_object(bucket: Bucket) {
    assert!(matches!(put(&bucket, "empty", "").await, Put::Created(_)));
    assert!(matches!(put(&bucket, "empty", "").await, Put::Created(_)));
    assert_eq!(put(&bucket, "empty", "x").await, Put::Exists);
    assert_eq!(text(&bucket, "empty").await, "");
}

fn now() -> UnixMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMs(since.as_millis() as i64)
}

async fn the_preflight_finds_nothing_to_complain_about(bucket: Bucket) {
    assert_eq!(preflight(&bucket, now).await, []);
    assert_eq!(listed(&bucket, "", 10).await, Vec::<String>::new(), "the probes are gone");
}

#[tokio::test]
async fn the_preflight_names_a_clock_ten_minutes_off() {
    let bucket = minio_bucket(&MINIO.endpoint(), "clock/").await;
    let findings = preflight(&bucket, || UnixMs(now().0 - 600_000)).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].check, findings[0].level), (Check::ClockSkew, Level::Error));
    assert!(findings[0].message.contains("behind"), "{}", findings[0]);
}

#[tokio::test]
async fn the_preflight_finds_out_a_store_that_ignores_conditions() {
    let port = store_that_ignores_conditions();
    let bucket = minio_bucket(&format!("http://127.0.0.1:{port}"), "").await;
    let findings = preflight(&bucket, now).await;
    let checks: Vec<Check> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(checks, [Check::ConditionalCreate, Check::ConditionalSwap], "{findings:?}");
    assert!(findings.iter().all(|finding| !finding.is_transient && !finding.remedy.is_empty()));
}

#[tokio::test]
async fn wrong_keys_a_missing_bucket_and_an_absent_server_are_told_apart() {
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("access_key_id"), "nobody").unwrap();
    std::fs::write(credentials.path().join("secret_access_key"), "nothing-at-all").unwrap();
    let reason = async |change: &dyn Fn(&mut S3Settings)| {
        let mut settings = s3_settings(&MINIO.endpoint(), "");
        if let Place::S3(s3) = &mut settings.place {
            change(s3);
        }
        let bucket = Bucket::open(&settings).await.unwrap();
        bucket.put_if_absent("k", body("x"), &PutMeta::default()).await.unwrap_err()
    };
    let denied = reason(&|s3| s3.credentials_dir = Some(credentials.path().to_owned())).await;
    assert_eq!(denied.reason(), "Denied", "{denied}");
    assert!(!denied.to_string().contains("nothing-at-all"));
    let empty = reason(&|s3| s3.credentials_dir = Some("/nowhere".into())).await;
    assert_eq!(empty.reason(), "Denied", "{empty}");
    let bucket = reason(&|s3| s3.bucket = "no-such-bucket".into()).await;
    assert_eq!(bucket.reason(), "NoSuchBucket", "{bucket}");
    let port = child::free_port();
    let away = reason(&|s3| s3.endpoint = Some(format!("http://127.0.0.1:{port}"))).await;
    assert_eq!((away.reason(), away.may_have_happened()), ("Unavailable", false), "{away}");
}

#[tokio::test]
async fn a_connection_cut_after_the_request_is_unclear_and_sent_only_once() {
    let (port, requests) = always_cut();
    let bucket = minio_bucket(&format!("http://127.0.0.1:{port}"), "").await;
    let error = bucket.put_if_absent("k", body("x"), &PutMeta::default()).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_happened()), ("Unclear", true), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 1, "the SDK must not retry by itself");
    let error = bucket.get("k").await.unwrap_err();
    assert_eq!(error.reason(), "Unavailable", "{error}");
}

#[tokio::test]
async fn two_processes_worth_of_buckets_share_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (directory_bucket(dir.path(), "").await, directory_bucket(dir.path(), "").await);
    let Swap::Swapped(tag) = one.swap("m", None, body("1")).await.unwrap() else { panic!("new") };
    let (a, b) = tokio::join!(one.swap("m", Some(&tag), body("a")), two.swap("m", Some(&tag), body("b")));
    let wins = [a, b].into_iter().filter(|swap| matches!(swap, Ok(Swap::Swapped(_)))).count();
    assert_eq!(wins, 1);
}

#[tokio::test]
async fn nothing_temporary_stays_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = directory_bucket(dir.path(), "").await;
    put(&bucket, "a", "1").await;
    put(&bucket, "a", "2").await;
    let Some((_, tag)) = bucket.get("a").await.unwrap() else { panic!("it is there") };
    bucket.swap("a", Some(&tag), body("3")).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join(".spillway/tmp")).unwrap().count(), 0);
}

/// Reads one request and hangs up, again and again.
fn always_cut() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if read_head(&mut stream).is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (port, requests)
}

/// Just enough of S3 to look like one; every PUT overwrites.
fn store_that_ignores_conditions() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let objects = Arc::new(Mutex::new(HashMap::new()));
        for stream in listener.incoming() {
            let (mut stream, objects) = (stream.unwrap(), Arc::clone(&objects));
            std::thread::spawn(move || {
                while let Some(head) = read_head(&mut stream) {
                    answer_without_conditions(&mut stream, &head, &objects);
                }
            });
        }
    });
    port
}

fn answer_without_conditions(stream: &mut TcpStream, head: &str, objects: &Mutex<HashMap<String, Vec<u8>>>) {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let path = target.split('?').next().unwrap().to_owned();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&jiff::Timestamp::now())
        .unwrap();
    let answer: Vec<u8> = match method {
        "PUT" => {
            objects.lock().unwrap().insert(path, body);
            Vec::new()
        }
        "GET" if target.contains("list-type=2") => b"<ListBucketResult></ListBucketResult>".to_vec(),
        "GET" => objects.lock().unwrap().get(&path).cloned().unwrap_or_default(),
        "POST" => b"<DeleteResult></DeleteResult>".to_vec(),
        _ => Vec::new(),
    };
    let head =
        format!("HTTP/1.1 200 OK\r\netag: \"x\"\r\ndate: {date}\r\ncontent-length: {}\r\n\r\n", answer.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&answer).unwrap();
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}
