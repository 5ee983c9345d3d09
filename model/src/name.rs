//! Names that become part of an object's key and of the table's sort key: parsed once, at the border.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name in bytes. Two names, the longest file name and a prefix fit into S3's 1,024 bytes of key,
/// and a name fits into a file name of a local directory.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a text can't be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty")]
    Empty,
    #[error("has {bytes} bytes, the most is {MAX_NAME_BYTES}")]
    TooLong { bytes: usize },
    #[error("has a control character at byte {at}")]
    Control { at: usize },
    #[error("has a '/' or '\\' at byte {at}: it would leave its place in the bucket")]
    Separator { at: usize },
    #[error("is '.' or '..': it would leave its place in the bucket")]
    Dots,
    #[error("begins or ends with a space")]
    Space,
    #[error("begins with '_': those projects are the system's own")]
    Reserved,
}

impl NameError {
    /// A short label for metrics and answers.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong { .. } => "too_long",
            Self::Control { .. } => "control_character",
            Self::Separator { .. } => "path_separator",
            Self::Dots => "path_dots",
            Self::Space => "outer_space",
            Self::Reserved => "reserved",
        }
    }
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong { bytes: text.len() });
    }
    if text == "." || text == ".." {
        return Err(NameError::Dots);
    }
    for (at, c) in text.char_indices() {
        if c.is_control() {
            return Err(NameError::Control { at });
        }
        if c == '/' || c == '\\' {
            return Err(NameError::Separator { at });
        }
    }
    if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        return Err(NameError::Space);
    }
    Ok(())
}

fn check_project(text: &str) -> Result<(), NameError> {
    check(text)?;
    if text.starts_with('_') { Err(NameError::Reserved) } else { Ok(()) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// When the text can't be such a name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The check of [`Self::parse`] without the allocation.
            ///
            /// # Errors
            /// When the text can't be such a name.
            pub fn check(text: &str) -> Result<(), NameError> {
                $check(text)
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        // Maps keyed by a name are asked with the text of a request, without making a name first.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text)
                    .map_err(|e| serde::de::Error::custom(format_args!("name {text:?} {e}")))
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES})
            }
            fn inline_schema() -> bool {
                true
            }
        }
    };
}

name!(
    /// A project: the first part of an object's key and of the table's sort key. Belongs to one tenant.
    ProjectId,
    check_project
);
name!(
    /// A service of a project. One project and one service are one stream.
    ServiceName,
    check
);
name!(
    /// A tenant: who holds API keys, limits and a retention.
    TenantName,
    check
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_leave_its_place_in_the_bucket_is_refused() {
        let cases: &[(&str, NameError)] = &[
            ("", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            ("a/b", NameError::Separator { at: 1 }),
            ("../x", NameError::Separator { at: 2 }),
            ("a\\b", NameError::Separator { at: 1 }),
            ("a\nb", NameError::Control { at: 1 }),
            ("a\0", NameError::Control { at: 1 }),
            ("a\u{85}", NameError::Control { at: 1 }),
            (" a", NameError::Space),
            ("a ", NameError::Space),
        ];
        for (text, error) in cases {
            assert_eq!(ServiceName::parse(text), Err(*error), "{text:?}");
            assert_eq!(ProjectId::parse(text), Err(*error), "{text:?}");
        }
        assert_eq!(ServiceName::parse(&"x".repeat(1000)), Err(NameError::TooLong { bytes: 1000 }));
    }

    #[test]
    fn ordinary_names_are_names() {
        for text in ["a", "...", "api-gateway", "日本", "a b", "v1.2", "A:B@c", &"x".repeat(128)] {
            assert_eq!(ProjectId::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn only_a_project_may_not_begin_with_an_underscore() {
        assert_eq!(ProjectId::parse("_packed"), Err(NameError::Reserved));
        assert!(ServiceName::parse("_packed").is_ok());
    }
}
