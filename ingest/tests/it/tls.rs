//! The port over TLS: who may connect, how a certificate is renewed, who can't hold up whom.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Fault, Ingest, KEY, answer, frame_kind, logs, record, settings, until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use spillway_model::settings::{Span, TlsSettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Somebody who issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for this machine and its key.
    fn issue(&self) -> (String, String) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn client(&self) -> reqwest::Client {
        let authority = reqwest::Certificate::from_pem(self.pem.as_bytes()).unwrap();
        reqwest::Client::builder().tls_certs_only([authority]).build().unwrap()
    }

    fn config(&self) -> ClientConfig {
        self.config_of(rustls::ALL_VERSIONS)
    }

    fn config_of(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A connection that trusts this authority alone.
    async fn connect(&self, ingest: &Ingest) -> io::Result<TlsStream<TcpStream>> {
        connect(ingest, self.config()).await
    }
}

async fn connect(ingest: &Ingest, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, dial(ingest).await).await
}

async fn dial(ingest: &Ingest) -> TcpStream {
    TcpStream::connect(ingest.url.split("//").nth(1).unwrap()).await.unwrap()
}

/// A certificate and its key as kubelet mounts a Secret.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new((cert, key): &(String, String)) -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        mount.swap("..0", cert, key);
        for name in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{name}"), mount.path().join(name)).unwrap();
        }
        mount
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn swap(&self, moment: &str, cert: &str, key: &str) {
        let (dir, link) = (self.path().join(moment), self.path().join("..data_tmp"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("tls.crt"), cert).unwrap();
        std::fs::write(dir.join("tls.key"), key).unwrap();
        symlink(moment, &link).unwrap();
        std::fs::rename(link, self.path().join("..data")).unwrap();
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings { cert_file: self.path().join("tls.crt"), key_file: self.path().join("tls.key") }
    }
}

/// With a client that trusts the authority.
async fn start(authority: &Authority) -> (Ingest, Mount) {
    let mount = Mount::new(&authority.issue());
    let mut settings = settings();
    settings.tls = Some(mount.settings());
    settings.flush.max_age = Span::ms(100);
    let mut ingest = Ingest::start(settings).await;
    ingest.url = ingest.url.replace("http://", "https://");
    ingest.client = authority.client();
    (ingest, mount)
}

fn one() -> String {
    logs(&[record("shop", "api", "m")])
}

/// One request on a connection that stays; the status.
async fn ask(stream: &mut TlsStream<TcpStream>) -> io::Result<u16> {
    let body = one();
    let request = format!(
        "POST /v1/drain HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    while !answer.ends_with('}') {
        let mut part = [0; 4096];
        let bytes = stream.read(&mut part).await?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.push_str(&String::from_utf8_lossy(&part[..bytes]));
    }
    Ok(answer.split(' ').nth(1).unwrap().parse().unwrap())
}

#[tokio::test]
async fn logs_come_over_tls_1_2_and_1_3_with_http_1_and_2() {
    let authority = Authority::new();
    let (ingest, _mount) = start(&authority).await;
    assert_eq!(ingest.send(one()).await.0, 200);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for protocol in ["h2", "http/1.1"] {
            let mut config = authority.config_of(&[version]);
            config.alpn_protocols = vec![protocol.into()];
            let mut stream = connect(&ingest, config).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            if protocol == "http/1.1" {
                assert_eq!(ask(&mut stream).await.unwrap(), 200);
            }
        }
    }
    let not_after = ingest.metrics().await.sum("spillway_ingest_tls_not_after_seconds");
    assert!(not_after > 60_000_000_000.0, "rcgen's year 4096: {not_after}");
}

