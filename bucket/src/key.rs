//! What a key may look like: anything that names one file below the bucket's root on either backend.

use crate::error::{BucketError, Operation};

/// S3's limit, prefix included; a key close to it fails there with a clear answer.
const MAX_KEY_BYTES: usize = 1024;
/// The longest file name of common file systems.
const MAX_COMPONENT_BYTES: usize = 255;

/// First folder of the directory backend's own files; keys below it are refused on both backends, so that a
/// key valid on one is valid on the other.
pub(crate) const RESERVED_DIR: &str = ".spillway";

/// Refuses a key that would leave the bucket's root or that one of the backends can't hold.
pub(crate) fn check(operation: Operation, key: &str) -> Result<(), BucketError> {
    match fault(key) {
        None => Ok(()),
        Some(fault) => Err(BucketError::Invalid {
            operation,
            key: key.chars().take(200).collect(),
            detail: format!("the key {fault}"),
            remedy: "this is a defect in the caller: names are checked before they become keys",
        }),
    }
}

fn fault(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        return Some("is empty");
    }
    if key.len() > MAX_KEY_BYTES {
        return Some("is longer than 1,024 bytes");
    }
    if key.chars().any(char::is_control) {
        return Some("holds a control character");
    }
    for (depth, component) in key.split('/').enumerate() {
        match component {
            "" => return Some("begins or ends with '/' or holds '//'"),
            "." | ".." => return Some("holds '.' or '..' as a path component"),
            RESERVED_DIR if depth == 0 => return Some("begins with the reserved '.spillway/'"),
            long if long.len() > MAX_COMPONENT_BYTES => {
                return Some("holds a path component longer than 255 bytes");
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_escape_nothing() {
        for bad in [
            "",
            "/etc/passwd",
            "a/",
            "a//b",
            "../x",
            "a/../../x",
            "a/./b",
            "..",
            ".",
            "a\0b",
            "a\nb",
            ".spillway/lock",
        ] {
            assert!(fault(bad).is_some(), "{bad:?} must be refused");
        }
        assert!(fault(&"x".repeat(256)).is_some());
        assert!(fault(&"x/".repeat(513)).is_some());
    }

    #[test]
    fn keys_may_hold_what_names_hold() {
        for good in
            ["a", "..a/b..", "shop/api v2/ü+%2F&=?#*'\"<>.json.gz", "_spillway/manifest.json", "a/.spillway"]
        {
            assert_eq!(fault(good), None, "{good:?}");
        }
    }
}
