//! Keys of staged objects. A listing returns no metadata, so a key says all that planning needs: whose
//! records, when, from which process, its consecutive number, how many rows and how many raw bytes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::FormatVersion;
use crate::name::{NameError, ProjectId, ServiceName};
use crate::time::UnixMs;

/// Control objects; a project can't have this name.
pub const SPILLWAY_DIR: &str = "_spillway/";
/// Dead letters.
pub const DEAD_LETTER_DIR: &str = "_dead-letter/";
/// Objects that hold rows of several streams, one gzip member each.
pub const PACKED_DIR: &str = "_packed/";

const SUFFIX: &str = ".json.gz";
/// Kubernetes names a pod with at most 253 characters, a label with 63; with both names the key stays
/// below S3's 1,024 bytes.
const MAX_INCARNATION_BYTES: usize = 128;

/// One life of one process: the pod's name and something random, so that no two processes ever write the
/// same key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(std::sync::Arc<str>);

/// Where an object lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Home {
    /// Rows of one stream.
    Stream { project: ProjectId, service: ServiceName },
    /// Rows of several streams.
    Packed,
}

/// The key of a staged object, relative to the bucket's prefix:
/// `<project>/<service>/<YYYYMMDDTHHMMSSmmmZ>-<incarnation>-<number>-v1-<rows>-<raw bytes>.json.gz`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub home: Home,
    /// When its key was made, by the clock of the process that wrote it.
    pub time: UnixMs,
    pub incarnation: Incarnation,
    /// Counts the objects of this incarnation from 1 without gaps: an audit sees one that vanished.
    pub number: u64,
    pub version: FormatVersion,
    pub rows: u64,
    /// Bytes before compression.
    pub raw_bytes: u64,
}

/// Why a key is not a staged object's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("key {key:?} is not <project>/<service>/<file> or _packed/<file>")]
    Place { key: String },
    #[error("key {key:?}: its {part} {error}")]
    Name { key: String, part: &'static str, error: NameError },
    #[error(
        "key {key:?}: its file name is not <time>-<incarnation>-<number>-v<version>-<rows>-<bytes>.json.gz"
    )]
    File { key: String },
    #[error(
        "key {key:?} has the format version {version}, which this version does not know; load it with a newer one"
    )]
    Version { key: String, version: u16 },
}

impl KeyError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Place { .. } => "foreign_key",
            Self::Name { .. } => "bad_name_in_key",
            Self::File { .. } => "bad_file_name",
            Self::Version { .. } => "unknown_format_version",
        }
    }
}

