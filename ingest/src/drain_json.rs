//! The AstraLog request, `{"logs": [{project_id, timestamp, level, service, message, metadata}]}`, and the
//! same records as NDJSON, read straight from the bytes: strings without escapes are not copied.
//!
//! What is wrong with one record is that record's fault; only what hides where records begin and end
//! (broken JSON in the one-object form) is the request's.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use sonic_rs::LazyValue;
use spillway_model::{Record, Severity, UnixNanos};

use crate::nesting::{self, MAX_DEPTH};
use crate::refusal::Refusal;

/// How records stand in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object with the array `logs`.
    Logs,
    /// One record per line.
    Lines,
}

/// Why a body as a whole can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the body is empty; send {{\"logs\":[...]}}, or records as application/x-ndjson")]
    Empty,
    #[error("the body is not UTF-8 at byte {byte}")]
    NotUtf8 { byte: usize },
    #[error("the body is not valid JSON at line {line}, column {column} (byte {byte}): {message}")]
    Malformed { line: usize, column: usize, byte: usize, message: String },
    #[error(
        "the body has no array \"logs\"; send {{\"logs\":[...]}}, or one record per line with the \
         Content-Type application/x-ndjson"
    )]
    NoLogs,
    #[error("the request has more than {limit} records; send fewer at once")]
    TooManyRecords { limit: usize },
}

impl ParseError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty_body",
            Self::NotUtf8 { .. } => "not_utf8",
            Self::Malformed { .. } => "malformed_json",
            Self::NoLogs => "no_logs",
            Self::TooManyRecords { .. } => "too_many_records",
        }
    }
}

impl Format {
    /// By the request's Content-Type: lines when it says so, else one object.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> Self {
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
        match essence.trim().to_ascii_lowercase().as_str() {
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json-lines" => Self::Lines,
            _ => Self::Logs,
        }
    }
}

/// Calls `each` with every record and, if it has one, its fault; of a faulty record only the project is
/// filled in, if there is one. The record is the callee's to change until it returns; its id, receipt,
/// retention and request are left for admission.
///
/// # Errors
/// When the body as a whole can't be read; records already seen count for nothing then.
pub fn parse<'a>(
    body: &'a [u8],
    format: Format,
    max_records: usize,
    each: &mut dyn FnMut(&mut Record<'a>, Option<Refusal>),
) -> Result<(), ParseError> {
    // Checked before parsing, not after: the parser hands out strings as it goes.
    let text = std::str::from_utf8(body).map_err(|e| ParseError::NotUtf8 { byte: e.valid_up_to() })?;
    if text.trim().is_empty() {
        return Err(ParseError::Empty);
    }
    let mut reader =
        Reader { text, raw: Raw::default(), record: Record::default(), each, seen: 0, max_records };
    match format {
        Format::Logs => parse_logs(text, &mut reader),
        Format::Lines => parse_lines(text, &mut reader),
    }
}

fn parse_logs<'a>(text: &'a str, reader: &mut Reader<'a, '_>) -> Result<(), ParseError> {
    let mut json = sonic_rs::Deserializer::from_str(text);
    let mut logs_seen = 0;
    // Any and not map, here and below: a value of another type is the visitor's to refuse then. The parser
    // would skip it first, see `nesting`.
    let result =
        json.deserialize_any(LogsVisitor { reader, logs_seen: &mut logs_seen }).and_then(|()| json.end());
    if reader.seen > reader.max_records {
        return Err(ParseError::TooManyRecords { limit: reader.max_records });
    }
    match result {
        Ok(()) if logs_seen == 0 => Err(ParseError::NoLogs),
        Ok(()) => Ok(()),
        Err(e) => Err(ParseError::Malformed {
            line: e.line(),
            column: e.column(),
            byte: e.offset(),
            message: first_line(&e),
        }),
    }
}

fn parse_lines<'a>(text: &'a str, reader: &mut Reader<'a, '_>) -> Result<(), ParseError> {
    for (number, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let mut json = sonic_rs::Deserializer::from_str(line);
        let result =
            json.deserialize_any(RecordVisitor { raw: reader.raw.reset(line) }).and_then(|()| json.end());
        match result {
            Ok(()) => reader.finish(),
            Err(e) => {
                reader.seen += 1;
                let message = first_line(&e);
                reader.record.project_id = Cow::Borrowed("");
                let fault = Refusal::Malformed { line: number + 1, column: e.column(), message };
                (reader.each)(&mut reader.record, Some(fault));
            }
        }
        if reader.seen > reader.max_records {
            return Err(ParseError::TooManyRecords { limit: reader.max_records });
        }
    }
    Ok(())
}

