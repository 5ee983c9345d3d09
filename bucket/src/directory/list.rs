//! A flat, sorted listing of a tree of folders in memory that grows with the page and not with the tree.

use std::collections::BinaryHeap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::Path;

use crate::key::RESERVED_DIR;
use crate::{Listed, Page};

/// What to list; keys from the root of the directory on.
pub(super) struct Wanted {
    pub(super) prefix: String,
    /// Only keys after this one; empty: all.
    pub(super) after: String,
    pub(super) limit: usize,
}

pub(super) fn page(root: &Path, wanted: &Wanted) -> io::Result<Page> {
    let mut walk = Walk { root, wanted, objects: Vec::new(), is_full: false };
    walk.folder("")?;
    let next = if walk.is_full { walk.objects.last().map(|object| object.key.clone()) } else { None };
    Ok(Page { objects: walk.objects, next })
}

struct Walk<'a> {
    root: &'a Path,
    wanted: &'a Wanted,
    objects: Vec<Listed>,
    /// The page has its number of objects; there may be more.
    is_full: bool,
}

impl Walk<'_> {
    /// Lists the folder whose keys begin with `folder` (empty, or ending in '/').
    fn folder(&mut self, folder: &str) -> io::Result<()> {
        let mut from = Bound::Unbounded;
        loop {
            let (entries, left_out) = self.smallest_entries(folder, &from)?;
            for entry in &entries {
                if entry.ends_with('/') {
                    self.folder(entry)?;
                } else {
                    self.object(entry)?;
                }
                if self.is_full {
                    return Ok(());
                }
            }
            // Folders without objects, or files deleted meanwhile: the page still has room.
            match entries.into_iter().next_back() {
                Some(last) if left_out => from = Bound::Excluded(last),
                _ => return Ok(()),
            }
        }
    }

    fn object(&mut self, key: &str) -> io::Result<()> {
        match fs::metadata(self.root.join(key)) {
            Ok(meta) => {
                self.objects.push(Listed { key: key.to_owned(), size: meta.len() });
                self.is_full = self.objects.len() >= self.wanted.limit;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The first entries of a folder in key order, at most as many as the page has room for, and whether some
    /// were left out. A sub-folder sorts as its name with '/', which is where its keys belong.
    fn smallest_entries(&self, folder: &str, from: &Bound<String>) -> io::Result<(Vec<String>, bool)> {
        let room = self.wanted.limit - self.objects.len();
        let mut smallest = BinaryHeap::new();
        let mut left_out = false;
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), false)),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = match entry.file_type() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            // Links are not followed: what they name is not in this bucket.
            let key = if kind.is_dir() {
                format!("{folder}{name}/")
            } else if kind.is_file() {
                format!("{folder}{name}")
            } else {
                continue;
            };
            if !self.is_wanted(&key) || matches!(from, Bound::Excluded(last) if key <= *last) {
                continue;
            }
            smallest.push(key);
            if smallest.len() > room {
                smallest.pop();
                left_out = true;
            }
        }
        Ok((smallest.into_sorted_vec(), left_out))
    }

    fn is_wanted(&self, key: &str) -> bool {
        let Wanted { prefix, after, .. } = self.wanted;
        if key.ends_with('/') {
            if key.strip_suffix('/') == Some(RESERVED_DIR) {
                return false;
            }
            let may_match = key.starts_with(prefix.as_str()) || prefix.starts_with(key);
            let may_come_after = key > after.as_str() || after.starts_with(key);
            may_match && may_come_after
        } else {
            key.starts_with(prefix.as_str()) && key > after.as_str()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str], folders: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        dir
    }

    fn walk(root: &Path, prefix: &str, limit: usize) -> Vec<String> {
        let mut keys = Vec::new();
        let mut after = String::new();
        loop {
            let wanted = Wanted { prefix: prefix.into(), after, limit };
            let page = page(root, &wanted).unwrap();
            assert!(page.objects.len() <= limit);
            keys.extend(page.objects.into_iter().map(|object| object.key));
            match page.next {
                Some(next) => after = next,
                None => return keys,
            }
        }
    }

    const FILES: &[&str] =
        &["a-b", "a.b", "a/x", "a/y/z", "a/y-z", "a0", "b", "ü/é", "a/y.z", "aa/1", "aa/2"];

    #[test]
    fn folders_sort_where_their_keys_belong_whatever_the_page_size() {
        let dir = tree(FILES, &["empty", "a/empty/empty", "0", "zz", "a/y/0"]);
        let mut expected: Vec<String> = FILES.iter().map(|key| (*key).to_owned()).collect();
        expected.sort();
        for limit in 1..=FILES.len() + 1 {
            assert_eq!(walk(dir.path(), "", limit), expected, "pages of {limit}");
        }
    }

    #[test]
    fn a_prefix_is_text_and_not_a_folder() {
        let dir = tree(FILES, &[]);
        assert_eq!(walk(dir.path(), "a/y", 2), ["a/y-z", "a/y.z", "a/y/z"]);
        assert_eq!(walk(dir.path(), "a/y/", 2), ["a/y/z"]);
        assert_eq!(walk(dir.path(), "nothing/", 2), Vec::<String>::new());
    }

    #[test]
    fn own_files_and_links_are_not_listed() {
        let dir = tree(&["a", ".spillway/tmp/1", "b/.spillway/c"], &[]);
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        assert_eq!(walk(dir.path(), "", 10), ["a", "b/.spillway/c"]);
    }
}
