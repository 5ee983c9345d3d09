//! A record as one line of a staged object: a JSON object in the table's own column names, so that
//! ClickHouse reads it as JSONEachRow without settings.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::cell::Cell;
use crate::columns::for_each_column;
use crate::cursor::Cursor;
use crate::record::Record;

/// Why a line is no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("row is not UTF-8 (byte {at})")]
    NotUtf8 { at: usize },
    #[error("row is not a JSON object of this table: {message}")]
    Malformed { message: String },
    #[error("row has the column {name:?}, which this version does not know; load it with a newer version")]
    UnknownColumn { name: String },
    #[error("row has the column {name} twice")]
    Duplicate { name: &'static str },
    #[error("row lacks the column {name}")]
    Missing { name: &'static str },
    #[error("column {name}: {message}")]
    BadValue { name: &'static str, message: String },
}

impl RowError {
    /// A short label for dead letters and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotUtf8 { .. } => "not_utf8",
            Self::Malformed { .. } => "malformed_row",
            Self::UnknownColumn { .. } => "unknown_column",
            Self::Duplicate { .. } => "duplicate_column",
            Self::Missing { .. } => "missing_column",
            Self::BadValue { .. } => "bad_value",
        }
    }
}

/// Reads one row; a line break at its end is allowed. Strict: a column that this version does not know is
/// an error, because loading the row without it would lose what it says.
///
/// # Errors
/// When the line is no row of this table.
pub fn read_row(line: &[u8]) -> Result<Record<'_>, RowError> {
    let text = std::str::from_utf8(line).map_err(|e| RowError::NotUtf8 { at: e.valid_up_to() })?;
    match read_canonical(text) {
        Some(record) => Ok(record),
        None => read_any(text),
    }
}

macro_rules! write_column {
    ($record:ident, $out:ident, $name:ident, always) => {
        $out.extend_from_slice(concat!(",\"", stringify!($name), "\":").as_bytes());
        Cell::write(&$record.$name, $out);
    };
    ($record:ident, $out:ident, $name:ident, given) => {
        if !Cell::is_default(&$record.$name) {
            $out.extend_from_slice(concat!(",\"", stringify!($name), "\":").as_bytes());
            Cell::write(&$record.$name, $out);
        }
    };
}

macro_rules! read_column {
    ($record:ident, $cursor:ident, $name:ident, always) => {
        if !$cursor.column(concat!(",\"", stringify!($name), "\":").as_bytes()) {
            return None;
        }
        $record.$name = Cell::read_fast(&mut $cursor)?;
    };
    ($record:ident, $cursor:ident, $name:ident, given) => {
        if $cursor.column(concat!(",\"", stringify!($name), "\":").as_bytes()) {
            $record.$name = Cell::read_fast(&mut $cursor)?;
        }
    };
}

macro_rules! is_always {
    (always) => {
        true
    };
    (given) => {
        false
    };
}

macro_rules! rows {
    ($($name:ident: $kind:ident, $presence:ident, $codec:literal, $since:literal, $doc:literal;)*) => {
        /// Appends the record as one JSON object and a line break, columns in the table's order, those
        /// that are not given left out.
        pub fn write_row(out: &mut Vec<u8>, record: &Record<'_>) {
            let start = out.len();
            $(write_column!(record, out, $name, $presence);)*
            // Every column wrote a comma before itself; the first one becomes the brace.
            if let Some(first) = out.get_mut(start) {
                *first = b'{';
            }
            out.extend_from_slice(b"}\n");
        }

        /// Reads what [`write_row`] writes; None for anything else, right or wrong.
        fn read_canonical(text: &str) -> Option<Record<'_>> {
            let mut cursor = Cursor::new(text);
            let mut record = Record::default();
            if !cursor.eat(b"{") {
                return None;
            }
            $(read_column!(record, cursor, $name, $presence);)*
            if !cursor.eat(b"}") {
                return None;
            }
            cursor.eat(b"\n");
            cursor.at_end().then_some(record)
        }

        #[allow(non_camel_case_types, reason = "the variants are the columns")]
        #[derive(Clone, Copy)]
        enum Name { $($name),* }

        impl Name {
            fn of(text: &str) -> Option<Self> {
                match text {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }

            fn text(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }

        const ALWAYS: &[Name] = {
            const ALL: &[(Name, bool)] = &[$((Name::$name, is_always!($presence))),*];
            const COUNT: usize = {
                let (mut i, mut n) = (0, 0);
                while i < ALL.len() {
                    n += ALL[i].1 as usize;
                    i += 1;
                }
                n
            };
            const PICKED: [Name; COUNT] = {
                let mut picked = [ALL[0].0; COUNT];
                let (mut i, mut n) = (0, 0);
                while i < ALL.len() {
                    if ALL[i].1 {
                        picked[n] = ALL[i].0;
                        n += 1;
                    }
                    i += 1;
                }
                picked
            };
            &PICKED
        };

        fn read_value<'de, A: MapAccess<'de>>(
            record: &mut Record<'de>,
            name: Name,
            map: &mut A,
        ) -> Result<(), A::Error> {
            match name {
                $(Name::$name => record.$name = map.next_value_seed(AnyCell::new())?,)*
            }
            Ok(())
        }
    };
}
for_each_column!(rows);

/// Reads any JSON object with these columns, in any order and spacing.
fn read_any(text: &str) -> Result<Record<'_>, RowError> {
    let mut fault = None;
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(RowVisitor { fault: &mut fault })
        .and_then(|record| json.end().map(|()| record))
        .map_err(|e| match fault {
            Some(Fault::Whole(error)) => error,
            Some(Fault::Value(name)) => RowError::BadValue { name: name.text(), message: e.to_string() },
            None => RowError::Malformed { message: e.to_string() },
        })
}

/// What serde's error can't carry.
enum Fault {
    Whole(RowError),
    Value(Name),
}

struct RowVisitor<'f> {
    fault: &'f mut Option<Fault>,
}

impl<'de> Visitor<'de> for RowVisitor<'_> {
    type Value = Record<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut record = Record::default();
        let mut seen = 0u128;
        let mut whole = |error| {
            *self.fault = Some(Fault::Whole(error));
            de::Error::custom("")
        };
        while let Some(key) = map.next_key_seed(AnyCell::<std::borrow::Cow<'de, str>>::new())? {
            let Some(name) = Name::of(&key) else {
                return Err(whole(RowError::UnknownColumn { name: key.into_owned() }));
            };
            if seen & (1 << name as u32) != 0 {
                return Err(whole(RowError::Duplicate { name: name.text() }));
            }
            seen |= 1 << name as u32;
            if let Err(e) = read_value(&mut record, name, &mut map) {
                *self.fault = Some(Fault::Value(name));
                return Err(e);
            }
        }
        for name in ALWAYS {
            if seen & (1 << *name as u32) == 0 {
                return Err(whole(RowError::Missing { name: name.text() }));
            }
        }
        Ok(record)
    }
}

/// Lets [`Cell::read`] stand where serde wants a seed.
struct AnyCell<T>(std::marker::PhantomData<T>);

impl<T> AnyCell<T> {
    fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<'de, T: Cell<'de>> DeserializeSeed<'de> for AnyCell<T> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::read(deserializer)
    }
}

#[cfg(test)]
mod tests;