/// The parser's message without its picture of the text, which may hold what is nobody's business in a log.
fn first_line(error: &sonic_rs::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.split(" at line ").next().unwrap_or(line).to_owned()
}

struct Reader<'a, 'f> {
    text: &'a str,
    raw: Raw<'a>,
    record: Record<'a>,
    each: &'f mut dyn FnMut(&mut Record<'a>, Option<Refusal>),
    seen: usize,
    max_records: usize,
}

impl Reader<'_, '_> {
    fn finish(&mut self) {
        self.seen += 1;
        let Self { raw, record, each, .. } = self;
        let fault = raw.fill(record).err();
        each(record, fault);
    }
}

/// A record's fields as they were sent.
#[derive(Default)]
struct Raw<'a> {
    /// The text that the record is part of.
    text: &'a str,
    /// The text was looked at as a whole and is not nested too deep.
    is_shallow: bool,
    not_an_object: bool,
    metadata_not_an_object: bool,
    bad_metadata_string: bool,
    project_id: Scalar<'a>,
    timestamp: Scalar<'a>,
    level: Scalar<'a>,
    service: Scalar<'a>,
    message: Scalar<'a>,
    trace_id: Cow<'a, str>,
    span_id: Cow<'a, str>,
    session_id: Cow<'a, str>,
    user_id: Cow<'a, str>,
    attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Raw<'a> {
    fn reset(&mut self, text: &'a str) -> &mut Self {
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.clear();
        let is_shallow = self.is_shallow && std::ptr::eq(self.text, text);
        *self = Self { text, is_shallow, attributes, ..Self::default() };
        self
    }

    /// Before the parser skips the value of this key: whether that can be done without running out of stack.
    fn check_depth<E: serde::de::Error>(&mut self, key: &str) -> Result<(), E> {
        let shallow = self.is_shallow
            || match nesting::value_after(self.text, key) {
                Some(value) => !matches!(value.first(), Some(b'{' | b'[')) || nesting::is_shallow(value),
                None => {
                    self.is_shallow = nesting::is_shallow(self.text.as_bytes());
                    self.is_shallow
                }
            };
        if shallow { Ok(()) } else { Err(E::custom(format_args!("nested more than {MAX_DEPTH} deep"))) }
    }

    fn fill(&mut self, record: &mut Record<'a>) -> Result<(), Refusal> {
        record.project_id = Cow::Borrowed("");
        if self.not_an_object {
            return Err(Refusal::WrongType { field: "", expected: "an object" });
        }
        // The project first: whether a record is a stranger's must not depend on its other faults.
        record.project_id = self.project_id.required("project_id")?;
        record.service = self.service.required("service")?;
        let timestamp = self.timestamp.required("timestamp")?;
        record.severity_text = self.level.required("level")?;
        record.message = self.message.required("message")?;
        if self.metadata_not_an_object {
            return Err(Refusal::WrongType { field: "metadata", expected: "an object" });
        }
        if self.bad_metadata_string {
            return Err(Refusal::WrongType { field: "metadata", expected: "made of valid JSON strings" });
        }
        record.timestamp = UnixNanos::parse(&timestamp).map_err(|error| Refusal::BadTime { error })?;
        record.severity = Severity::parse(&record.severity_text).unwrap_or_default();
        record.trace_id = std::mem::take(&mut self.trace_id);
        record.span_id = std::mem::take(&mut self.span_id);
        record.session_id = std::mem::take(&mut self.session_id);
        record.user_id = std::mem::take(&mut self.user_id);
        // Swapped, not copied: the two vectors take turns.
        std::mem::swap(&mut record.attributes, &mut self.attributes);
        Ok(())
    }

    /// A value outside the fields that AstraLog knows: promoted to its column or kept as an attribute.
    fn extra(&mut self, key: Cow<'a, str>, value: &LazyValue<'a>) {
        let raw = value.as_raw_cow();
        let (scalar, text) = match raw.as_bytes().first() {
            Some(b'"') => match unquote(raw) {
                Some(text) => (true, text),
                None => {
                    self.bad_metadata_string = true;
                    return;
                }
            },
            // Null says that there is no value.
            Some(b'n') | None => return,
            Some(b'{' | b'[') => (false, raw),
            Some(_) => (true, raw),
        };
        let column = match &*key {
            "trace_id" => &mut self.trace_id,
            "span_id" => &mut self.span_id,
            "session_id" => &mut self.session_id,
            "user_id" => &mut self.user_id,
            _ => return self.attributes.push((key, text)),
        };
        if scalar && column.is_empty() {
            *column = text;
        } else {
            self.attributes.push((key, text));
        }
    }
}

