//! The values of a record, column by column, for whoever lays them out in another way than as JSON.

use std::borrow::Cow;

use uuid::Uuid;

use crate::cell::Cell;
use crate::columns::for_each_column;
use crate::record::{Record, Severity, TextMap};
use crate::time::{UnixMs, UnixNanos};

/// One value of a record; the variants are those of [`crate::ColumnKind`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'r> {
    Uuid(&'r Uuid),
    Nanos(UnixNanos),
    Ms(UnixMs),
    Severity(Severity),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    F64(f64),
    Bool(bool),
    Text(&'r str),
    Label(&'r str),
    TextList(&'r [Cow<'r, str>]),
    TextMap(&'r TextMap<'r>),
}

macro_rules! value {
    ($record:ident, $name:ident, Uuid) => {
        Value::Uuid(&$record.$name)
    };
    ($record:ident, $name:ident, Text) => {
        Value::Text(&$record.$name)
    };
    ($record:ident, $name:ident, Label) => {
        Value::Label(&$record.$name)
    };
    ($record:ident, $name:ident, TextList) => {
        Value::TextList(&$record.$name)
    };
    ($record:ident, $name:ident, TextMap) => {
        Value::TextMap(&$record.$name)
    };
    ($record:ident, $name:ident, $kind:ident) => {
        Value::$kind($record.$name)
    };
}

macro_rules! visit {
    ($($name:ident: $kind:ident, $presence:ident, $codec:literal, $since:literal, $doc:literal;)*) => {
        impl Record<'_> {
            /// Calls `with` for each column whose value is not empty, zero or false: the column's place in
            /// [`crate::COLUMNS`], ascending, and the value.
            #[inline]
            pub fn for_each_given(&self, mut with: impl FnMut(usize, Value<'_>)) {
                let mut place = 0;
                $(
                    if !Cell::is_default(&self.$name) {
                        with(place, value!(self, $name, $kind));
                    }
                    place += 1;
                )*
                let _ = place;
            }
        }
    };
}
for_each_column!(visit);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::COLUMNS;

    #[test]
    fn only_given_values_are_visited_each_under_its_column() {
        let record = Record { service: "api".into(), flags: 3, ..Record::default() };
        let mut seen = Vec::new();
        record.for_each_given(|place, value| seen.push((COLUMNS[place].name, format!("{value:?}"))));
        assert_eq!(seen, [("service", "Label(\"api\")".to_owned()), ("flags", "U32(3)".to_owned())]);
    }
}
