//! Durations and sizes as people write them: `500ms`, `30s`, `30d`, `8Mi`, `128M`.
//!
//! Both keep the text as it came, so that an object holds what its user wrote, and a mistake is reported with
//! its field path by `validate` rather than making the object unreadable. What a text means is the settings' matter.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use spillway_model::settings::{ByteSize, Span};

/// For enums whose values are explained by the field that has one: an optional enum's own description would take
/// the place of its field's.
pub(crate) fn leave_description_to_the_field(schema: &mut Schema) {
    schema.remove("description");
}

/// A length of time: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpanText(String);

impl SpanText {
    /// `None` when the text is no length of time.
    pub fn read(&self) -> Option<Span> {
        self.0.parse().ok()
    }
}

impl fmt::Display for SpanText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for SpanText {
    fn schema_name() -> Cow<'static, str> {
        "SpanText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 16, "pattern": "^[0-9]{1,12}(ms|s|m|h|d)$"})
    }
}

/// A number of bytes: a whole number, or one with `k`, `M`, `G` (powers of 1000) or `Ki`, `Mi`, `Gi` (of 1024).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SizeText(String);

impl SizeText {
    /// `None` when the text is no size.
    pub fn read(&self) -> Option<ByteSize> {
        self.0.parse().ok()
    }
}

impl fmt::Display for SizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SizeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntOrText;
        impl de::Visitor<'_> for IntOrText {
            type Value = SizeText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 8388608 or \"8Mi\"")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<SizeText, E> {
                Ok(SizeText(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<SizeText, E> {
                Ok(SizeText(value.to_string()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<SizeText, E> {
                Ok(SizeText(value.to_owned()))
            }
        }
        deserializer.deserialize_any(IntOrText)
    }
}

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "SizeText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": "^[0-9]{1,16}(k|M|G|Ki|Mi|Gi)?$",
            "minimum": 0,
            "maxLength": 20
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_numbers_and_as_text() {
        for (json, bytes) in [
            ("8388608", Some(8_388_608)),
            ("\"8Mi\"", Some(8 << 20)),
            ("\"8M\"", Some(8_000_000)),
            ("\"2Gi\"", Some(2 << 30)),
            ("-1", None),
            ("\"much\"", None),
        ] {
            let size: SizeText = serde_json::from_str(json).unwrap();
            assert_eq!(size.read().map(|size| size.0), bytes, "{json}");
        }
    }
}