#[tokio::test]
async fn who_does_not_trust_the_certificate_does_not_send() {
    let (ingest, _mount) = start(&Authority::new()).await;
    let error = Authority::new().connect(&ingest).await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let refused = r#"spillway_ingest_tls_handshake_failures_total{reason="refused_by_client"} 1"#;
    until("the refusal is counted", async || ingest.metrics().await.0.contains(refused)).await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_the_others_stay() {
    let (before, after) = (Authority::new(), Authority::new());
    let (mut ingest, mount) = start(&before).await;
    let mut there = before.connect(&ingest).await.unwrap();
    assert_eq!(ask(&mut there).await.unwrap(), 200);
    let (cert, key) = after.issue();
    mount.swap("..1", &cert, &key);
    until("the new certificate is shown", async || after.connect(&ingest).await.is_ok()).await;
    assert!(before.connect(&ingest).await.is_err());
    assert_eq!(ask(&mut there).await.unwrap(), 200, "a connection from before");
    ingest.client = after.client();
    assert_eq!(ingest.send(one()).await.0, 200);
    assert_eq!(ingest.metrics().await.sum("spillway_ingest_tls_reload_failures_total"), 0.0);
}

#[tokio::test]
async fn a_broken_or_mismatched_pair_keeps_the_old_one_and_is_counted() {
    let authority = Authority::new();
    let (ingest, mount) = start(&authority).await;
    let ((cert, key), (other, _)) = (authority.issue(), authority.issue());
    for (moment, cert, key) in [("..1", &*other, &*key), ("..2", "", &key), ("..3", &cert, "no key")] {
        let failures = async || ingest.metrics().await.sum("spillway_ingest_tls_reload_failures_total");
        let earlier = failures().await;
        mount.swap(moment, cert, key);
        until("it is noticed twice", async || failures().await >= earlier + 2.0).await;
        let mut stream = authority.connect(&ingest).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), 200);
    }
}

#[tokio::test]
async fn http_in_clear_text_is_told_what_is_wrong() {
    let (ingest, _mount) = start(&Authority::new()).await;
    let plain = ingest.url.replace("https://", "http://");
    let request = reqwest::Client::new().post(format!("{plain}/v1/drain")).bearer_auth(KEY).body(one());
    let (status, body) = answer(request).await;
    assert_eq!((status, body["error"]["code"].as_str().unwrap()), (400, "clear_text"));
    assert!(body["error"]["message"].as_str().unwrap().contains("https://"), "{body}");
    assert!(ingest.bucket.keys().is_empty());
    // Something that is neither.
    let mut stream = dial(&ingest).await;
    stream.write_all(b"\0\0\0\x2a nonsense that is no record").await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap();
    let metrics = ingest.metrics().await.0;
    for reason in ["clear_text", "failed"] {
        let line = format!("spillway_ingest_tls_handshake_failures_total{{reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn those_who_do_not_finish_their_handshake_hold_up_nobody() {
    let authority = Authority::new();
    let (ingest, _mount) = start(&authority).await;
    let mut idle = Vec::new();
    for number in 0..600 {
        let mut stream = dial(&ingest).await;
        if number % 2 == 0 {
            // The begin of a record, and no more.
            stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        }
        idle.push(stream);
    }
    let started = Instant::now();
    assert_eq!(ingest.send(one()).await.0, 200);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let crowded = ingest.metrics().await;
    let line = |l: &&str| l.starts_with("spillway_ingest_tls_handshake_failures_total{reason=\"crowded\"}");
    let crowded: f64 = crowded.0.lines().find(line).unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(crowded >= 88.0, "{crowded} of 600 made room");
    // The oldest ones are closed.
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(5), idle[1].read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    // Nor do they hold up a drain.
    let started = Instant::now();
    assert!(ingest.stop().await.all_answered);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn draining_answers_what_is_under_way_and_tells_http_2_to_go_away() {
    let authority = Authority::new();
    let (ingest, _mount) = start(&authority).await;
    let mut config = authority.config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut peer = connect(&ingest, config).await.unwrap();
    // The preface and an empty SETTINGS frame (RFC 9113, 3.4).
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert_eq!(frame_kind(&mut peer).await, 4, "SETTINGS");
    ingest.bucket.fails(Fault::Unavailable);
    let mut stream = authority.connect(&ingest).await.unwrap();
    let under_way = tokio::spawn(async move { (ask(&mut stream).await, stream) });
    until("the request is under way", async || !ingest.bucket.attempts.lock().is_empty()).await;
    ingest.shutdown.drain.cancel();
    while frame_kind(&mut peer).await != 7 {}
    drop(peer);
    ingest.bucket.works();
    let (status, mut stream) = under_way.await.unwrap();
    assert_eq!(status.unwrap(), 200);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("closed as TLS asks, so that nothing looks cut off");
    let bucket = Arc::clone(&ingest.bucket);
    let report = ingest.ended().await;
    assert_eq!((report.exit_code(), report.all_answered), (0, true));
    assert_eq!(bucket.messages(), ["m"]);
}
