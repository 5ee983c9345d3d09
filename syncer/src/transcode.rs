//! Staged rows to the body of an insert: one Arrow record batch in an IPC stream, which the server takes as
//! one block. Columns that no row gives are left out; the table fills them with their type's empty value.
//!
//! Types as the server reads them without loss (seen on 26.9): a UUID as its 16 bytes, a severity as Int8,
//! labels and map keys as dictionaries without double values, times with their unit.
//!
//! The bytes depend on the rows alone, because a deduplication token stands for them: change anything here
//! that changes them, and [`crate::batch::ENCODER_VERSION`] must be raised.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int8Array,
    Int32Array, ListArray, MapArray, RecordBatch, RecordBatchOptions, StringArray, StructArray,
    TimestampMillisecondArray, TimestampNanosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use spillway_model::visit::Value;
use spillway_model::{COLUMNS, ColumnKind, Record};

/// Columns that the syncer adds.
const BATCH_ID: &str = "batch_id";
const BATCH_ROW: &str = "batch_row";

/// The body of one insert.
#[derive(Debug, Clone)]
pub struct Body {
    /// The IPC stream.
    pub bytes: Bytes,
    /// Names of the columns in it, for the INSERT's column list.
    pub columns: Vec<&'static str>,
    /// Rows in it.
    pub rows: u64,
}

/// Collects rows and lays them out by column.
#[derive(Debug)]
pub struct Encoder {
    columns: Vec<Builder>,
    rows: usize,
    batch_rows: Vec<u32>,
}

impl Default for Encoder {
    fn default() -> Self {
        let staged = COLUMNS.iter().filter(|column| column.staged);
        Self {
            columns: staged.map(|column| Builder::new(column.kind)).collect(),
            rows: 0,
            batch_rows: Vec::new(),
        }
    }
}

impl Encoder {
    /// Adds a row under its number in the batch.
    pub fn push(&mut self, batch_row: u32, record: &Record<'_>) {
        let row = self.rows;
        record.for_each_given(|place, value| {
            if let Some(column) = self.columns.get_mut(place) {
                column.push(row, value);
            }
        });
        self.batch_rows.push(batch_row);
        self.rows += 1;
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The insert's body. `batch_id` is the value of that column in every row.
    ///
    /// # Errors
    /// When a column holds more than 2 GiB of text.
    pub fn finish(self, batch_id: &str) -> Result<Body, ArrowError> {
        let rows = self.rows;
        let mut fields = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        let mut names = Vec::new();
        let mut add = |name: &'static str, array: ArrayRef| {
            fields.push(Field::new(name, array.data_type().clone(), false));
            arrays.push(array);
            names.push(name);
        };
        for (column, builder) in COLUMNS.iter().filter(|column| column.staged).zip(self.columns) {
            if let Some(array) = builder.finish(rows)? {
                add(column.name, array);
            }
        }
        let ids = Int32Array::from(vec![0; rows]);
        add(BATCH_ID, Arc::new(DictionaryArray::new(ids, Arc::new(StringArray::from(vec![batch_id])))));
        add(BATCH_ROW, Arc::new(UInt32Array::from(self.batch_rows)));
        let schema = Arc::new(Schema::new(fields));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?;
        let mut writer = StreamWriter::try_new(Vec::with_capacity(batch.get_array_memory_size()), &schema)?;
        writer.write(&batch)?;
        Ok(Body { bytes: writer.into_inner()?.into(), columns: names, rows: rows as u64 })
    }
}

/// One column; grows only from the first row on that gives it.
#[derive(Debug)]
enum Builder {
    Uuid(Vec<u8>),
    Nanos(Vec<i64>),
    Ms(Vec<i64>),
    Severity(Vec<i8>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Text(Texts),
    Label(Labels),
    TextList(Ends, Texts),
    TextMap(Ends, Labels, Texts),
}

/// Ends of variable-length values.
type Ends = Vec<i32>;

#[derive(Debug, Default)]
struct Texts {
    ends: Ends,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Labels {
    keys: Vec<i32>,
    values: Texts,
    places: HashMap<Box<str>, i32>,
    /// Rows of a stream come one after the other: the last label is most often the next one, too.
    last: Option<(Box<str>, i32)>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.end();
    }

    fn end(&mut self) {
        // Checked for overflow in `finish`, once for the column.
        self.ends.push(i32::try_from(self.bytes.len()).unwrap_or(i32::MAX));
    }

    fn pad(&mut self, rows: usize) {
        let end = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(rows, end);
    }

