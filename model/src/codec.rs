//! The bytes of a staged object, by the version in its key. Version 1 is newline-delimited JSON in gzip;
//! a packed object is several gzip members, one per stream, one after the other.

use std::cell::RefCell;

use libdeflater::{CompressionLvl, Compressor, Crc, Decompressor};

/// Level of gzip by default: staging is CPU bound, and level 1 already takes logs to a fifth.
pub const DEFAULT_LEVEL: i32 = 1;

/// How an object's bytes are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FormatVersion {
    /// Newline-delimited JSON, gzip.
    V1,
}

impl FormatVersion {
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::V1 => 1,
        }
    }

    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        (number == 1).then_some(Self::V1)
    }
}

/// Why an object can't be decoded, or rows can't be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("object is cut off or damaged after {good_bytes} decoded bytes")]
    Corrupt { good_bytes: usize },
    #[error("object expands to more than {limit} bytes; its key promises less")]
    TooLarge { limit: usize },
    #[error("compressor gave no result for {bytes} bytes")]
    Encoder { bytes: usize },
}

impl CodecError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => "corrupt_object",
            Self::TooLarge { .. } => "object_too_large",
            Self::Encoder { .. } => "encoder_failed",
        }
    }
}

thread_local! {
    // A compressor's tables are hundreds of kilobytes: kept per thread and not made per object.
    static COMPRESSOR: RefCell<Option<(i32, Compressor)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor>> = const { RefCell::new(None) };
}

/// Encodes rows as one gzip member. `level` is 1 to 12; what lies outside is taken as the nearest.
///
/// # Errors
/// When the compressor fails, which its own bound on the output rules out.
pub fn encode(version: FormatVersion, ndjson: &[u8], level: i32) -> Result<Vec<u8>, CodecError> {
    match version {
        FormatVersion::V1 => encode_gzip(ndjson, level.clamp(1, 12)),
    }
}

// A member's header carries the member's size in an extra field, as bgzip does: a packed object is split
// without inflating it, and libdeflate, which does not say how much input it used, can inflate each part.
// Any gzip reader skips the field.
const HEADER: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, b'S', b'P', 4, 0];
const HEADER_BYTES: usize = HEADER.len() + 4;
const TRAILER_BYTES: usize = 8;

fn encode_gzip(raw: &[u8], level: i32) -> Result<Vec<u8>, CodecError> {
    let failed = || CodecError::Encoder { bytes: raw.len() };
    COMPRESSOR.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|(l, _)| *l != level) {
            *kept = Some((level, Compressor::new(CompressionLvl::new(level).unwrap_or_default())));
        }
        let (_, compressor) = kept.as_mut().ok_or_else(failed)?;
        let mut out = vec![0; HEADER_BYTES + compressor.deflate_compress_bound(raw.len()) + TRAILER_BYTES];
        let len = compressor.deflate_compress(raw, &mut out[HEADER_BYTES..]).map_err(|_| failed())?;
        out.truncate(HEADER_BYTES + len);
        out.extend_from_slice(&crc(raw).to_le_bytes());
        // The field holds the size modulo 2^32 (RFC 1952).
        out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        let size = u32::try_from(out.len()).map_err(|_| failed())?;
        out[..HEADER.len()].copy_from_slice(&HEADER);
        out[HEADER.len()..HEADER_BYTES].copy_from_slice(&size.to_le_bytes());
        // The bound is about the size of the input; staged bodies wait in memory while S3 is away.
        out.shrink_to_fit();
        Ok(out)
    })
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Decodes all members of an object into its rows, at most `limit` bytes.
///
/// # Errors
/// When the object is cut off, damaged or expands beyond the limit.
pub fn decode(version: FormatVersion, object: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    match version {
        FormatVersion::V1 => decode_gzip(object, limit),
    }
}

fn decode_gzip(object: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let mut rest = object;
    while let Some((member, tail)) = split_member(rest) {
        decode_member(member, &mut out, limit)?;
        rest = tail;
        if rest.is_empty() {
            return Ok(out);
        }
    }
    // Not of our making, or damaged: the general reader finds out.
    decode_any(rest, &mut out, limit)?;
    Ok(out)
}

/// Splits off the first member, if it says its size.
fn split_member(object: &[u8]) -> Option<(&[u8], &[u8])> {
    let size = object.strip_prefix(&HEADER)?.first_chunk::<4>()?;
    let size = u32::from_le_bytes(*size) as usize;
    if size < HEADER_BYTES + TRAILER_BYTES {
        return None;
    }
    object.split_at_checked(size)
}

