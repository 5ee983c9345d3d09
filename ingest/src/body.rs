//! Request bodies: what encoding they are in and what they expand to.

use std::io::Read as _;

use bytes::Bytes;

/// A body's Content-Encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// The largest window that a zstd frame may ask for, as a power of two: 8 MiB, what the format's
/// recommendation lets any decoder expect (RFC 8878, 3.1.1.1.2). More is memory at a stranger's word.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Why a body can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("Content-Encoding {encoding:?} is not supported; send gzip, zstd or no encoding")]
    UnknownEncoding { encoding: String },
    #[error("the body expands to more than {limit} bytes; send it in smaller requests")]
    ExpandsTooFar { limit: usize },
    #[error("the body is not valid {encoding} after {good_bytes} decoded bytes: {message}")]
    Corrupt { encoding: &'static str, good_bytes: usize, message: String },
}

impl Encoding {
    /// # Errors
    /// When it is none that is supported, or a chain of several.
    pub fn parse(header: Option<&str>) -> Result<Self, BodyError> {
        let text = header.unwrap_or_default().trim();
        match text.to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(BodyError::UnknownEncoding { encoding: text.chars().take(64).collect() }),
        }
    }
}

/// Decodes a body to at most `limit` bytes.
///
/// # Errors
/// When it is damaged, cut off or expands too far.
pub fn decode(encoding: Encoding, body: Bytes, limit: usize) -> Result<Bytes, BodyError> {
    let (name, mut reader): (_, Box<dyn std::io::Read + '_>) = match encoding {
        Encoding::Identity if body.len() > limit => return Err(BodyError::ExpandsTooFar { limit }),
        Encoding::Identity => return Ok(body),
        Encoding::Gzip => ("gzip", Box::new(flate2::bufread::MultiGzDecoder::new(&body[..]))),
        Encoding::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&body[..]).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Ok(decoder)
            });
            match decoder {
                Ok(decoder) => ("zstd", Box::new(decoder)),
                Err(e) => {
                    return Err(BodyError::Corrupt {
                        encoding: "zstd",
                        good_bytes: 0,
                        message: e.to_string(),
                    });
                }
            }
        }
    };
    let mut out = Vec::with_capacity(body.len().saturating_mul(4).min(limit));
    match reader.by_ref().take(limit as u64 + 1).read_to_end(&mut out) {
        Ok(_) if out.len() > limit => Err(BodyError::ExpandsTooFar { limit }),
        Ok(_) => Ok(out.into()),
        Err(e) => Err(BodyError::Corrupt { encoding: name, good_bytes: out.len(), message: e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gzip(raw: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(raw).unwrap();
        encoder.finish().unwrap().into()
    }

    fn zstd(raw: &[u8]) -> Bytes {
        zstd::encode_all(raw, 1).unwrap().into()
    }

    #[test]
    fn a_body_comes_back_as_it_was_packed() {
        let raw = b"some records ".repeat(1000);
        for (encoding, body) in [
            (Encoding::Gzip, gzip(&raw)),
            (Encoding::Zstd, zstd(&raw)),
            (Encoding::Identity, raw.clone().into()),
        ] {
            assert_eq!(decode(encoding, body, raw.len()).unwrap(), raw);
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let raw = vec![0; 50 << 20];
        for (encoding, body) in [(Encoding::Gzip, gzip(&raw)), (Encoding::Zstd, zstd(&raw))] {
            assert!(body.len() < raw.len() / 20);
            assert_eq!(decode(encoding, body, 1 << 20), Err(BodyError::ExpandsTooFar { limit: 1 << 20 }));
        }
    }

    #[test]
    fn a_damaged_body_is_refused() {
        let raw = b"some records ".repeat(1000);
        for (encoding, body) in [(Encoding::Gzip, gzip(&raw)), (Encoding::Zstd, zstd(&raw))] {
            for bad in [body.slice(..body.len() / 2), Bytes::from_static(b"plain"), body.slice(1..)] {
                assert!(matches!(decode(encoding, bad, 1 << 20), Err(BodyError::Corrupt { .. })));
            }
        }
    }

    #[test]
    fn an_unknown_encoding_is_named() {
        for encoding in ["br", "gzip, zstd", "deflate"] {
            let error = Encoding::parse(Some(encoding)).unwrap_err();
            assert!(error.to_string().contains(encoding), "{error}");
        }
        assert_eq!(Encoding::parse(None), Ok(Encoding::Identity));
        assert_eq!(Encoding::parse(Some(" GZIP ")), Ok(Encoding::Gzip));
    }
}
