//! Which ClickHouse server this is and what it can do.

use std::fmt;
use std::str::FromStr;

/// A server's version as `SELECT version()` gives it, e.g. `26.9.2.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Year of the release line.
    pub major: u32,
    /// Release of the year.
    pub minor: u32,
    /// Fixes on top.
    pub patch: u32,
}

/// The oldest server that Spillway accepts.
///
/// 24.8 is the long-term release of the line in which a deduplicated insert's views are deduplicated by
/// the token of the insert (24.7 pushes a deduplicated block to the views again, ClickHouse#76110);
/// it also has everything else the statements use (`SYSTEM SYNC REPLICA ... LIGHTWEIGHT`,
/// `CREATE OR REPLACE`, `quantilesBFloat16`).
pub const OLDEST: Version = Version::new(24, 8, 0);

/// The first server whose text index is generally available.
pub const TEXT_INDEX: Version = Version::new(26, 2, 0);

/// The first server whose `REPLACE PARTITION` on an unreplicated table survives a kill.
///
/// On 24.8.4, 26.1.2, 26.3 and 26.5 the replaced parts were active again beside the new one after a SIGKILL
/// right behind the statement (every figure counted twice); 26.7.3 and 26.9.2 leave an empty part that
/// covers them.
pub const SAFE_REPLACE_PARTITION: Version = Version::new(26, 7, 0);

/// What `SELECT version()` returned is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a ClickHouse version (expected e.g. 26.3.1.5); check that the URL is a ClickHouse server"
)]
pub struct NotAVersion(String);

impl Version {
    /// A version from its parts.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Whether a text index can be created without experimental settings.
    #[must_use]
    pub fn has_text_index(self) -> bool {
        self >= TEXT_INDEX
    }

    /// Whether Spillway works on this server.
    #[must_use]
    pub fn is_supported(self) -> bool {
        self >= OLDEST
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let mut parts = text.split('.').map(|part| {
            // Builds of vendors look like 25.3.6.10034.altinitystable.
            part.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<u32>().ok())
        });
        match (parts.next().flatten(), parts.next().flatten(), parts.next()) {
            (Some(major), Some(minor), patch) => {
                Ok(Self { major, minor, patch: patch.flatten().unwrap_or(0) })
            }
            _ => Err(NotAVersion(text.to_owned())),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_releases_and_vendor_builds_are_read() {
        for (text, expected) in [
            ("26.9.2.1", Version::new(26, 9, 2)),
            ("24.8.14.10501.altinitystable\n", Version::new(24, 8, 14)),
            ("25.3-lts", Version::new(25, 3, 0)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "PostgreSQL 17", "26"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_text_index_starts_with_26_2() {
        assert!(!Version::new(26, 1, 9).has_text_index());
        assert!(Version::new(26, 2, 0).has_text_index());
        assert!(!Version::new(24, 7, 9).is_supported());
        assert!(Version::new(24, 8, 0).is_supported());
    }
}
