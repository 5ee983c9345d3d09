//! The digest by which a writer recognises its own bytes.

use sha2::{Digest, Sha256};

/// SHA-256 in lower-case hex.
///
/// Not the `ETag`: with KMS or on other stores than AWS it need not be the MD5 of the content. Not S3's own
/// checksums either: stores differ in which they keep and in when they return them. A digest in the user
/// metadata comes back from every store.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
