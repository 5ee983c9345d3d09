//! Digests that tell one content from another.

use sha2::{Digest as _, Sha256};

/// The first 8 bytes of the SHA-256.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// As [`number`], of a value's JSON. What can't be written as JSON is nothing that the operator holds.
pub(crate) fn json(value: &impl serde::Serialize) -> u64 {
    number(&serde_json::to_vec(value).unwrap_or_default())
}
