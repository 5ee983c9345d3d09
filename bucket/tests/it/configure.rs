//! What happens to a real bucket's settings.

use crate::common::relay::{Canned, Relay};
use crate::common::{MINIO, open, open_by, s3, session_keys};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
};
use bytes::Bytes;
use spillway_bucket::configure::{Encryption, NoteKind, Policy, Report, Setting, configure, preview};
use spillway_bucket::{Bucket, DEAD_LETTER_TAG, PutMeta};

/// What MinIO can do.
fn policy() -> Policy {
    Policy {
        create: true,
        versioning: Some(true),
        dead_letter_expiry_days: Some(7),
        housekeeping: true,
        ..Policy::default()
    }
}

/// Through a relay, with what it sent that was no read.
async fn configure_and_count(
    relay: &Relay,
    name: &str,
    prefix: &str,
    policy: &Policy,
) -> (Report, Vec<String>) {
    let bucket = open(&relay.endpoint(), name, prefix).await;
    relay.take();
    let report = configure(&bucket, policy).await.unwrap();
    let reads = ["GET ", "HEAD "];
    let writes = relay.take().into_iter().filter(|line| !reads.iter().any(|read| line.starts_with(read)));
    (report, writes.collect())
}

async fn rules(bucket: &str) -> Vec<LifecycleRule> {
    match s3().get_bucket_lifecycle_configuration().bucket(bucket).send().await {
        Ok(output) => output.rules.unwrap(),
        Err(_) => Vec::new(),
    }
}

