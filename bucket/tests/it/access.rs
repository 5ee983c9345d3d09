//! Credentials as values, against a real store.

use crate::common::relay::{Canned, Relay};
use crate::common::{MINIO, minio, open_by, root, session, session_keys, settings};
use bytes::Bytes;
use spillway_bucket::{Access, Bucket, Identity, Put, PutMeta};

const ROLE: &str = "arn:aws:iam::123456789012:role/pipeline";
const TOKEN: &str = "a.token.of-the-service-account";

async fn put(bucket: &Bucket, key: &str) -> Put {
    bucket.put_if_absent(key, Bytes::from_static(b"x"), &PutMeta::default()).await.unwrap()
}

#[tokio::test]
async fn keys_work_with_and_without_a_session_token() {
    for (identity, prefix) in [(root(), "root/"), (session_keys(None).await, "session/")] {
        let bucket = open_by(&MINIO.endpoint(), minio::BUCKET, prefix, identity).await;
        assert!(matches!(put(&bucket, "k").await, Put::Created(_)));
    }
}

/// An STS that gives everybody who shows the token what MinIO's own gave.
async fn sts(lifetime_seconds: i64) -> Relay {
    let given = session(None).await;
    let expiration =
        jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + lifetime_seconds).unwrap();
    let body = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken>\
         <Expiration>{expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        given.access_key_id, given.secret_access_key, given.session_token
    );
    let shown = format!("WebIdentityToken={TOKEN}");
    let refused = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to perform \
                   sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>";
    Relay::start(
        0,
        vec![
            Canned { method: "POST", target: shown, status: 200, body },
            Canned { method: "POST", target: "/".to_owned(), status: 403, body: refused.to_owned() },
        ],
    )
}

fn web_identity(sts: &Relay, token: &str) -> Identity {
    Identity::WebIdentity {
        role_arn: ROLE.to_owned(),
        token: token.to_owned(),
        sts_endpoint: Some(sts.endpoint()),
    }
}

#[tokio::test]
async fn a_role_is_assumed_once_as_long_as_its_keys_are_good() {
    let sts = sts(3600).await;
    let bucket = open_by(&MINIO.endpoint(), minio::BUCKET, "web/", web_identity(&sts, TOKEN)).await;
    for key in ["a", "b", "c"] {
        assert!(matches!(put(&bucket, key).await, Put::Created(_)));
    }
    assert_eq!(sts.take().len(), 1);
}

#[tokio::test]
async fn a_role_is_assumed_again_before_its_keys_expire() {
    let sts = sts(2).await;
    let bucket = open_by(&MINIO.endpoint(), minio::BUCKET, "renewed/", web_identity(&sts, TOKEN)).await;
    for key in ["a", "b"] {
        assert!(matches!(put(&bucket, key).await, Put::Created(_)));
    }
    assert_eq!(sts.take().len(), 2);
}

#[tokio::test]
async fn a_role_that_is_refused_is_named_and_no_secret_is() {
    let sts = sts(3600).await;
    let bucket = open_by(&MINIO.endpoint(), minio::BUCKET, "", web_identity(&sts, "another-token")).await;
    let error = bucket.get("k").await.unwrap_err();
    assert_eq!(error.reason(), "Denied", "{error}");
    assert!(error.to_string().contains(ROLE) && error.to_string().contains("Not authorized"), "{error}");
    assert!(!error.to_string().contains("another-token"), "{error}");
}

#[tokio::test]
async fn wrong_keys_are_denied_and_a_wrong_authority_is_said() {
    let nobody = Identity::Keys {
        access_key_id: "nobody".to_owned(),
        secret_access_key: "nothing-at-all".to_owned(),
        session_token: None,
    };
    assert!(!format!("{nobody:?}").contains("nothing-at-all"));
    let bucket = open_by(&MINIO.endpoint(), minio::BUCKET, "", nobody).await;
    assert_eq!(bucket.get("k").await.unwrap_err().reason(), "Denied");
    let access = Access { ca_pem: Some(b"no certificate".to_vec()), ..Access::new(root()) };
    let error = Bucket::open_as(&settings("https://127.0.0.1:1", "b", ""), access).await.unwrap_err();
    assert_eq!(error.reason(), "Invalid", "{error}");
}