fn decode_member(member: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CodecError> {
    let filled = out.len();
    let corrupt = || CodecError::Corrupt { good_bytes: filled };
    let (_, trailer) = member.split_last_chunk::<TRAILER_BYTES>().ok_or_else(corrupt)?;
    let [c0, c1, c2, c3, s0, s1, s2, s3] = *trailer;
    let bytes = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
    if bytes > limit.saturating_sub(filled) {
        return Err(CodecError::TooLarge { limit });
    }
    out.resize(filled + bytes, 0);
    let written = DECOMPRESSOR.with_borrow_mut(|kept| {
        kept.get_or_insert_with(Decompressor::new).gzip_decompress(member, &mut out[filled..])
    });
    // libdeflate stops at the end of the stream: that this is the end of the member as well, and no
    // second one is hidden behind a damaged size, shows in the trailer.
    let whole = written == Ok(bytes) && crc(&out[filled..]) == u32::from_le_bytes([c0, c1, c2, c3]);
    if whole { Ok(()) } else { Err(corrupt()) }
}

fn decode_any(object: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CodecError> {
    use std::io::Read as _;
    let room = limit.saturating_sub(out.len()) as u64;
    let mut reader = flate2::bufread::MultiGzDecoder::new(object).take(room.saturating_add(1));
    if object.is_empty() || reader.read_to_end(out).is_err() {
        return Err(CodecError::Corrupt { good_bytes: out.len() });
    }
    if out.len() > limit { Err(CodecError::TooLarge { limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_one_after_the_other_are_one_object() {
        let mut object = encode(FormatVersion::V1, b"one\n", 1).unwrap();
        object.extend(encode(FormatVersion::V1, &b"two\n".repeat(100_000), 1).unwrap());
        object.extend(encode(FormatVersion::V1, b"three\n", 1).unwrap());
        let rows = decode(FormatVersion::V1, &object, 1 << 20).unwrap();
        assert_eq!(rows.len(), 4 + 400_000 + 6);
        assert!(rows.starts_with(b"one\ntwo\n") && rows.ends_with(b"three\n"));
    }

    #[test]
    fn an_object_cut_off_anywhere_is_an_error() {
        let object = encode(FormatVersion::V1, b"some rows\n", 1).unwrap();
        for len in 0..object.len() {
            assert!(decode(FormatVersion::V1, &object[..len], 1000).is_err(), "{len}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let object = encode(FormatVersion::V1, &vec![b' '; 10 << 20], 1).unwrap();
        assert_eq!(decode(FormatVersion::V1, &object, 1 << 20), Err(CodecError::TooLarge { limit: 1 << 20 }));
        assert_eq!(decode(FormatVersion::V1, &object, 10 << 20).unwrap().len(), 10 << 20);
    }

    #[test]
    fn gzip_of_any_other_writer_is_read_too() {
        use std::io::Write as _;
        let mut other = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        other.write_all(b"theirs\n").unwrap();
        let mut object = encode(FormatVersion::V1, b"ours\n", 1).unwrap();
        object.extend(other.finish().unwrap());
        object.extend(encode(FormatVersion::V1, b"ours again\n", 1).unwrap());
        assert_eq!(decode(FormatVersion::V1, &object, 100).unwrap(), b"ours\ntheirs\nours again\n");
        assert_eq!(decode(FormatVersion::V1, &object, 20), Err(CodecError::TooLarge { limit: 20 }));
    }

    #[test]
    fn any_other_reader_reads_our_gzip() {
        use std::io::Read as _;
        let mut object = encode(FormatVersion::V1, b"one\n", 1).unwrap();
        object.extend(encode(FormatVersion::V1, b"two\n", 1).unwrap());
        let mut text = String::new();
        flate2::bufread::MultiGzDecoder::new(object.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn the_limit_holds_over_all_members() {
        let member = encode(FormatVersion::V1, &[b' '; 600], 1).unwrap();
        let object = member.repeat(2);
        assert_eq!(decode(FormatVersion::V1, &object, 1199), Err(CodecError::TooLarge { limit: 1199 }));
        assert_eq!(decode(FormatVersion::V1, &object, 1200).unwrap().len(), 1200);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(raw: Vec<u8>, level in -1..14) {
            let object = encode(FormatVersion::V1, &raw, level).unwrap();
            prop_assert_eq!(decode(FormatVersion::V1, &object, raw.len()).unwrap(), raw);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let _ = decode(FormatVersion::V1, &bytes, 10_000);
        }

        #[test]
        fn a_flipped_bit_is_noticed_or_harmless(raw in prop::collection::vec(any::<u8>(), 1..500), at: prop::sample::Index, bit in 0u8..8) {
            let mut object = encode(FormatVersion::V1, &raw, 1).unwrap();
            let at = at.index(object.len());
            object[at] ^= 1 << bit;
            if let Ok(rows) = decode(FormatVersion::V1, &object, 10_000) {
                prop_assert_eq!(rows, raw);
            }
        }
    }
}
