//! TLS on the port that logs are sent to: one certificate, read again when its files change.

mod certificate;
mod handshake;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use spillway_model::settings::TlsSettings;

pub use certificate::CertificateError;
use certificate::{Content, Pair, Standing};
pub(crate) use handshake::{HandshakeError, Handshakes, UnderWay};

/// How soon changed files are noticed.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// What is shown to new connections; those that are there keep theirs.
#[derive(Debug)]
struct Shown(RwLock<Pair>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().certified))
    }
}

/// The certificate of the port, and what TLS makes of it.
pub(crate) struct Tls {
    files: TlsSettings,
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files; blocks.
    ///
    /// # Errors
    /// When they hold no certificate with its key.
    pub(crate) fn load(files: TlsSettings) -> Result<Self, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let pair = Pair::of(&files, &Content::read(&files)?, &provider)?;
        let shown = Arc::new(Shown(RwLock::new(pair)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(CertificateError::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { files, provider, shown, config: Arc::new(config) })
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// When the certificate ends, in seconds since 1970; none when it does not say so in a way that is
    /// understood here.
    pub(crate) fn not_after(&self) -> Option<i64> {
        self.shown.0.read().validity.map(|validity| validity.not_after as i64)
    }

    fn standing(&self) -> Standing {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.shown.0.read().validity.map_or(Standing::Good, |validity| validity.standing(now))
    }

    /// Reads the files again, blocking; true when they had changed.
    ///
    /// # Errors
    /// When they can't be used; the earlier certificate stays.
    fn reload(&self) -> Result<bool, CertificateError> {
        let content = Content::read(&self.files)?;
        if content.digest() == self.shown.0.read().digest {
            return Ok(false);
        }
        let pair = Pair::of(&self.files, &content, &self.provider)?;
        *self.shown.0.write() = pair;
        Ok(true)
    }

    /// Reloads for ever. The content is compared, not the time of change: kubelet swaps symbolic links.
    pub(crate) async fn watch(self: Arc<Self>, changed: impl Fn(&Self) + Send, failed: impl Fn() + Send) {
        let (mut complained, mut told) = (String::new(), Standing::Good);
        loop {
            changed(&self);
            let standing = self.standing();
            if std::mem::replace(&mut told, standing) != standing {
                self.tell(standing);
            }
            tokio::time::sleep(RELOAD_EVERY).await;
            let tls = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || tls.reload()).await {
                Ok(Ok(true)) => {
                    complained.clear();
                    tracing::info!(not_after = self.not_after(), "certificate changed");
                }
                Ok(Ok(false)) => complained.clear(),
                Ok(Err(error)) => {
                    failed();
                    let text = error.to_string();
                    if text != complained {
                        tracing::error!(
                            reason = error.reason(),
                            %error,
                            "the new certificate can't be used; the earlier one stays"
                        );
                        complained = text;
                    }
                }
                Err(error) => tracing::error!(%error, "reading the certificate failed"),
            }
        }
    }

    fn tell(&self, standing: Standing) {
        let (file, not_after) = (self.files.cert_file.display(), self.not_after());
        match standing {
            Standing::Good => tracing::info!(%file, not_after, "the certificate is valid"),
            Standing::NotYet => {
                tracing::warn!(%file, "the certificate is not valid yet: senders refuse it; check the clock");
            }
            Standing::Expired => {
                tracing::warn!(%file, not_after, "the certificate has expired: senders refuse it; renew it");
            }
        }
    }
}
