//! How one value of a record is written into a row, and read back: fast from our own writing, slowly from
//! any other JSON. Both ways of reading must give the same value.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::cursor::{Cursor, first_special};
use crate::record::{Severity, TextMap};
use crate::time::{UnixMs, UnixNanos};

pub(crate) trait Cell<'a>: Sized + Default {
    fn is_default(&self) -> bool;
    fn write(&self, out: &mut Vec<u8>);
    fn read_fast(from: &mut Cursor<'a>) -> Option<Self>;
    fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error>;
}

/// A string that borrows from the row when it can.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'a> Cell<'a> for Cow<'a, str> {
    fn is_default(&self) -> bool {
        self.is_empty()
    }
    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        write_string(self, out);
    }
    #[inline]
    fn read_fast(from: &mut Cursor<'a>) -> Option<Self> {
        from.string()
    }
    fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        Text::deserialize(from).map(|t| t.0)
    }
}

impl<'a> Cell<'a> for Vec<Cow<'a, str>> {
    fn is_default(&self) -> bool {
        self.is_empty()
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (i, text) in self.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(text, out);
        }
        out.push(b']');
    }
    fn read_fast(from: &mut Cursor<'a>) -> Option<Self> {
        let mut list = Self::new();
        if !from.eat(b"[") {
            return None;
        }
        if from.eat(b"]") {
            return Some(list);
        }
        loop {
            list.push(from.string()?);
            if from.eat(b"]") {
                return Some(list);
            }
            if !from.eat(b",") {
                return None;
            }
        }
    }
    fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = Vec<Cow<'de, str>>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of strings")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(Text(text)) = seq.next_element()? {
                    list.push(text);
                }
                Ok(list)
            }
        }
        from.deserialize_seq(ListVisitor)
    }
}

impl<'a> Cell<'a> for TextMap<'a> {
    fn is_default(&self) -> bool {
        self.is_empty()
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (i, (key, value)) in self.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(key, out);
            out.push(b':');
            write_string(value, out);
        }
        out.push(b'}');
    }
    fn read_fast(from: &mut Cursor<'a>) -> Option<Self> {
        let mut map = Self::new();
        if !from.eat(b"{") {
            return None;
        }
        if from.eat(b"}") {
            return Some(map);
        }
        loop {
            let key = from.string()?;
            if !from.eat(b":") {
                return None;
            }
            map.push((key, from.string()?));
            if from.eat(b"}") {
                return Some(map);
            }
            if !from.eat(b",") {
                return None;
            }
        }
    }
    fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = TextMap<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    pairs.push((key, value));
                }
                Ok(pairs)
            }
        }
        from.deserialize_map(MapVisitor)
    }
}

macro_rules! unsigned_cell {
    ($($type:ty)*) => {$(
        impl<'a> Cell<'a> for $type {
            fn is_default(&self) -> bool {
                *self == 0
            }
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
            }
            fn read_fast(from: &mut Cursor<'a>) -> Option<Self> {
                from.unsigned()?.try_into().ok()
            }
            fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
                Self::deserialize(from)
            }
        }
    )*};
}
unsigned_cell!(u8 u16 u32 u64);

impl<'a> Cell<'a> for f64 {
    fn is_default(&self) -> bool {
        // Not `== 0.0`: a negative zero is a value of its own.
        self.to_bits() == 0
    }
    /// What JSON has no number for is a string; ClickHouse reads quoted numbers.
    fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let _ = if self.is_nan() {
            out.write_all(b"\"nan\"")
        } else if self.is_infinite() {
            out.write_all(if *self > 0.0 { b"\"inf\"" } else { b"\"-inf\"" })
        } else {
            // Debug and not Display: the exponent keeps 1e300 short.
            write!(out, "{self:?}")
        };
    }
    fn read_fast(from: &mut Cursor<'a>) -> Option<Self> {
        let text = from.number()?;
        // Rust reads "1." and "+1", JSON does not: only the shape that `write` gives is read here.
        let value: Self = text.parse().ok()?;
        (value.is_finite() && format!("{value:?}") == text).then_some(value)
    }
    fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        struct FloatVisitor;
        impl Visitor<'_> for FloatVisitor {
            type Value = f64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"nan\", \"inf\" or \"-inf\"")
            }
            fn visit_f64<E>(self, value: f64) -> Result<f64, E> {
                Ok(value)
            }
            fn visit_u64<E>(self, value: u64) -> Result<f64, E> {
                Ok(value as f64)
            }
            fn visit_i64<E>(self, value: i64) -> Result<f64, E> {
                Ok(value as f64)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
                match text {
                    "nan" => Ok(f64::NAN),
                    "inf" => Ok(f64::INFINITY),
                    "-inf" => Ok(f64::NEG_INFINITY),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        from.deserialize_any(FloatVisitor)
    }
}

impl<'a> Cell<'a> for bool {
    fn is_default(&self) -> bool {
        !*self
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
    fn read_fast(from: &mut Cursor<'a>) -> Option<Self> {
        if from.eat(b"true") {
            return Some(true);
        }
        from.eat(b"false").then_some(false)
    }
    fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

/// The types whose JSON is a string of a fixed shape.
macro_rules! string_cell {
    ($type:ty, $what:literal, $default:expr, $write:expr, $parse:expr) => {
        impl<'a> Cell<'a> for $type {
            fn is_default(&self) -> bool {
                *self == $default
            }
            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                out.push(b'"');
                $write(*self, out);
                out.push(b'"');
            }
            #[inline]
            fn read_fast(from: &mut Cursor<'a>) -> Option<Self> {
                $parse(&*from.string()?)
            }
            fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
                let Text(text) = Text::deserialize(from)?;
                $parse(&*text).ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &$what))
            }
        }
    };
}

string_cell!(
    Uuid,
    "a UUID in lower case with hyphens",
    Uuid::nil(),
    |uuid: Uuid, out: &mut Vec<u8>| {
        out.extend_from_slice(uuid.hyphenated().encode_lower(&mut [0; 36]).as_bytes());
    },
    |text: &str| if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
);

string_cell!(
    UnixNanos,
    "a time as YYYY-MM-DD HH:MM:SS.nnnnnnnnn",
    UnixNanos(0),
    UnixNanos::write_sql,
    |t: &str| {
        match t.as_bytes().try_into().ok().and_then(UnixNanos::from_canonical) {
            None => UnixNanos::parse(t).ok(),
            nanos => nanos,
        }
    }
);

string_cell!(UnixMs, "a time as YYYY-MM-DD HH:MM:SS.mmm", UnixMs(0), UnixMs::write_sql, |t: &str| {
    match t.as_bytes().try_into().ok().and_then(UnixMs::from_canonical) {
        None => UnixNanos::parse(t).ok().map(UnixNanos::ms),
        ms => ms,
    }
});

string_cell!(
    Severity,
    "a severity of the table",
    Severity::Unspecified,
    |severity: Severity, out: &mut Vec<u8>| out.extend_from_slice(severity.name().as_bytes()),
    Severity::from_name
);

/// Appends a JSON string.
#[inline]
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(first_special(rest));
        out.extend_from_slice(plain);
        let Some((b, tail)) = special.split_first() else { break };
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let high = HEX[usize::from(b >> 4)];
                let low = HEX[usize::from(b & 15)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        rest = tail;
    }
    out.push(b'"');
}
