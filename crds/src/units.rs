//! Durations and sizes as people write them: `500ms`, `30s`, `30d`, `8Mi`, `128M`.
//!
//! Both keep the text as it came, so that an object holds what its user wrote and a mistake is reported with
//! its field path by `validate` rather than as an unreadable object.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A length of time: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(String);

impl Span {
    /// The text, unchecked until [`Span::to_duration`].
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// `None` when the text is no duration.
    pub fn to_duration(&self) -> Option<Duration> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = self.0.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(millis).map(Duration::from_millis)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 16, "pattern": "^[0-9]+(ms|s|m|h|d)$"})
    }
}

/// A number of bytes: a whole number, or one with `k`, `M`, `G` (powers of 1000) or `Ki`, `Mi`, `Gi` (of 1024).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Size(String);

impl Size {
    /// The text, unchecked until [`Size::to_bytes`].
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// `None` when the text is no size.
    pub fn to_bytes(&self) -> Option<u64> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = self.0.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let factor: u64 = match unit {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(factor)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntOrText;
        impl de::Visitor<'_> for IntOrText {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 8388608 or \"8Mi\"")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Size, E> {
                Ok(Size(value.to_string()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Size, E> {
                Ok(Size(value.to_owned()))
            }
        }
        deserializer.deserialize_any(IntOrText)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": "^[0-9]+(k|M|G|Ki|Mi|Gi)?$",
            "maxLength": 20
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit_and_nothing_else_is() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("30d", Some(2_592_000_000)),
            ("30", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1 s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(Span::new(text).to_duration(), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_numbers_and_as_text() {
        for (json, bytes) in [
            ("8388608", Some(8_388_608)),
            ("\"8Mi\"", Some(8 << 20)),
            ("\"8M\"", Some(8_000_000)),
            ("\"2Gi\"", Some(2 << 30)),
            ("\"64k\"", Some(64_000)),
            ("\"64Ki\"", Some(65_536)),
            ("\"8MB\"", None),
            ("-1", None),
        ] {
            let size: Size = serde_json::from_str(json).unwrap();
            assert_eq!(size.to_bytes(), bytes, "{json}");
        }
    }
}