async fn ids(bucket: &str) -> Vec<String> {
    rules(bucket).await.iter().map(|rule| rule.id().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_bucket_is_made_and_set_up_and_a_second_run_writes_nothing() {
    let relay = Relay::start(MINIO.port(), Vec::new());
    let (first, writes) = configure_and_count(&relay, "made", "logs/", &policy()).await;
    assert_eq!(first.changed, [Setting::Bucket, Setting::Versioning, Setting::Lifecycle], "{first:?}");
    assert_eq!(writes.len(), 3, "{writes:?}");
    assert_eq!(
        ids("made").await,
        [
            "spillway:logs/:dead-letter-versions",
            "spillway:logs/:control-versions",
            "spillway:logs/:dead-letters"
        ]
    );
    let (second, writes) = configure_and_count(&relay, "made", "logs/", &policy()).await;
    assert_eq!((second.changed.len(), writes.len()), (0, 0), "{second:?} {writes:?}");
    assert_eq!(second.notes, first.notes);
    // MinIO's own way with incomplete uploads.
    assert_eq!(second.notes.iter().map(|note| note.kind).collect::<Vec<_>>(), [NoteKind::NotSupported]);
}

#[tokio::test]
async fn a_preview_writes_nothing_and_says_what_is_done_then() {
    let relay = Relay::start(MINIO.port(), Vec::new());
    let bucket = open(&relay.endpoint(), "previewed", "logs/").await;
    let before = preview(&bucket, &policy()).await.unwrap();
    assert_eq!(before.now, ["there is no such bucket"]);
    assert_eq!(before.then[..2], ["the bucket is created", "versioning: on"]);
    assert!(before.then[2..].iter().all(|line| line.starts_with("lifecycle rule")), "{:?}", before.then);
    let asked = relay.take();
    assert!(asked.iter().all(|line| line.starts_with("HEAD ") || line.starts_with("GET ")), "{asked:?}");
    assert!(s3().head_bucket().bucket("previewed").send().await.is_err());

    configure(&bucket, &policy()).await.unwrap();
    let after = preview(&bucket, &policy()).await.unwrap();
    assert_eq!((after.now.len(), after.then.len()), (0, 0), "{after:?}");
    let longer = Policy { dead_letter_expiry_days: Some(9), ..policy() };
    let changed = preview(&bucket, &longer).await.unwrap();
    let rule = |days: u8| {
        format!("lifecycle rule \"spillway:logs/:dead-letters\": dead letters expire after {days} days")
    };
    assert_eq!((changed.now, changed.then), (vec![rule(7)], vec![rule(9)]));
    let missing = preview(&open(&MINIO.endpoint(), "not-there", "").await, &Policy::default()).await;
    assert_eq!(missing.unwrap_err().reason(), "NoSuchBucket");
}

#[tokio::test]
async fn drift_is_corrected_and_rules_that_are_no_longer_wanted_go() {
    let bucket = open(&MINIO.endpoint(), "drift", "logs/").await;
    configure(&bucket, &policy()).await.unwrap();
    s3().delete_bucket_lifecycle().bucket("drift").send().await.unwrap();
    let again = configure(&bucket, &policy()).await.unwrap();
    assert_eq!(again.changed, [Setting::Lifecycle]);
    assert_eq!(ids("drift").await.len(), 3);
    let nothing = configure(&bucket, &Policy::default()).await.unwrap();
    assert_eq!(nothing.changed, [Setting::Lifecycle]);
    assert_eq!(ids("drift").await, Vec::<String>::new());
}

#[tokio::test]
async fn pipelines_in_one_bucket_and_others_rules_live_side_by_side() {
    s3().create_bucket().bucket("shared").send().await.unwrap();
    let expiration = LifecycleExpiration::builder().days(90).build();
    let theirs = LifecycleRule::builder()
        .id("backups & more")
        .filter(LifecycleRuleFilter::builder().prefix("backups/").build())
        .expiration(expiration)
        .status(ExpirationStatus::Enabled)
        .build()
        .unwrap();
    let configuration = BucketLifecycleConfiguration::builder().rules(theirs.clone()).build().unwrap();
    let request = s3().put_bucket_lifecycle_configuration().bucket("shared");
    request.lifecycle_configuration(configuration).send().await.unwrap();
    let before = rules("shared").await;

    let relay = Relay::start(MINIO.port(), Vec::new());
    for prefix in ["one/", "two/"] {
        let (report, _) = configure_and_count(&relay, "shared", prefix, &policy()).await;
        assert!(report.changed.contains(&Setting::Lifecycle), "{report:?}");
    }
    for prefix in ["one/", "two/"] {
        let (report, writes) = configure_and_count(&relay, "shared", prefix, &policy()).await;
        assert_eq!((report.changed.len(), writes.len()), (0, 0), "{prefix}: {writes:?}");
    }
    assert_eq!(rules("shared").await.len(), 7);
    assert_eq!(rules("shared").await[0], before[0], "the foreign rule is as it was");

    configure_and_count(&relay, "shared", "one/", &Policy::default()).await;
    let left = ids("shared").await;
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left.iter().all(|id| id.starts_with("backups") || id.starts_with("spillway:two/:")), "{left:?}");
}

#[tokio::test]
async fn the_store_itself_says_that_dead_letters_expire_and_staged_objects_do_not() {
    let bucket = open(&MINIO.endpoint(), "expiry", "logs/").await;
    let policy = Policy { versioning: None, ..policy() };
    configure(&bucket, &policy).await.unwrap();
    let (key, value) = DEAD_LETTER_TAG;
    let tagged = PutMeta { tagging: Some(format!("{key}={value}")), ..PutMeta::default() };
    let letter = "_dead-letter/2026-11-22/1-00000001.json.gz";
    bucket.put_if_absent(letter, Bytes::from_static(b"x"), &tagged).await.unwrap();
    let untagged = [
        "shop/api/20260131T235959042Z-a-0000000007-v1-100-54300.json.gz",
        "_packed/20260131T235959042Z-a-0000000007-v1-100-54300.json.gz",
        "_spillway/manifest.json",
        "_dead-letter/plan.json",
    ];
    for key in untagged {
        bucket.put_if_absent(key, Bytes::from_static(b"x"), &PutMeta::default()).await.unwrap();
    }
    let expires = async |key: &str| {
        let head = s3().head_object().bucket("expiry").key(format!("logs/{key}")).send().await.unwrap();
        head.expiration().map(str::to_owned)
    };
    let verdict = expires(letter).await.expect("a rule is for it");
    assert!(verdict.contains("dead-letters"), "{verdict}");
    for key in untagged {
        assert_eq!(expires(key).await, None, "{key}");
    }
}

#[tokio::test]
async fn what_the_store_lacks_is_said_and_the_rest_is_done() {
    let bucket = open(&MINIO.endpoint(), "lacking", "logs/").await;
    let policy = Policy { encryption: Some(Encryption::Aes256), block_public_access: Some(true), ..policy() };
    let report = configure(&bucket, &policy).await.unwrap();
    assert_eq!(report.changed, [Setting::Bucket, Setting::Versioning, Setting::Lifecycle]);
    for setting in [Setting::PublicAccessBlock, Setting::Encryption] {
        let note = report.notes.iter().find(|note| note.setting == setting).unwrap();
        assert_eq!(note.kind, NoteKind::NotSupported, "{note}");
    }
    assert!(!report.wants_retry());
    assert_eq!(configure(&bucket, &policy).await.unwrap().notes, report.notes, "the same words each time");
}

#[tokio::test]
async fn what_the_credentials_may_not_is_said_with_what_to_grant() {
    s3().create_bucket().bucket("limited").send().await.unwrap();
    let only_data = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:ListBucket","s3:GetObject","s3:PutObject","s3:DeleteObject","s3:GetBucketVersioning"],"Resource":["arn:aws:s3:::*"]}]}"#;
    let bucket = open_by(&MINIO.endpoint(), "limited", "", session_keys(Some(only_data)).await).await;
    let report = configure(&bucket, &policy()).await.unwrap();
    assert_eq!(report.changed, []);
    let note = |setting| report.notes.iter().find(|note| note.setting == setting).unwrap();
    for (setting, permission) in [
        (Setting::Versioning, "s3:PutBucketVersioning"),
        (Setting::Lifecycle, "s3:PutLifecycleConfiguration"),
    ] {
        assert_eq!(note(setting).kind, NoteKind::Denied);
        assert!(note(setting).message.contains(permission), "{}", note(setting));
    }
}

#[tokio::test]
async fn a_foreign_rule_that_cannot_be_carried_keeps_everything_as_it_is() {
    let theirs = "<LifecycleConfiguration><Rule><ID>markers</ID><Status>Enabled</Status><Filter><Prefix>x/</Prefix></Filter>\
                  <DelMarkerExpiration><Days>3</Days></DelMarkerExpiration></Rule></LifecycleConfiguration>";
    s3().create_bucket().bucket("markers").send().await.unwrap();
    let canned =
        Canned { method: "GET", target: "lifecycle".to_owned(), status: 200, body: theirs.to_owned() };
    let relay = Relay::start(MINIO.port(), vec![canned]);
    let (report, writes) =
        configure_and_count(&relay, "markers", "logs/", &Policy { versioning: None, ..policy() }).await;
    assert_eq!((report.changed.len(), writes.len()), (0, 0), "{report:?} {writes:?}");
    let note = report.notes.iter().find(|note| note.kind == NoteKind::Left).unwrap();
    assert!(note.message.contains("DelMarkerExpiration of \"markers\""), "{note}");
}

#[tokio::test]
async fn a_store_that_refuses_a_rule_gets_the_others() {
    s3().create_bucket().bucket("picky").send().await.unwrap();
    // MinIO refuses rules for incomplete uploads; here it does not say who it is.
    let canned = Canned { method: "HEAD", target: "/picky".to_owned(), status: 200, body: String::new() };
    let relay = Relay::start(MINIO.port(), vec![canned]);
    let wanted = Policy { versioning: None, ..policy() };
    let (report, writes) = configure_and_count(&relay, "picky", "logs/", &wanted).await;
    assert_eq!(report.changed, [Setting::Lifecycle], "{report:?}");
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert!(report.notes[0].message.contains("spillway:logs/:incomplete-uploads"), "{:?}", report.notes);
    assert_eq!(ids("picky").await, ["spillway:logs/:dead-letters"]);
    let (again, _) = configure_and_count(&relay, "picky", "logs/", &wanted).await;
    assert_eq!((again.changed.len(), again.notes), (0, report.notes));
}

#[tokio::test]
async fn a_missing_bucket_a_foreign_name_and_a_foreign_bucket_are_told_apart() {
    let fail = async |bucket: &Bucket, create: bool| {
        configure(bucket, &Policy { create, ..Policy::default() }).await.unwrap_err()
    };
    let missing = fail(&open(&MINIO.endpoint(), "no-such-bucket", "").await, false).await;
    assert_eq!(missing.reason(), "NoSuchBucket");
    assert!(missing.to_string().contains("storage.bucketPolicy.create"), "{missing}");

    let code = |code: &str| format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
    let head = |status| Canned { method: "HEAD", target: "/b".to_owned(), status, body: String::new() };
    let put =
        |status, text: &str| Canned { method: "PUT", target: "/b".to_owned(), status, body: code(text) };
    for (canned, reason) in [
        (vec![head(404), put(409, "BucketAlreadyExists")], "BucketNameTaken"),
        (vec![head(404), put(403, "AccessDenied")], "BucketNotCreated"),
        (vec![head(403)], "Denied"),
        (vec![head(301)], "Invalid"),
    ] {
        let relay = Relay::start(0, canned);
        let error = fail(&open(&relay.endpoint(), "b", "").await, true).await;
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_ours_already_is_as_good_as_made() {
    s3().create_bucket().bucket("already").send().await.unwrap();
    s3().put_object().bucket("already").key("k").body(ByteStream::from_static(b"x")).send().await.unwrap();
    let bucket = open(&MINIO.endpoint(), "already", "").await;
    let report = configure(&bucket, &Policy { create: true, ..Policy::default() }).await.unwrap();
    assert_eq!(report, Report::default());
}
