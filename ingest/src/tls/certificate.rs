//! A certificate and its key, read as the pair that they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use der::asn1::{GeneralizedTime, UtcTime};
use der::{Reader, SliceReader, Tag};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use spillway_model::settings::TlsSettings;

/// kubelet swaps both files at once, but they are read one after the other.
const READINGS: usize = 5;
const BETWEEN_READINGS: Duration = Duration::from_millis(20);

/// Why a certificate can't be shown. Never says what a key file holds.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{} can't be read: {source}; check the path and its permissions", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no PEM: {what}", path.display())]
    NotPem { path: PathBuf, what: &'static str },
    #[error("{} holds no certificate; it must have a section BEGIN CERTIFICATE{}", path.display(), if *der { ", and it looks like DER: convert it with `openssl x509 -inform der`" } else { "" })]
    NoCertificate { path: PathBuf, der: bool },
    #[error("{} holds no private key; it must have a section BEGIN PRIVATE KEY, BEGIN EC PRIVATE KEY or BEGIN RSA PRIVATE KEY", path.display())]
    NoKey { path: PathBuf },
    #[error("the private key in {} is encrypted; decrypt it with `openssl pkey`", path.display())]
    EncryptedKey { path: PathBuf },
    #[error("the private key in {} can't be used: it must be RSA of at least 2048 bits, ECDSA P-256 or P-384, or Ed25519", path.display())]
    BadKey { path: PathBuf },
    #[error("the first certificate in {} can't be read: {source}", path.display())]
    BadCertificate { path: PathBuf, source: rustls::Error },
    #[error("the private key in {} is not that of the first certificate in {}; both must be of one pair, and the server's own certificate the first of its file", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("{} and {} kept changing while they were read", cert.display(), key.display())]
    Unsteady { cert: PathBuf, key: PathBuf },
    #[error("TLS can't be set up: {0}")]
    Unusable(rustls::Error),
}

impl CertificateError {
    /// A short label, without free text.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "unreadable_file",
            Self::NotPem { .. } => "not_pem",
            Self::NoCertificate { .. } => "no_certificate",
            Self::NoKey { .. } => "no_private_key",
            Self::EncryptedKey { .. } => "encrypted_private_key",
            Self::BadKey { .. } => "bad_private_key",
            Self::BadCertificate { .. } => "bad_certificate",
            Self::Mismatch { .. } => "key_of_another_certificate",
            Self::Unsteady { .. } => "unsteady_files",
            Self::Unusable(_) => "tls_unusable",
        }
    }
}

/// From when to when a certificate holds, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

/// What a certificate's dates say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    NotYet,
    Expired,
}

impl Validity {
    pub(crate) fn standing(self, now: u64) -> Standing {
        if now < self.not_before {
            Standing::NotYet
        } else if now > self.not_after {
            Standing::Expired
        } else {
            Standing::Good
        }
    }
}

/// A certificate with its chain, and the key that fits it.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) certified: Arc<CertifiedKey>,
    /// None when its dates are not written as RFC 5280 asks.
    pub(crate) validity: Option<Validity>,
    /// Of both files.
    pub(crate) digest: [u8; 32],
}

/// What both files held at one moment, whatever it is worth.
pub(crate) struct Content {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Content {
    /// Reads both files.
    ///
    /// # Errors
    /// When they can't be read, or change all the time.
    pub(crate) fn read(files: &TlsSettings) -> Result<Self, CertificateError> {
        let (cert, key) =
            steady(|| Ok((read(&files.cert_file)?, read(&files.key_file)?)))?.ok_or_else(|| {
                CertificateError::Unsteady { cert: files.cert_file.clone(), key: files.key_file.clone() }
            })?;
        Ok(Self { cert, key })
    }

    /// The same for the same content.
    pub(crate) fn digest(&self) -> [u8; 32] {
        digest(&self.cert, &self.key)
    }
}

fn digest(cert_pem: &[u8], key_pem: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update((cert_pem.len() as u64).to_le_bytes())
        .chain_update(cert_pem)
        .chain_update(key_pem)
        .finalize()
        .into()
}

impl Pair {
    /// Makes a certificate with its key of what the files held.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn of(
        files: &TlsSettings,
        content: &Content,
        provider: &CryptoProvider,
    ) -> Result<Self, CertificateError> {
        Self::parse(files, &content.cert, &content.key, provider)
    }