/// The text of a JSON string; None when an escape in it is wrong.
fn unquote(raw: Cow<'_, str>) -> Option<Cow<'_, str>> {
    if raw.contains('\\') {
        return sonic_rs::from_str::<String>(&raw).ok().map(Cow::Owned);
    }
    match raw {
        Cow::Borrowed(raw) => raw.get(1..raw.len() - 1).map(Cow::Borrowed),
        Cow::Owned(raw) => raw.get(1..raw.len() - 1).map(|text| Cow::Owned(text.to_owned())),
    }
}

/// The value of a field that must be a string.
#[derive(Debug, Default)]
enum Scalar<'a> {
    #[default]
    Missing,
    Text(Cow<'a, str>),
    Other,
}

impl<'a> Scalar<'a> {
    fn required(&mut self, field: &'static str) -> Result<Cow<'a, str>, Refusal> {
        match std::mem::take(self) {
            Self::Missing => Err(Refusal::Missing { field }),
            Self::Other => Err(Refusal::WrongType { field, expected: "a string" }),
            Self::Text(text) if text.trim().is_empty() => Err(Refusal::Empty { field }),
            Self::Text(text) => Ok(text),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Missing)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<Ignored>()?.is_some() {}
        Ok(Scalar::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<Ignored, Ignored>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

/// A value that nobody asked for. Read by the parser's visits, which count their depth; its own way to skip
/// a value does not.
struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor).map(|_| Self)
    }
}

/// A key, borrowed when it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// The visits of values that are no object: nothing is read from them, `$self` learns of it.
macro_rules! no_object {
    ($self:ident => $note:expr) => {
        fn visit_borrowed_str<E>($self, _: &'de str) -> Result<(), E> {
            $note;
            Ok(())
        }
        fn visit_str<E>($self, _: &str) -> Result<(), E> {
            $note;
            Ok(())
        }
        fn visit_bool<E>($self, _: bool) -> Result<(), E> {
            $note;
            Ok(())
        }
        fn visit_u64<E>($self, _: u64) -> Result<(), E> {
            $note;
            Ok(())
        }
        fn visit_i64<E>($self, _: i64) -> Result<(), E> {
            $note;
            Ok(())
        }
        fn visit_f64<E>($self, _: f64) -> Result<(), E> {
            $note;
            Ok(())
        }
        fn visit_seq<A: SeqAccess<'de>>($self, mut seq: A) -> Result<(), A::Error> {
            $note;
            while seq.next_element::<Ignored>()?.is_some() {}
            Ok(())
        }
    };
}

struct RecordVisitor<'r, 'a> {
    raw: &'r mut Raw<'a>,
}

impl<'de> Visitor<'de> for RecordVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    no_object!(self => self.raw.not_an_object = true);

    fn visit_unit<E>(self) -> Result<(), E> {
        self.raw.not_an_object = true;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "project_id" => self.raw.project_id = map.next_value()?,
                "timestamp" => self.raw.timestamp = map.next_value()?,
                "level" => self.raw.level = map.next_value()?,
                "service" => self.raw.service = map.next_value()?,
                "message" => self.raw.message = map.next_value()?,
                "metadata" => map.next_value_seed(MetadataVisitor { raw: self.raw })?,
                _ => {
                    self.raw.check_depth(&key)?;
                    let value: LazyValue<'de> = map.next_value()?;
                    self.raw.extra(key, &value);
                }
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for RecordVisitor<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

struct MetadataVisitor<'r, 'a> {
    raw: &'r mut Raw<'a>,
}

impl<'de> Visitor<'de> for MetadataVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata")
    }

    no_object!(self => self.raw.metadata_not_an_object = true);

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            self.raw.check_depth(&key)?;
            let value: LazyValue<'de> = map.next_value()?;
            self.raw.extra(key, &value);
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for MetadataVisitor<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

struct LogsVisitor<'r, 'a, 'f> {
    reader: &'r mut Reader<'a, 'f>,
    logs_seen: &'r mut usize,
}

impl<'de> Visitor<'de> for LogsVisitor<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the array \"logs\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            if key == "logs" {
                // Twice would be two requests in one; both are read, as if the arrays were one.
                *self.logs_seen += 1;
                map.next_value_seed(Elements { reader: &mut *self.reader })?;
            } else {
                map.next_value::<Ignored>()?;
            }
        }
        Ok(())
    }
}

struct Elements<'r, 'a, 'f> {
    reader: &'r mut Reader<'a, 'f>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, 'de, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(RecordVisitor { raw: self.reader.raw.reset(self.reader.text) })?.is_some()
        {
            self.reader.finish();
            if self.reader.seen > self.reader.max_records {
                return Err(A::Error::custom("too many records"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
