//! Dead letters: rows that can't be loaded, kept in the bucket with the reason, one object per batch and
//! attempt that put rows aside.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use spillway_bucket::DEAD_LETTER_TAG;
use spillway_model::object::DEAD_LETTER_DIR;
use spillway_model::time::UnixMs;
use spillway_model::{CodecError, FormatVersion, codec};

use crate::batch::{BatchId, DeadRow};

/// Object tag by which a lifecycle rule may expire dead letters, as the header of a PUT.
#[must_use]
pub fn tagging() -> String {
    let (key, value) = DEAD_LETTER_TAG;
    format!("{key}={value}")
}

/// One line of a dead-letter object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Batch id.
    pub batch: BatchId,
    /// Why, and which row.
    #[serde(flatten)]
    pub row: DeadRow,
    /// Key of the staged object it came from.
    pub object: String,
    /// The row as it was staged, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// Otherwise its bytes in base64; for a damaged object, the object's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl DeadLetter {
    /// A letter with these raw bytes.
    #[must_use]
    pub fn new(batch: BatchId, row: DeadRow, object: String, raw: &[u8]) -> Self {
        let line = std::str::from_utf8(raw).ok().map(str::to_owned);
        let base64 = if line.is_none() { Some(BASE64_STANDARD.encode(raw)) } else { None };
        Self { batch, row, object, line, base64 }
    }

    /// The raw bytes; `None` when the base64 is damaged.
    #[must_use]
    pub fn raw(&self) -> Option<Vec<u8>> {
        match (&self.line, &self.base64) {
            (Some(line), _) => Some(line.clone().into_bytes()),
            (None, Some(text)) => BASE64_STANDARD.decode(text).ok(),
            (None, None) => None,
        }
    }
}

/// Key of the dead letters that attempt `attempt` of a batch made on `created` put aside.
#[must_use]
pub fn key(id: BatchId, attempt: u64, created: UnixMs) -> String {
    let date = created.day().date();
    if attempt == 0 {
        format!("{DEAD_LETTER_DIR}{date}/{id}.json.gz")
    } else {
        format!("{DEAD_LETTER_DIR}{date}/{id}-a{attempt}.json.gz")
    }
}

/// The object's bytes. The same letters always give the same bytes.
///
/// # Errors
/// When the compressor fails.
pub fn encode(letters: &[DeadLetter]) -> Result<Vec<u8>, CodecError> {
    let mut lines = Vec::new();
    for letter in letters {
        if serde_json::to_writer(&mut lines, letter).is_ok() {
            lines.push(b'\n');
        }
    }
    codec::encode(FormatVersion::V1, &lines, codec::DEFAULT_LEVEL)
}

/// Reads a dead-letter object.
///
/// # Errors
/// When it is damaged.
pub fn decode(object: &[u8]) -> Result<Vec<DeadLetter>, String> {
    let lines = codec::decode(FormatVersion::V1, object, 1 << 30).map_err(|error| error.to_string())?;
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|error| error.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_keep_their_bytes_whether_text_or_not() {
        let row =
            DeadRow { row: 3, rows: 1, attempt: 0, project: None, reason: "r".into(), detail: "d".into() };
        let id = BatchId { epoch: 1, number: 2 };
        for raw in [b"{\"a\":1}".as_slice(), b"\xff\x00"] {
            let letter = DeadLetter::new(id, row.clone(), "p/s/k".into(), raw);
            let read = decode(&encode(std::slice::from_ref(&letter)).unwrap()).unwrap();
            assert_eq!(read, [letter]);
            assert_eq!(read[0].raw().unwrap(), raw);
        }
    }
}