    fn parse(
        files: &TlsSettings,
        cert_pem: &[u8],
        key_pem: &[u8],
        provider: &CryptoProvider,
    ) -> Result<Self, CertificateError> {
        let TlsSettings { cert_file, key_file } = files;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert_pem)
            .collect::<Result<_, _>>()
            .map_err(|error| not_pem(cert_file, &error))?;
        let Some(own) = chain.first() else {
            let der = cert_pem.first() == Some(&0x30);
            return Err(CertificateError::NoCertificate { path: cert_file.clone(), der });
        };
        let validity = validity(own);
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| match error {
            PemError::NoItemsFound if holds(key_pem, b"BEGIN ENCRYPTED PRIVATE KEY") => {
                CertificateError::EncryptedKey { path: key_file.clone() }
            }
            PemError::NoItemsFound => CertificateError::NoKey { path: key_file.clone() },
            other => not_pem(key_file, &other),
        })?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|_| CertificateError::BadKey { path: key_file.clone() })?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => {
                CertificateError::Mismatch { cert: cert_file.clone(), key: key_file.clone() }
            }
            source => CertificateError::BadCertificate { path: cert_file.clone(), source },
        })?;
        let digest = digest(cert_pem, key_pem);
        Ok(Self { certified: Arc::new(certified), validity, digest })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source })
}

/// Reads until two readings in a row agree: one of them may have fallen on the moment at which kubelet
/// swaps the files, and have the certificate of before and the key of after.
fn steady<T: PartialEq, E>(mut read: impl FnMut() -> Result<T, E>) -> Result<Option<T>, E> {
    let mut earlier = None;
    for reading in 0..READINGS {
        if reading > 1 {
            std::thread::sleep(BETWEEN_READINGS);
        }
        // A file that is missing may be there in a moment.
        match read() {
            Ok(now) if earlier.as_ref() == Some(&now) => return Ok(Some(now)),
            Ok(now) => earlier = Some(now),
            Err(error) if reading + 1 == READINGS => return Err(error),
            Err(_) => earlier = None,
        }
    }
    Ok(None)
}

fn not_pem(path: &Path, error: &PemError) -> CertificateError {
    // The errors themselves show a line of the file.
    let what = match error {
        PemError::MissingSectionEnd { .. } => "a section has no end",
        PemError::IllegalSectionStart { .. } => "a section begins with a malformed line",
        PemError::Base64Decode(_) => "a section is not base64",
        _ => "a section is malformed",
    };
    CertificateError::NotPem { path: path.to_owned(), what }
}

fn holds(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|part| part == what)
}

/// RFC 5280, 4.1: the dates are the fifth field of what is signed, or the fourth in version 1.
fn validity(certificate: &[u8]) -> Option<Validity> {
    let mut reader = SliceReader::new(certificate).ok()?;
    let dates = reader.sequence(|certificate| {
        let dates = certificate.sequence(|signed| {
            if Tag::peek(signed)?.is_context_specific() {
                signed.tlv_bytes()?;
            }
            let _serial = signed.tlv_bytes()?;
            let _algorithm = signed.tlv_bytes()?;
            let _issuer = signed.tlv_bytes()?;
            let dates = signed.sequence(|dates| {
                let (not_before, not_after) = (date(dates)?, date(dates)?);
                Ok::<_, der::Error>(Validity { not_before, not_after })
            })?;
            signed.drain(signed.remaining_len())?;
            Ok::<_, der::Error>(dates)
        })?;
        certificate.drain(certificate.remaining_len())?;
        Ok::<_, der::Error>(dates)
    });
    dates.ok()
}