impl Incarnation {
    /// Makes one from a pod's or host's name and something random in hexadecimal. Characters that a key
    /// does not take become hyphens.
    #[must_use]
    pub fn new(host: &str, random: u64) -> Self {
        let mut text = String::with_capacity(host.len() + 17);
        for c in host.chars().take(MAX_INCARNATION_BYTES - 17) {
            let c = c.to_ascii_lowercase();
            text.push(if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' });
        }
        if text.is_empty() {
            text.push('x');
        }
        text.push('-');
        text.push_str(&format!("{random:016x}"));
        Self(text.into())
    }

    /// None unless it is 1 to 128 of `a-z`, `0-9` and `-`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let good = !text.is_empty()
            && text.len() <= MAX_INCARNATION_BYTES
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        good.then(|| Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ObjectKey {
    /// Reads a key without the bucket's prefix. Only what [`fmt::Display`] writes is a key, so one object
    /// has one text.
    ///
    /// # Errors
    /// When it is not a staged object's key.
    pub fn parse(key: &str) -> Result<Self, KeyError> {
        let place = || KeyError::Place { key: key.to_owned() };
        let (dir, file) = key.rsplit_once('/').ok_or_else(place)?;
        let home = if dir == PACKED_DIR.trim_end_matches('/') {
            Home::Packed
        } else {
            let (project, service) = dir.split_once('/').ok_or_else(place)?;
            let bad = |part| move |error| KeyError::Name { key: key.to_owned(), part, error };
            Home::Stream {
                project: ProjectId::parse(project).map_err(bad("project"))?,
                service: ServiceName::parse(service).map_err(bad("service"))?,
            }
        };
        let parsed = FileName::parse(file).ok_or_else(|| KeyError::File { key: key.to_owned() })?;
        let version = FormatVersion::from_number(parsed.version)
            .ok_or_else(|| KeyError::Version { key: key.to_owned(), version: parsed.version })?;
        Ok(Self {
            home,
            time: parsed.time,
            incarnation: parsed.incarnation,
            number: parsed.number,
            version,
            rows: parsed.rows,
            raw_bytes: parsed.raw_bytes,
        })
    }
}

struct FileName {
    time: UnixMs,
    incarnation: Incarnation,
    number: u64,
    version: u16,
    rows: u64,
    raw_bytes: u64,
}

impl FileName {
    fn parse(file: &str) -> Option<Self> {
        let name = file.strip_suffix(SUFFIX)?;
        // From the right, because an incarnation has hyphens of its own.
        let (name, raw_bytes) = name.rsplit_once('-')?;
        let (name, rows) = name.rsplit_once('-')?;
        let (name, version) = name.rsplit_once('-')?;
        let (name, number) = name.rsplit_once('-')?;
        let (time, incarnation) = name.split_once('-')?;
        if number.len() < 10 || (number.len() > 10 && number.starts_with('0')) {
            return None;
        }
        Some(Self {
            time: UnixMs::parse_compact(time)?,
            incarnation: Incarnation::parse(incarnation)?,
            number: plain(number.trim_start_matches('0'))
                .or_else(|| (number == "0000000000").then_some(0))?,
            version: plain(version.strip_prefix('v')?)?.try_into().ok()?,
            rows: plain(rows)?,
            raw_bytes: plain(raw_bytes)?,
        })
    }
}

/// A number in its only text: digits without leading zeros.
fn plain(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.home {
            Home::Stream { project, service } => write!(f, "{project}/{service}/")?,
            Home::Packed => f.write_str(PACKED_DIR)?,
        }
        let mut time = String::with_capacity(19);
        self.time.write_compact(&mut time);
        write!(
            f,
            "{time}-{}-{:010}-v{}-{}-{}{SUFFIX}",
            self.incarnation,
            self.number,
            self.version.number(),
            self.rows,
            self.raw_bytes
        )
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn home() -> impl Strategy<Value = Home> {
        let name = || "[^_/\\\\\\pC ][^/\\\\\\pC ]{0,30}";
        prop_oneof![
            1 => Just(Home::Packed),
            4 => (name(), name()).prop_filter_map("names", |(p, s)| Some(Home::Stream {
                project: ProjectId::parse(&p).ok()?,
                service: ServiceName::parse(&s).ok()?,
            })),
        ]
    }

    prop_compose! {
        fn key()(
            home in home(),
            ms in 0i64..253_402_300_800_000,
            host in ".{0,40}",
            random: u64,
            number: u64,
            rows: u64,
            raw_bytes: u64,
        ) -> ObjectKey {
            ObjectKey {
                home,
                time: UnixMs(ms),
                incarnation: Incarnation::new(&host, random),
                number,
                version: FormatVersion::V1,
                rows,
                raw_bytes,
            }
        }
    }

    proptest! {
        #[test]
        fn a_key_is_read_back_from_its_text(key in key()) {
            let text = key.to_string();
            prop_assert!(text.len() <= 1024);
            prop_assert_eq!(ObjectKey::parse(&text), Ok(key));
        }

        #[test]
        fn the_parser_never_panics(text: String) {
            let _ = ObjectKey::parse(&text);
        }

        #[test]
        fn one_key_has_one_text(key in key(), at: prop::sample::Index, byte in 0x20u8..0x7f) {
            let mut text = key.to_string().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(text) = String::from_utf8(text)
                && let Ok(other) = ObjectKey::parse(&text)
            {
                prop_assert_eq!(other.to_string(), text);
            }
        }
    }

    #[test]
    fn a_key_looks_like_this() {
        let key = ObjectKey {
            home: Home::Stream {
                project: ProjectId::parse("shop").unwrap(),
                service: ServiceName::parse("api gateway").unwrap(),
            },
            time: UnixMs(1_769_903_999_042),
            incarnation: Incarnation::new("ingest-7d.9", 0xabc),
            number: 7,
            version: FormatVersion::V1,
            rows: 100,
            raw_bytes: 54_300,
        };
        let text = "shop/api gateway/20260131T235959042Z-ingest-7d-9-0000000000000abc-0000000007-v1-100-54300.json.gz";
        assert_eq!(key.to_string(), text);
        let packed = ObjectKey { home: Home::Packed, ..key };
        assert_eq!(packed.to_string(), text.replace("shop/api gateway/", "_packed/"));
    }

    #[test]
    fn what_is_no_staged_object_is_told_apart() {
        let file = "20260131T235959042Z-a-0000000007-v1-100-54300.json.gz";
        let cases = [
            (file.to_owned(), "foreign_key"),
            (format!("shop/{file}"), "foreign_key"),
            (format!("_spillway/x/{file}"), "bad_name_in_key"),
            (format!("shop/a/b/{file}"), "bad_name_in_key"),
            (format!("shop/../{file}"), "bad_name_in_key"),
            (format!("shop//{file}"), "bad_name_in_key"),
            ("shop/api/notes.txt".to_owned(), "bad_file_name"),
            (format!("shop/api/{}", file.replace("0000000007", "7")), "bad_file_name"),
            (format!("shop/api/{}", file.replace("-100-", "-0100-")), "bad_file_name"),
            (format!("shop/api/{}", file.replace("20260131", "20260231")), "bad_file_name"),
            (format!("shop/api/{}", file.replace("v1", "v2")), "unknown_format_version"),
        ];
        for (key, reason) in cases {
            assert_eq!(ObjectKey::parse(&key).unwrap_err().reason(), reason, "{key}");
        }
    }
}