    fn finish(self) -> Result<StringArray, ArrowError> {
        if i32::try_from(self.bytes.len()).is_err() {
            return Err(ArrowError::InvalidArgumentError(
                "a column of the batch holds more than 2 GiB".to_owned(),
            ));
        }
        StringArray::try_new(offsets(self.ends), Buffer::from_vec(self.bytes), None)
    }
}

fn offsets(ends: Ends) -> OffsetBuffer<i32> {
    let mut all = Vec::with_capacity(ends.len() + 1);
    all.push(0);
    all.extend(ends);
    OffsetBuffer::new(ScalarBuffer::from(all))
}

impl Labels {
    fn place(&mut self, label: &str) -> i32 {
        if let Some((last, place)) = &self.last
            && **last == *label
        {
            return *place;
        }
        let place = match self.places.get(label) {
            Some(place) => *place,
            None => {
                let place = i32::try_from(self.values.ends.len()).unwrap_or(i32::MAX);
                self.values.push(label);
                self.places.insert(label.into(), place);
                place
            }
        };
        self.last = Some((label.into(), place));
        place
    }

    fn push(&mut self, label: &str) {
        let place = self.place(label);
        self.keys.push(place);
    }

    fn pad(&mut self, rows: usize) {
        if self.keys.len() < rows {
            let empty = self.place("");
            self.keys.resize(rows, empty);
        }
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        let values = Arc::new(self.values.finish()?);
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(self.keys), values)?))
    }
}

