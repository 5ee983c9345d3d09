//! Records over TLS, and a certificate that is renewed under way.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::tls::TlsInfo;
use serde_json::json;
use spillway_e2e::cases;
use spillway_e2e::doors::{Doors, Knock};
use spillway_e2e::forward::Forward;
use spillway_e2e::space::{KEY, PATIENCE, Space};
use spillway_e2e::traffic::{AUTHORITY, Load, Traffic};
use spillway_tests::kubernetes::pipelines::NAME;

cases![a_renewed_certificate_is_served_without_a_restart];

const SERVICE: &str = "logs-ingest";

/// Who issues the Service's certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

struct Issued {
    certificate: rcgen::Certificate,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![SERVICE.to_owned()]).expect("names");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate, key: key.serialize_pem() }
    }
}

/// What the port shows on a new connection.
async fn shown(authority: &Authority, port: u16) -> Vec<u8> {
    let trusted = reqwest::Certificate::from_pem(authority.pem.as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder()
        .tls_certs_only([trusted])
        .tls_info(true)
        .resolve(SERVICE, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .build()
        .expect("a client");
    let answer =
        client.get(format!("https://{SERVICE}:{port}/readyz")).send().await.expect("an answer over TLS");
    assert!(answer.status().is_success(), "{}", answer.status());
    let info = answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
    info.expect("a certificate").to_vec()
}

async fn a_renewed_certificate_is_served_without_a_restart(space: &Space) {
    let authority = Authority::new();
    let (first, second) = (authority.issue(), authority.issue());
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let named = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), bytes(&first.certificate.pem())),
        ("tls.key".to_owned(), bytes(&first.key)),
    ]);
    let secret = Secret {
        metadata: named("certificate"),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    };
    space.create(&secret).await;
    let trusted = BTreeMap::from([("ca.crt".to_owned(), authority.pem.clone())]);
    space
        .create(&ConfigMap { metadata: named("authority"), data: Some(trusted), ..ConfigMap::default() })
        .await;
    space.ready_pipeline(json!({"ingest": {"tls": {"secretRef": {"name": "certificate"}}}})).await;

    let more = vec![format!("--url=https://{SERVICE}:8080"), format!("--ca-file={AUTHORITY}/ca.crt")];
    let traffic = Traffic::start(space, Load { more, ..Load::of(600, 300) }).await;
    let before = space.who_runs(NAME).await;
    let in_clear = Doors::of(space, NAME).await.ask(Knock::with(KEY, "shop")).await;
    assert!(
        in_clear.iter().all(|answer| answer.status == 400 && answer.body.contains("clear_text")),
        "{in_clear:?}"
    );

    let mut ports = Vec::new();
    for pod in space.component("ingest").await {
        ports.push(Forward::open(space, &format!("pod/{}", pod.name_any()), 8080).await);
    }
    for port in &ports {
        assert_eq!(shown(&authority, port.port).await, first.certificate.der().to_vec());
    }
    let renewed = json!({"stringData": {"tls.crt": second.certificate.pem(), "tls.key": second.key}});
    space.change::<Secret>("certificate", renewed).await;
    let since = Instant::now();
    for port in &ports {
        while shown(&authority, port.port).await != second.certificate.der().to_vec() {
            assert!(since.elapsed() < PATIENCE, "the new certificate is not shown");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    println!("tls: renewed certificate shown by all pods after {:.1} s", since.elapsed().as_secs_f32());
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    let verdict = traffic.stop().await;
    assert_eq!(verdict.unclear, 0);
    assert_eq!(space.who_runs(NAME).await, before);
}
