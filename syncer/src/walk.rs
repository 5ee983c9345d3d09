//! Walking the bucket: which keys to ask for next, so that a backlog of any size is seen fairly and in
//! bounded memory. Keys come in lexicographic order, so a stream's oldest objects come first; after a fair
//! number of one stream's objects the walk jumps to the next stream instead of paging through the rest.

use std::collections::BTreeSet;

use spillway_model::object::{Home, ObjectKey};

/// Control objects, which the walk jumps over.
const CONTROL_DIRS: [&str; 2] = ["_dead-letter/", "_spillway/"];

/// A staged object that the manifest doesn't know yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Key as listed, relative to the prefix.
    pub key: String,
    /// The key's parts.
    pub parts: ObjectKey,
}

/// What the writer knows of a listed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it may be planned.
    No,
    /// It belongs to a batch under way.
    UnderWay,
    /// It was loaded and deleted: a stalled PUT has brought it back.
    Removed,
}

/// One walk over the bucket. See the module's text.
#[derive(Debug)]
pub struct Walk {
    start: Option<String>,
    cursor: Option<String>,
    wrapped: bool,
    done: bool,
    per_stream: usize,
    most: usize,
    in_stream: usize,
    stream: String,
    /// Objects to plan.
    pub found: Vec<Staged>,
    /// Keys that must be deleted again.
    pub returned: Vec<String>,
    /// Keys that are no staged object: left alone and counted.
    pub foreign: BTreeSet<String>,
    /// Staged objects seen, those under way left out.
    pub seen: u64,
    /// Streams that they belong to.
    pub streams: usize,
}

impl Walk {
    /// A walk that begins after `start` and ends there again. It remembers at most `most` objects, of one
    /// stream at most `per_stream`.
    #[must_use]
    pub fn new(start: Option<String>, per_stream: usize, most: usize) -> Self {
        Self {
            cursor: start.clone(),
            wrapped: start.is_none(),
            start,
            done: false,
            per_stream: per_stream.max(1),
            most: most.max(1),
            in_stream: 0,
            stream: String::new(),
            found: Vec::new(),
            returned: Vec::new(),
            foreign: BTreeSet::new(),
            seen: 0,
            streams: 0,
        }
    }

    /// The key after which the next page is to be listed, or `None` when the walk is over.
    #[must_use]
    pub fn next(&self) -> Option<Option<&str>> {
        (!self.done).then_some(self.cursor.as_deref())
    }

    /// Where the next walk should begin: after the last stream seen when this one was cut short.
    #[must_use]
    pub fn resume_at(&self) -> Option<String> {
        if self.found.len() >= self.most { self.cursor.clone() } else { None }
    }

    /// Takes in a page: its keys in order, and whether there are more behind it.
    pub fn page(&mut self, keys: &[String], more: bool, known: impl Fn(&str) -> Known) {
        for key in keys {
            if self.wrapped && self.start.as_deref().is_some_and(|start| key.as_str() > start) {
                self.done = true;
                return;
            }
            self.take(key, &known);
            if self.found.len() >= self.most {
                self.cursor = Some(past_stream(key));
                self.done = true;
                return;
            }
        }
        match keys.last() {
            Some(last) if more => self.cursor = Some(self.jump(last)),
            _ if self.wrapped => self.done = true,
            _ => {
                self.wrapped = true;
                self.cursor = None;
            }
        }
    }

    fn take(&mut self, key: &str, known: &impl Fn(&str) -> Known) {
        if CONTROL_DIRS.iter().any(|dir| key.starts_with(dir)) {
            return;
        }
        let Ok(parts) = ObjectKey::parse(key) else {
            if self.foreign.len() < 100 {
                self.foreign.insert(key.to_owned());
            }
            return;
        };
        match known(key) {
            Known::UnderWay => return,
            Known::Removed => return self.returned.push(key.to_owned()),
            Known::No => {}
        }
        let stream = &key[..stream_len(key)];
        if stream != self.stream {
            stream.clone_into(&mut self.stream);
            self.in_stream = 0;
            self.streams += 1;
        }
        self.seen += 1;
        self.in_stream += 1;
        if self.in_stream <= self.per_stream {
            self.found.push(Staged { key: key.to_owned(), parts });
        }
    }

    fn jump(&self, last: &str) -> String {
        if let Some(dir) = CONTROL_DIRS.iter().find(|dir| last.starts_with(*dir)) {
            return past_dir(dir);
        }
        let full = last.starts_with(self.stream.as_str()) && self.in_stream >= self.per_stream;
        if full { past_stream(last) } else { last.to_owned() }
    }
}

fn stream_len(key: &str) -> usize {
    key.rfind('/').map_or(0, |slash| slash + 1)
}

