//! One log record, with a field for every column that a staged row carries.

use std::borrow::Cow;

use uuid::Uuid;

use crate::columns::for_each_column;
use crate::time::{UnixMs, UnixNanos};

/// Labels and their values, in the order in which they were sent; a key may come twice.
pub type TextMap<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

macro_rules! field_type {
    (Uuid $l:lifetime) => { Uuid };
    (Nanos $l:lifetime) => { UnixNanos };
    (Ms $l:lifetime) => { UnixMs };
    (Severity $l:lifetime) => { Severity };
    (U8 $l:lifetime) => { u8 };
    (U16 $l:lifetime) => { u16 };
    (U32 $l:lifetime) => { u32 };
    (U64 $l:lifetime) => { u64 };
    (F64 $l:lifetime) => { f64 };
    (Bool $l:lifetime) => { bool };
    (Text $l:lifetime) => { Cow<$l, str> };
    (Label $l:lifetime) => { Cow<$l, str> };
    (TextList $l:lifetime) => { Vec<Cow<$l, str>> };
    (TextMap $l:lifetime) => { TextMap<$l> };
}

macro_rules! record {
    ($($name:ident: $kind:ident, $presence:ident, $codec:literal, $since:literal, $doc:literal;)*) => {
        /// One log record. An empty, zero or false field means "not given". Borrows from the request or
        /// the staged row it was read from.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Record<'a> {
            $(#[doc = $doc] pub $name: field_type!($kind 'a),)*
        }
    };
}
for_each_column!(record);

/// Severity, by the numbers of the table's Enum8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum Severity {
    #[default]
    Unspecified = 0,
    Trace = 1,
    Debug = 2,
    Info = 3,
    Warn = 4,
    Error = 5,
    Fatal = 6,
}

impl Severity {
    pub const ALL: [Self; 7] =
        [Self::Unspecified, Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal];

    /// The name in the table's Enum8.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    /// The number in the table's Enum8.
    #[must_use]
    pub fn number(self) -> i8 {
        self as i8
    }

    /// Reads exactly the names of [`Self::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Maps an OpenTelemetry severity number: 1 to 4 is trace, and so on up to 21 to 24, fatal.
    #[must_use]
    pub fn from_otel(number: u8) -> Self {
        match number {
            1..=4 => Self::Trace,
            5..=8 => Self::Debug,
            9..=12 => Self::Info,
            13..=16 => Self::Warn,
            17..=20 => Self::Error,
            21..=24 => Self::Fatal,
            _ => Self::Unspecified,
        }
    }

    /// Maps a level as programs write it: the names of syslog and of the common logging libraries in any
    /// case, or an OpenTelemetry severity number. None when it is neither.
    #[must_use]
    pub fn parse(level: &str) -> Option<Self> {
        // Longest accepted name; also keeps the copy below on the stack.
        const LONGEST: usize = 13;
        let bytes = level.trim().as_bytes();
        if bytes.len() > LONGEST {
            return None;
        }
        let mut lower = [0u8; LONGEST];
        for (to, from) in lower.iter_mut().zip(bytes) {
            *to = from.to_ascii_lowercase();
        }
        Some(match &lower[..bytes.len()] {
            b"info" | b"information" | b"informational" | b"notice" | b"log" => Self::Info,
            b"error" | b"err" | b"severe" => Self::Error,
            b"warn" | b"warning" => Self::Warn,
            b"debug" | b"verbose" | b"fine" => Self::Debug,
            b"trace" | b"finest" | b"finer" | b"silly" => Self::Trace,
            b"fatal" | b"critical" | b"crit" | b"alert" | b"emergency" | b"emerg" | b"panic" => Self::Fatal,
            b"unspecified" => Self::Unspecified,
            digits => {
                let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
                match Self::from_otel(number) {
                    Self::Unspecified => return None,
                    severity => severity,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_names_of_common_libraries_map_to_a_severity() {
        let cases = [
            ("INFO", Some(Severity::Info)),
            ("Warning", Some(Severity::Warn)),
            ("err", Some(Severity::Error)),
            (" crit ", Some(Severity::Fatal)),
            ("9", Some(Severity::Info)),
            ("24", Some(Severity::Fatal)),
            ("25", None),
            ("300", None),
            ("0", None),
            ("", None),
            ("audit", None),
            ("a level with a very long name", None),
        ];
        for (level, severity) in cases {
            assert_eq!(Severity::parse(level), severity, "{level:?}");
        }
        for severity in Severity::ALL {
            assert_eq!(Severity::parse(severity.name()), Some(severity));
            assert_eq!(Severity::from_name(severity.name()), Some(severity));
        }
    }
}
