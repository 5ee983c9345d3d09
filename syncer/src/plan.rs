//! Which staged objects make up the next batch: every project with a backlog gets the same share of it, and
//! within a project the oldest objects go first.

use std::collections::{BTreeMap, VecDeque};

use spillway_model::time::UnixMs;

use crate::limits::Limits;
use crate::walk::{Staged, share_of};

/// Staged objects waiting to be planned, oldest first within each project.
#[derive(Debug, Default)]
pub struct Backlog {
    projects: BTreeMap<String, VecDeque<Staged>>,
    /// The project whose turn it was last: the next batch begins with the one after it.
    last: String,
}

impl Backlog {
    /// Replaces the backlog by what a walk found.
    pub fn replace(&mut self, mut found: Vec<Staged>) {
        found.sort_by(|a, b| (a.parts.time, &a.key).cmp(&(b.parts.time, &b.key)));
        self.projects.clear();
        for staged in found {
            let share = share_of(&staged).to_owned();
            self.projects.entry(share).or_default().push_back(staged);
        }
    }

    /// Objects waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.projects.values().map(VecDeque::len).sum()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.projects.is_empty()
    }

    /// Rows waiting.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.projects.values().flatten().map(|staged| staged.parts.rows).sum()
    }

    /// Raw bytes waiting.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.projects.values().flatten().map(|staged| staged.parts.raw_bytes).sum()
    }

    /// Time of the oldest waiting object.
    #[must_use]
    pub fn oldest(&self) -> Option<UnixMs> {
        self.projects.values().filter_map(|queue| queue.front()).map(|staged| staged.parts.time).min()
    }

    /// Takes the next batch out, or nothing while too little waits and none of it is old enough.
    pub fn take(&mut self, limits: &Limits, now: UnixMs) -> Vec<Staged> {
        let oldest = self.oldest().map_or(0, |oldest| now.0.saturating_sub(oldest.0));
        let young = u64::try_from(oldest).unwrap_or(0) < limits.batch_age;
        if young && self.rows() < limits.batch_rows && self.raw_bytes() < limits.batch_bytes {
            return Vec::new();
        }
        let mut batch = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        while let Some(project) = self.turn() {
            let Some(queue) = self.projects.get_mut(&project) else { break };
            let Some(front) = queue.front() else { break };
            let fits = rows + front.parts.rows <= limits.batch_rows
                && bytes + front.parts.raw_bytes <= limits.batch_bytes
                && batch.len() < limits.batch_objects;
            if !fits && !batch.is_empty() {
                break;
            }
            if let Some(staged) = queue.pop_front() {
                rows += staged.parts.rows;
                bytes += staged.parts.raw_bytes;
                batch.push(staged);
            }
            if queue.is_empty() {
                self.projects.remove(&project);
            }
            self.last = project;
        }
        // Objects of a stream side by side make runs of equal values, which encode and sort faster.
        batch.sort_by(|a, b| a.key.cmp(&b.key));
        batch
    }

    fn turn(&self) -> Option<String> {
        let after = (std::ops::Bound::Excluded(&self.last), std::ops::Bound::Unbounded);
        let next = self.projects.range::<String, _>(after).next().or_else(|| self.projects.iter().next());
        next.map(|(project, _)| project.clone())
    }
}

#[cfg(test)]
mod tests {
    use spillway_model::ObjectKey;

    use super::*;

    fn staged(project: &str, ms: i64, rows: u64) -> Staged {
        let time = UnixMs(1_795_000_000_000 + ms);
        let mut text = String::new();
        time.write_compact(&mut text);
        let key = format!("{project}/s/{text}-pod-{ms:010}-v1-{rows}-{}.json.gz", rows * 100);
        Staged { parts: ObjectKey::parse(&key).unwrap(), key }
    }

    fn limits(rows: u64) -> Limits {
        Limits { batch_rows: rows, ..Limits::default() }
    }

    fn projects(batch: &[Staged]) -> Vec<String> {
        batch.iter().map(|staged| share_of(staged).to_owned()).collect()
    }

    #[test]
    fn a_project_with_a_huge_backlog_gets_no_more_of_a_batch_than_the_others() {
        let mut backlog = Backlog::default();
        let busy = (0..1_000).map(|n| staged("busy", n, 10));
        backlog.replace(busy.chain((0..3).map(|n| staged("calm", 5_000 + n, 10))).collect());
        let batch = backlog.take(&limits(60), UnixMs(0));
        assert_eq!(projects(&batch).iter().filter(|project| *project == "calm").count(), 3);
    }

    #[test]
    fn the_oldest_objects_of_a_project_go_first() {
        let mut backlog = Backlog::default();
        backlog.replace([3, 1, 2].map(|n| staged("a", n, 10)).to_vec());
        let batch = backlog.take(&limits(20), UnixMs(0));
        assert_eq!(batch, [staged("a", 1, 10), staged("a", 2, 10)]);
        assert_eq!(backlog.take(&limits(20), UnixMs(0)), [staged("a", 3, 10)]);
        assert!(backlog.take(&limits(20), UnixMs(0)).is_empty());
    }

    #[test]
    fn an_object_larger_than_a_batch_is_a_batch_of_its_own() {
        let mut backlog = Backlog::default();
        backlog.replace(vec![staged("a", 1, 500), staged("a", 2, 5)]);
        assert_eq!(backlog.take(&limits(20), UnixMs(0)).len(), 1);
        assert_eq!(backlog.take(&limits(20), UnixMs(0)).len(), 1);
    }

    #[test]
    fn a_small_batch_waits_until_its_oldest_object_is_old_enough() {
        let mut backlog = Backlog::default();
        backlog.replace(vec![staged("a", 0, 5)]);
        let limits = Limits { batch_age: 500, ..limits(20) };
        let born = 1_795_000_000_000;
        assert!(backlog.take(&limits, UnixMs(born + 499)).is_empty());
        assert_eq!(backlog.take(&limits, UnixMs(born + 500)).len(), 1);
    }
}