impl Builder {
    fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Uuid => Self::Uuid(Vec::new()),
            ColumnKind::Nanos => Self::Nanos(Vec::new()),
            ColumnKind::Ms => Self::Ms(Vec::new()),
            ColumnKind::Severity => Self::Severity(Vec::new()),
            ColumnKind::U8 => Self::U8(Vec::new()),
            ColumnKind::U16 => Self::U16(Vec::new()),
            ColumnKind::U32 => Self::U32(Vec::new()),
            ColumnKind::U64 => Self::U64(Vec::new()),
            ColumnKind::F64 => Self::F64(Vec::new()),
            ColumnKind::Bool => Self::Bool(Vec::new()),
            ColumnKind::Text => Self::Text(Texts::default()),
            ColumnKind::Label => Self::Label(Labels::default()),
            ColumnKind::TextList => Self::TextList(Ends::new(), Texts::default()),
            ColumnKind::TextMap => Self::TextMap(Ends::new(), Labels::default(), Texts::default()),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Uuid(values) | Self::U8(values) => values.is_empty(),
            Self::Nanos(values) | Self::Ms(values) => values.is_empty(),
            Self::Severity(values) => values.is_empty(),
            Self::U16(values) => values.is_empty(),
            Self::U32(values) => values.is_empty(),
            Self::U64(values) => values.is_empty(),
            Self::F64(values) => values.is_empty(),
            Self::Bool(values) => values.is_empty(),
            Self::Text(texts) => texts.ends.is_empty(),
            Self::Label(labels) => labels.keys.is_empty(),
            Self::TextList(ends, _) | Self::TextMap(ends, _, _) => ends.is_empty(),
        }
    }

    /// Fills rows up to `row` with the empty value.
    fn pad(&mut self, row: usize) {
        match self {
            Self::Uuid(values) => values.resize(row * 16, 0),
            Self::U8(values) => values.resize(row, 0),
            Self::Nanos(values) | Self::Ms(values) => values.resize(row, 0),
            Self::Severity(values) => values.resize(row, 0),
            Self::U16(values) => values.resize(row, 0),
            Self::U32(values) => values.resize(row, 0),
            Self::U64(values) => values.resize(row, 0),
            Self::F64(values) => values.resize(row, 0.0),
            Self::Bool(values) => values.resize(row, false),
            Self::Text(texts) => texts.pad(row),
            Self::Label(labels) => labels.pad(row),
            Self::TextList(ends, _) | Self::TextMap(ends, _, _) => {
                let end = ends.last().copied().unwrap_or(0);
                ends.resize(row, end);
            }
        }
    }

    #[inline]
    fn push(&mut self, row: usize, value: Value<'_>) {
        self.pad(row);
        match (self, value) {
            (Self::Uuid(values), Value::Uuid(uuid)) => values.extend_from_slice(uuid.as_bytes()),
            (Self::Nanos(values), Value::Nanos(at)) => values.push(at.0),
            (Self::Ms(values), Value::Ms(at)) => values.push(at.0),
            (Self::Severity(values), Value::Severity(severity)) => values.push(severity.number()),
            (Self::U8(values), Value::U8(number)) => values.push(number),
            (Self::U16(values), Value::U16(number)) => values.push(number),
            (Self::U32(values), Value::U32(number)) => values.push(number),
            (Self::U64(values), Value::U64(number)) => values.push(number),
            (Self::F64(values), Value::F64(number)) => values.push(number),
            (Self::Bool(values), Value::Bool(is)) => values.push(is),
            (Self::Text(texts), Value::Text(text)) => texts.push(text),
            (Self::Label(labels), Value::Label(label)) => labels.push(label),
            (Self::TextList(ends, texts), Value::TextList(list)) => {
                for text in list {
                    texts.push(text);
                }
                ends.push(i32::try_from(texts.ends.len()).unwrap_or(i32::MAX));
            }
            (Self::TextMap(ends, keys, values), Value::TextMap(map)) => {
                for (key, value) in map {
                    keys.push(key);
                    values.push(value);
                }
                ends.push(i32::try_from(values.ends.len()).unwrap_or(i32::MAX));
            }
            // `Builder::new` and `Value` come from the same list of columns.
            _ => debug_assert!(false, "a value of another kind than its column"),
        }
    }

    /// The array, or `None` when no row gave the column.
    fn finish(mut self, rows: usize) -> Result<Option<ArrayRef>, ArrowError> {
        if self.is_empty() {
            return Ok(None);
        }
        self.pad(rows);
        Ok(Some(match self {
            Self::Uuid(values) => {
                Arc::new(FixedSizeBinaryArray::try_new(16, Buffer::from_vec(values), None)?)
            }
            Self::Nanos(values) => Arc::new(TimestampNanosecondArray::from(values).with_timezone("UTC")),
            Self::Ms(values) => Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC")),
            Self::Severity(values) => Arc::new(Int8Array::from(values)),
            Self::U8(values) => Arc::new(UInt8Array::from(values)),
            Self::U16(values) => Arc::new(UInt16Array::from(values)),
            Self::U32(values) => Arc::new(UInt32Array::from(values)),
            Self::U64(values) => Arc::new(UInt64Array::from(values)),
            Self::F64(values) => Arc::new(Float64Array::from(values)),
            Self::Bool(values) => Arc::new(BooleanArray::from(values)),
            Self::Text(texts) => Arc::new(texts.finish()?),
            Self::Label(labels) => labels.finish()?,
            Self::TextList(ends, texts) => {
                let item = Arc::new(Field::new("item", DataType::Utf8, false));
                Arc::new(ListArray::try_new(item, offsets(ends), Arc::new(texts.finish()?), None)?)
            }
            Self::TextMap(ends, keys, values) => {
                let keys = keys.finish()?;
                let entries = vec![
                    Field::new("keys", keys.data_type().clone(), false),
                    Field::new("values", DataType::Utf8, false),
                ];
                let pairs =
                    StructArray::try_new(entries.into(), vec![keys, Arc::new(values.finish()?)], None)?;
                let field = Arc::new(Field::new("entries", pairs.data_type().clone(), false));
                Arc::new(MapArray::try_new(field, offsets(ends), pairs, None, false)?)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use arrow_ipc::reader::StreamReader;
    use spillway_model::UnixNanos;

    use super::*;

    fn record(service: &'static str, flags: u32) -> Record<'static> {
        Record { service: service.into(), timestamp: UnixNanos(7), flags, ..Record::default() }
    }

    fn encoded(records: &[Record<'_>]) -> Body {
        let mut encoder = Encoder::default();
        for (row, record) in (0..).zip(records) {
            encoder.push(row, record);
        }
        encoder.finish("p-1-00000001").unwrap()
    }

    #[test]
    fn the_same_rows_always_make_the_same_bytes() {
        let mut one = record("api", 0);
        one.attributes = vec![("b".into(), "1".into()), ("a".into(), "2".into())];
        let rows = [one, record("web", 2)];
        assert_eq!(encoded(&rows).bytes, encoded(&rows).bytes);
    }

    #[test]
    fn columns_that_no_row_gives_are_left_out_and_late_ones_are_filled_up() {
        let body = encoded(&[record("api", 0), record("api", 9), record("web", 0)]);
        assert_eq!(body.columns, ["service", "timestamp", "flags", "batch_id", "batch_row"]);
        let batches: Vec<_> = StreamReader::try_new(&*body.bytes, None).unwrap().collect();
        assert_eq!(batches.len(), 1, "one insert is one record batch");
        let batch = batches[0].as_ref().unwrap();
        let flags = batch.column(2).as_any().downcast_ref::<UInt32Array>().unwrap();
        assert_eq!(flags.values(), &[0, 9, 0]);
        let services = batch.column(0).as_any().downcast_ref::<DictionaryArray<Int32Type>>().unwrap();
        assert_eq!(services.keys().values(), &[0, 0, 1]);
    }

    #[test]
    fn a_label_that_is_missing_in_the_first_rows_never_stands_twice_in_the_dictionary() {
        let mut late = record("api", 0);
        late.host = "h".into();
        let body = encoded(&[record("api", 0), late, record("api", 0)]);
        let batch = StreamReader::try_new(&*body.bytes, None).unwrap().next().unwrap().unwrap();
        let hosts = batch.column_by_name("host").unwrap();
        let hosts = hosts.as_any().downcast_ref::<DictionaryArray<Int32Type>>().unwrap();
        assert_eq!(hosts.keys().values(), &[0, 1, 0]);
        assert_eq!(hosts.values().len(), 2);
    }
}
