//! Digests: of what names an object, and of what tells running pods that their Secrets changed.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

/// The first 10 hexadecimal digits of the SHA-256 of some parts. Their lengths are part of it, so that no two lists of
/// parts run together.
#[must_use]
pub fn hash10<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(10);
    text
}

/// Changes when one of the Secrets does, or what else they are made of.
#[must_use]
pub fn touch(secrets: &BTreeSet<&str>, versions: &BTreeMap<String, String>, else_: &str) -> String {
    let version = |name: &&str| versions.get(*name).map_or("", String::as_str).to_owned();
    let secrets = secrets.iter().flat_map(|name| [(*name).to_owned(), version(name)]);
    let parts: Vec<String> = secrets.chain([else_.to_owned()]).collect();
    hash10(parts.iter().map(String::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(hash10([b"ab".as_slice(), b"c"]), hash10([b"a".as_slice(), b"bc"]));
        assert_eq!(hash10([b"ab".as_slice()]), hash10([b"ab".as_slice()]));
    }
}