fn past_stream(key: &str) -> String {
    past_dir(&key[..stream_len(key)])
}

/// A text behind every key that begins with `dir`: '0' follows '/'.
fn past_dir(dir: &str) -> String {
    format!("{}0", dir.trim_end_matches('/'))
}

/// Which project an object counts for when the writer shares its time out; packed objects hold many.
#[must_use]
pub fn share_of(staged: &Staged) -> &str {
    match &staged.parts.home {
        Home::Stream { project, .. } => project.as_str(),
        Home::Packed => "",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn key(project: &str, service: &str, number: u64) -> String {
        format!("{project}/{service}/20261122T171630123Z-pod-{number:010}-v1-1-9.json.gz")
    }

    /// Walks a sorted bucket, pages of `size`; returns the walk and the number of listings.
    fn walk(mut walk: Walk, keys: &[String], size: usize, known: impl Fn(&str) -> Known) -> (Walk, usize) {
        let mut listings = 0;
        while let Some(after) = walk.next().map(|after| after.map(str::to_owned)) {
            let from = after.map_or(0, |after| keys.partition_point(|key| *key <= after));
            let page = &keys[from..keys.len().min(from + size)];
            walk.page(page, from + size < keys.len(), &known);
            listings += 1;
            assert!(listings < 10_000, "the walk never ends");
        }
        (walk, listings)
    }

    fn per_project(found: &[Staged]) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for staged in found {
            *counts.entry(share_of(staged)).or_default() += 1;
        }
        counts
    }

    #[test]
    fn control_objects_and_foreign_keys_are_never_planned() {
        let mut keys = vec![
            "_dead-letter/2026-11-22/1-00000001.json.gz".to_owned(),
            "_spillway/manifest.json".to_owned(),
            "README".to_owned(),
            key("a", "s", 1),
            key("z", "s", 1),
        ];
        keys.sort();
        let (walk, _) = walk(Walk::new(None, 10, 10), &keys, 2, |_| Known::No);
        assert_eq!(per_project(&walk.found), BTreeMap::from([("a", 1), ("z", 1)]));
        assert_eq!(walk.foreign.iter().collect::<Vec<_>>(), ["README"]);
    }

    #[test]
    fn keys_under_way_are_passed_over_and_removed_ones_come_back_to_be_deleted() {
        let keys: Vec<String> = (0..6).map(|n| key("a", "s", n)).collect();
        let known = |k: &str| match keys.iter().position(|key| key == k) {
            Some(0 | 1) => Known::UnderWay,
            Some(2) => Known::Removed,
            _ => Known::No,
        };
        let (walk, _) = walk(Walk::new(None, 10, 10), &keys, 2, known);
        assert_eq!(walk.found.len(), 3);
        assert_eq!(walk.returned, [key("a", "s", 2)]);
    }

    #[test]
    fn a_stream_with_a_million_objects_hides_no_other_and_costs_few_listings() {
        let mut keys: Vec<String> = (0..1_000_000).map(|n| key("busy", "s", n)).collect();
        keys.extend((0..5).map(|n| key("calm", "s", n)));
        let (walk, listings) = walk(Walk::new(None, 3_000, 10_000), &keys, 1_000, |_| Known::No);
        assert_eq!(per_project(&walk.found), BTreeMap::from([("busy", 3_000), ("calm", 5)]));
        assert!(listings <= 6, "{listings} listings");
    }

    #[test]
    fn what_one_walk_had_no_room_for_the_next_one_sees_first() {
        let keys: Vec<String> =
            ('a'..='f').flat_map(|p| (0..10).map(move |n| key(&p.to_string(), "s", n))).collect();
        let mut start = None;
        let mut seen = BTreeMap::new();
        for _ in 0..3 {
            let (walked, _) = walk(Walk::new(start.take(), 100, 25), &keys, 7, |_| Known::No);
            for (project, count) in per_project(&walked.found) {
                *seen.entry(project.to_owned()).or_insert(0) += count;
            }
            start = walked.resume_at();
        }
        assert_eq!(seen.len(), 6, "every project was seen within three walks: {seen:?}");
    }

    #[test]
    fn a_walk_that_begins_in_the_middle_sees_every_key_once() {
        let keys: Vec<String> =
            ('a'..='d').flat_map(|p| (0..10).map(move |n| key(&p.to_string(), "s", n))).collect();
        let (walked, _) = walk(Walk::new(Some("b/s0".to_owned()), 100, 1_000), &keys, 3, |_| Known::No);
        let mut found: Vec<&String> = walked.found.iter().map(|staged| &staged.key).collect();
        found.sort();
        assert_eq!(found, keys.iter().collect::<Vec<_>>());
    }
}