fn date<'r>(reader: &mut impl Reader<'r>) -> der::Result<u64> {
    Ok(match Tag::peek(reader)? {
        Tag::UtcTime => reader.decode::<UtcTime>()?.to_unix_duration(),
        _ => reader.decode::<GeneralizedTime>()?.to_unix_duration(),
    }
    .as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn made(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn parse(cert: &str, key: &str) -> Result<Pair, CertificateError> {
        let files = TlsSettings { cert_file: "tls.crt".into(), key_file: "tls.key".into() };
        Pair::parse(&files, cert.as_bytes(), key.as_bytes(), &rustls::crypto::ring::default_provider())
    }

    #[test]
    fn what_can_not_be_shown_is_said_with_its_file_and_without_the_key() {
        let (cert, key) = made(|_| ());
        let (other, _) = made(|_| ());
        let secret = key.lines().nth(1).unwrap();
        let no_end = key.replace("-----END", "----");
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let swapped = format!("{other}{cert}");
        let torn = cert.replace("MII", "M!!");
        let public = "-----BEGIN PRIVATE KEY-----\nMAAA\n-----END PRIVATE KEY-----\n";
        for (cert, key, reason, file) in [
            ("", &*key, "no_certificate", "tls.crt"),
            ("hello", &key, "no_certificate", "tls.crt"),
            ("\u{30}\u{2}DER", &key, "no_certificate", "DER"),
            (&key, &key, "no_certificate", "tls.crt"),
            (&torn, &key, "not_pem", "tls.crt"),
            (&cert, "", "no_private_key", "tls.key"),
            (&cert, &cert, "no_private_key", "tls.key"),
            (&cert, &no_end, "not_pem", "tls.key"),
            (&cert, &encrypted, "encrypted_private_key", "tls.key"),
            (&cert, public, "bad_private_key", "tls.key"),
            (&other, &key, "key_of_another_certificate", "tls.key"),
            (&swapped, &key, "key_of_another_certificate", "first"),
        ] {
            let error = parse(cert, key).err().unwrap();
            let text = error.to_string();
            assert_eq!(error.reason(), reason, "{text}");
            assert!(text.contains(file) && !text.contains(secret), "{text}");
        }
        assert!(parse(&cert, &key).is_ok());
        assert!(parse(&format!("{cert}{other}"), &key).is_ok(), "a chain");
    }

    #[test]
    fn a_certificate_s_dates_are_read_whichever_way_they_are_written() {
        for (from, to, standing) in [
            ((2000, 1, 1), (2001, 1, 1), Standing::Expired),
            ((2020, 1, 1), (2049, 12, 31), Standing::Good),
            // From 2050 on dates are written with four digits.
            ((2020, 1, 1), (2999, 12, 31), Standing::Good),
            ((2060, 1, 1), (2061, 1, 1), Standing::NotYet),
        ] {
            let (cert, key) = made(|params| {
                params.not_before = date_time_ymd(from.0, from.1, from.2);
                params.not_after = date_time_ymd(to.0, to.1, to.2);
            });
            let validity = parse(&cert, &key).unwrap().validity.unwrap();
            let expected = date_time_ymd(to.0, to.1, to.2).unix_timestamp();
            assert_eq!(validity.not_after as i64, expected);
            assert_eq!(validity.standing(1_790_000_000), standing, "{validity:?}");
        }
        assert_eq!(validity(b""), None);
        assert_eq!(validity(b"\x30\x80"), None);
    }

    #[test]
    fn a_reading_that_falls_on_the_swap_is_not_believed() {
        let read = |answers: &[Result<u8, ()>]| {
            let mut answers = answers.iter().copied();
            steady(|| answers.next().unwrap_or(Err(())))
        };
        assert_eq!(read(&[Ok(1), Ok(1)]), Ok(Some(1)));
        assert_eq!(read(&[Ok(1), Ok(2), Ok(2)]), Ok(Some(2)), "half of each, then the new ones");
        assert_eq!(read(&[Ok(1), Err(()), Ok(2), Ok(2)]), Ok(Some(2)), "gone for a moment");
        assert_eq!(read(&[Ok(1), Ok(2), Ok(3), Ok(4), Ok(5)]), Ok(None));
        assert_eq!(read(&[Err(()); 5]), Err(()));
    }
}
