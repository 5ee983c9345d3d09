//! Any bytes as a staged object, as one of its rows and as its key: read or refused, and what is read is
//! written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway_model::{FormatVersion, ObjectKey, codec, read_row, write_row};

fuzz_target!(|bytes: &[u8]| {
    let raw = codec::decode(FormatVersion::V1, bytes, 1 << 20).unwrap_or_default();
    for rows in [raw.as_slice(), bytes] {
        for line in rows.split_inclusive(|b| *b == b'\n') {
            if let Ok(record) = read_row(line) {
                let mut written = Vec::new();
                write_row(&mut written, &record);
                let again = read_row(&written).expect("what is written is read");
                // Compared as text: a NaN is not equal to itself.
                assert_eq!(format!("{again:?}"), format!("{record:?}"));
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(key) = ObjectKey::parse(text)
    {
        assert_eq!(key.to_string(), text);
    }
});
