//! Compares what was seen. Pure.

use std::collections::{BTreeMap, BTreeSet};

use spillway_model::UnixMs;
use spillway_syncer::{
    batch::{BatchList, Partition},
    manifest::State,
};

use super::{
    Check, Outcome,
    observe::{Pod, Seen, open},
};
use crate::{metrics, output::count};

/// Every check there is.
pub fn judge(seen: &Seen, allow_expired: bool) -> Vec<Check> {
    vec![
        pods(seen),
        staged_is_accounted_for(seen),
        open_objects_exist(seen),
        one_batch_per_object(seen),
        numbers(seen),
        table_is_what_was_counted(seen, allow_expired),
        batches_are_whole(seen),
        views_equal_the_table(seen, allow_expired),
        keys_are_known(seen),
    ]
}

fn check(name: &'static str, good: bool, detail: String) -> Check {
    Check { name, result: if good { Outcome::Ok } else { Outcome::Failed }, detail }
}

fn sum(pod: &Pod, name: &str) -> u64 {
    metrics::sum(&pod.scrape.samples, name, &[]) as u64
}

fn staged_by(pod: &Pod) -> u64 {
    sum(pod, "spillway_ingest_staged_records_total")
}

/// Whether it answered with the figures of an ingest process. One that has received nothing so far has no sample, but
/// names the metric.
fn is_ingest(pod: &Pod) -> bool {
    const FAMILY: &str = "spillway_ingest_received_records";
    let named = pod.scrape.families.contains(FAMILY);
    named || pod.scrape.samples.iter().any(|sample| sample.name.strip_suffix("_total") == Some(FAMILY))
}

/// Per pod: received = rejected + staged + buffered + in flight + lost.
fn pods(seen: &Seen) -> Check {
    let name = "received = rejected + staged + buffered + in flight + lost, per pod";
    let mut details = Vec::new();
    let mut result = unseen(seen);
    for pod in &seen.pods {
        if !is_ingest(pod) {
            result = Outcome::Failed;
            details.push(format!(
                "{} has no spillway_ingest_received_records_total; name an ingest's admin address with --metrics",
                pod.url
            ));
            continue;
        }
        let received = sum(pod, "spillway_ingest_received_records_total");
        let lost = sum(pod, "spillway_ingest_lost_records_total");
        let parts = [
            sum(pod, "spillway_ingest_rejected_records_total"),
            staged_by(pod),
            sum(pod, "spillway_ingest_buffered_records"),
            sum(pod, "spillway_ingest_in_flight_records"),
            lost,
        ];
        result = result.max(if received != parts.iter().sum::<u64>() {
            Outcome::Failed
        } else if lost > 0 {
            Outcome::Warning
        } else {
            Outcome::Ok
        });
        let parts: Vec<String> = parts.iter().map(|part| count(*part)).collect();
        details.push(format!("{}: {} = {}", pod.url, count(received), parts.join(" + ")));
    }
    details.extend(seen.silent.iter().cloned());
    Check { name, result, detail: details.join("; ") }
}

/// Of checks that need every pod: what is left out of a sum can't be found missing.
fn unseen(seen: &Seen) -> Outcome {
    let all = seen.silent.is_empty() && !seen.pods.is_empty() && seen.pods.iter().all(is_ingest);
    if all { Outcome::Ok } else { Outcome::NotLookedAt }
}

/// What pods staged = loaded + dead letters + in flight + backlog. Pods that have ended staged as well, and so did
/// replays of dead letters: the right side may be more, never less.
fn staged_is_accounted_for(seen: &Seen) -> Check {
    let staged: u64 = seen.pods.iter().map(staged_by).sum();
    let loaded: u64 = seen.manifest.totals.values().map(|totals| totals.loaded).sum();
    let dead: u64 = seen.manifest.totals.values().map(|totals| totals.dead_lettered).sum();
    let in_flight: u64 = open(&seen.manifest)
        .filter_map(|id| seen.lists.get(&id))
        .flat_map(|list| &list.objects)
        .map(|member| member.rows)
        .sum();
    let known = known_keys(seen);
    let backlog: u64 =
        seen.staged.iter().filter(|key| !known.contains(&key.to_string())).map(|key| key.rows).sum();
    let detail = format!(
        "{} staged by {} pods; {} loaded + {} dead letters + {} in flight + {} backlog",
        count(staged),
        seen.pods.len(),
        count(loaded),
        count(dead),
        count(in_flight),
        count(backlog)
    );
    let result = if staged > loaded + dead + in_flight + backlog { Outcome::Failed } else { unseen(seen) };
    Check { name: "staged = loaded + dead letters + in flight + backlog", result, detail }
}

/// Keys that batches hold or held.
fn known_keys(seen: &Seen) -> BTreeSet<String> {
    seen.lists.values().flat_map(|list| &list.objects).map(|member| member.key.clone()).collect()
}

/// An open batch can't be loaded without its objects.
fn open_objects_exist(seen: &Seen) -> Check {
    let batches = open(&seen.manifest).count();
    let objects: usize =
        open(&seen.manifest).filter_map(|id| seen.lists.get(&id)).map(|list| list.objects.len()).sum();
    let detail = match seen.gone.first() {
        None => format!("{} objects of {batches} open batches", count(objects as u64)),
        Some(first) => {
            format!("{} of {} objects are gone, for instance {first}", seen.gone.len(), count(objects as u64))
        }
    };
    check("objects of open batches are in the bucket", seen.gone.is_empty(), detail)
}

fn one_batch_per_object(seen: &Seen) -> Check {
    let mut owners = BTreeMap::new();
    let mut shared = Vec::new();
    for (id, list) in &seen.lists {
        for member in &list.objects {
            if let Some(other) = owners.insert(&member.key, id) {
                shared.push(format!("{} is in {other} and {id}", member.key));
            }
        }
    }
    let detail = shared.first().cloned().unwrap_or_else(|| format!("{} objects", count(owners.len() as u64)));
    check("no object is in two batches", shared.is_empty(), detail)
}

/// Each process numbers its objects without gaps. One that is gone although nothing that was loaded has been
/// forgotten yet was either never written (the process died before it could) or has vanished.
fn numbers(seen: &Seen) -> Check {
    let name = "objects are numbered without gaps";
    let mut numbers: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let listed = seen.staged.iter().cloned();
    let planned = known_keys(seen).into_iter().filter_map(|key| spillway_model::ObjectKey::parse(&key).ok());
    for key in listed.chain(planned) {
        numbers.entry(key.incarnation.to_string()).or_default().insert(key.number);
    }
    let mut gaps = Vec::new();
    for (incarnation, numbers) in &numbers {
        let mut previous = None;
        for number in numbers {
            if let Some(previous) = previous
                && *number > previous + 1
            {
                gaps.push(format!("{incarnation} {}..{}", previous + 1, number - 1));
            }
            previous = Some(*number);
        }
    }
    let remembered = seen.lists.len() as u64;
    let complete = remembered + 1 == seen.manifest.next_batch;
    let detail = match gaps.first() {
        None => format!("{} processes", numbers.len()),
        Some(first) if complete => {
            format!(
                "{} gaps, for instance {first}: never written by a process that died, or vanished",
                gaps.len()
            )
        }
        Some(_) => format!("{} gaps, as is usual once loaded batches are forgotten", gaps.len()),
    };
    let result = if gaps.is_empty() || !complete { Outcome::Ok } else { Outcome::Warning };
    Check { name, result, detail }
}

/// The manifest's totals at one seq against the table's rows at that seq.
fn table_is_what_was_counted(seen: &Seen, allow_expired: bool) -> Check {
    let name = "the table holds what was counted as loaded";
    let (mut more, mut less, mut all) = (Vec::new(), Vec::new(), 0);
    let projects: BTreeSet<&String> = seen.manifest.totals.keys().chain(seen.table.keys()).collect();
    for project in projects {
        let loaded = seen.manifest.totals.get(project).map_or(0, |totals| totals.loaded);
        let rows = seen.table.get(project).copied().unwrap_or(0);
        all += loaded;
        let detail = || format!("{project}: {} loaded, {} in the table", count(loaded), count(rows));
        if rows > loaded {
            more.push(detail());
        } else if rows < loaded {
            less.push(detail());
        }
    }
    let result = match (more.is_empty(), less.is_empty()) {
        (true, true) => Outcome::Ok,
        (true, false) if allow_expired => Outcome::Warning,
        _ => Outcome::Failed,
    };
    let mut detail: Vec<String> = more;
    if !less.is_empty() {
        detail.append(&mut less);
        detail.push("fewer rows are expired (then add --allow-expired), deleted, or lost".to_owned());
    }
    if detail.is_empty() {
        detail.push(format!("{} records", count(all)));
    }
    Check { name, result, detail: detail.join("; ") }
}

/// Each row of a batch once, and all rows of a batch that counts as inserted, unless they may have expired since.
fn batches_are_whole(seen: &Seen) -> Check {
    let mut wrong = Vec::new();
    for (batch, (rows, distinct)) in &seen.batches {
        if rows != distinct {
            wrong.push(format!("{batch} has {} rows more than once", count(rows - distinct)));
        }
    }
    for (id, entry) in &seen.manifest.batches {
        if !matches!(entry.state, State::Inserted { .. }) {
            continue;
        }
        let name = id.in_table(&seen.manifest.pipeline);
        let rows = seen.batches.get(&name).map_or(0, |(rows, _)| *rows);
        let expired = seen.lists.get(id).map_or(u64::MAX, |list| may_be_expired(list, seen.at));
        if rows > entry.rows || rows < entry.rows.saturating_sub(expired) {
            wrong.push(format!("{name} has {} rows, not {}", count(rows), count(entry.rows)));
        }
    }
    let detail = wrong.first().cloned().unwrap_or_else(|| format!("{} batches", seen.batches.len()));
    check("each row of a batch is there once", wrong.is_empty(), detail)
}

/// Rows of partitions that the server may have dropped by now. An hour for clocks that differ.
fn may_be_expired(list: &BatchList, now: UnixMs) -> u64 {
    const MS_PER_HOUR: i64 = 3_600_000;
    let is_over = |partition: &Partition| {
        let last = i64::from(partition.day.0) + i64::from(partition.retention_days);
        last * 24 * MS_PER_HOUR <= now.0 + MS_PER_HOUR
    };
    list.first.partitions.iter().filter(|(partition, _)| is_over(partition)).map(|(_, rows)| rows).sum()
}

/// Inserts go on while views and table are read: a difference of a moment is no failure when the pipeline is busy.
/// What expires is dropped from the table and from a view's target at different times.
fn views_equal_the_table(seen: &Seen, allow_expired: bool) -> Check {
    let mut wrong: Vec<String> = seen
        .views
        .iter()
        .filter(|view| view.in_view != view.in_table)
        .map(|view| {
            format!(
                "{} of {}: {} in the view, {} in the table",
                view.view,
                view.project,
                count(view.in_view),
                count(view.in_table)
            )
        })
        .collect();
    let result = match (wrong.is_empty(), seen.busy || allow_expired) {
        (true, _) => Outcome::Ok,
        (false, true) => Outcome::Warning,
        (false, false) => Outcome::Failed,
    };
    if result == Outcome::Failed {
        wrong.push("rows that expire leave one before the other (then add --allow-expired)".to_owned());
    }
    let detail = if wrong.is_empty() { format!("{} figures", seen.views.len()) } else { wrong.join("; ") };
    Check { name: "views equal the table", result, detail }
}

/// The syncer leaves what it does not know where it is.
fn keys_are_known(seen: &Seen) -> Check {
    let name = "every key below the prefix is Spillway's own";
    let (result, detail) = match seen.foreign.first() {
        None => (Outcome::Ok, format!("{} staged objects", count(seen.staged.len() as u64))),
        Some(first) => (Outcome::Warning, format!("{} are not, for instance {first}", seen.foreign.len())),
    };
    Check { name, result, detail }
}

#[cfg(test)]
mod tests {
    use spillway_model::{Day, ObjectKey};
    use spillway_syncer::{
        batch::{Attempt, BatchId, Member, PipelineUid},
        manifest::{Entry, Manifest, Totals},
    };

    use super::*;
    use crate::audit::observe::ViewSeen;

    const ID: BatchId = BatchId { epoch: 1, number: 1 };
    const PARTITION: Partition = Partition { day: Day(100), retention_days: 30 };
    const MS_PER_DAY: i64 = 86_400_000;

    fn key(number: u64) -> String {
        format!("shop/web/20260131T000000000Z-pod-00-{number:010}-v1-10-1000.json.gz")
    }

    /// Three objects of ten rows; the first two were loaded by batch 1, the third waits.
    fn seen() -> Seen {
        let mut manifest = Manifest::first(PipelineUid("abc".into()), UnixMs(0));
        let inserted = State::Inserted { at: UnixMs(0) };
        let entry = Entry { state: inserted, attempt: 0, rows: 20, mark: 0, created: UnixMs(0) };
        manifest.batches.insert(ID, entry);
        manifest.next_batch = 2;
        manifest.totals.insert("shop".into(), Totals { loaded: 20, dead_lettered: 0 });
        let objects = [1, 2].map(|number| Member { key: key(number), rows: 10 }).to_vec();
        let list = BatchList {
            id: ID,
            pipeline: None,
            encoder: 1,
            created: UnixMs(0),
            shard: 1,
            objects,
            first: Attempt { partitions: vec![(PARTITION, 20)], ..Attempt::default() },
        };
        let metrics = "spillway_ingest_received_records_total{tenant=\"a\"} 35\n\
                       spillway_ingest_rejected_records_total{tenant=\"a\"} 3\n\
                       spillway_ingest_staged_records_total{tenant=\"a\",project=\"shop\"} 30\n\
                       spillway_ingest_buffered_records{tenant=\"a\",project=\"shop\"} 2\n";
        let view = ViewSeen { view: "error_rate", project: "shop".into(), in_view: 20, in_table: 20 };
        Seen {
            pods: vec![Pod { url: "pod".into(), scrape: metrics::parse(metrics) }],
            silent: Vec::new(),
            manifest,
            lists: [(ID, list)].into(),
            staged: [1, 2, 3].map(|number| ObjectKey::parse(&key(number)).unwrap()).to_vec(),
            foreign: Vec::new(),
            table: [("shop".to_owned(), 20)].into(),
            batches: [("abc-1-00000001".to_owned(), (20, 20))].into(),
            views: vec![view],
            gone: Vec::new(),
            busy: false,
            at: UnixMs(101 * MS_PER_DAY),
        }
    }

    /// Names of the checks that did not come out well.
    fn bad(change: impl FnOnce(&mut Seen)) -> Vec<(&'static str, Outcome)> {
        let mut seen = seen();
        change(&mut seen);
        let checks = judge(&seen, false);
        checks
            .iter()
            .filter(|check| check.result != Outcome::Ok)
            .map(|check| (check.name, check.result))
            .collect()
    }

    #[test]
    fn figures_that_fit_together_are_good() {
        assert_eq!(bad(|_| {}), []);
    }

    #[test]
    fn a_vanished_object_is_noticed() {
        let checks = bad(|seen| drop(seen.staged.pop()));
        assert_eq!(checks, [("staged = loaded + dead letters + in flight + backlog", Outcome::Failed)]);
    }

    #[test]
    fn a_gap_in_the_numbers_is_noticed_while_everything_loaded_is_remembered() {
        let far = |seen: &mut Seen| seen.staged.push(ObjectKey::parse(&key(9)).unwrap());
        assert_eq!(bad(far), [("objects are numbered without gaps", Outcome::Warning)]);
        let forgotten = |seen: &mut Seen| {
            far(seen);
            seen.manifest.next_batch = 100;
        };
        assert_eq!(bad(forgotten), []);
    }

    #[test]
    fn an_open_batch_without_its_objects_is_noticed() {
        let checks = bad(|seen| {
            if let Some(entry) = seen.manifest.batches.get_mut(&ID) {
                entry.state = State::Open;
            }
            seen.manifest.totals.clear();
            seen.table.clear();
            seen.gone.push(key(1));
        });
        assert_eq!(checks, [("objects of open batches are in the bucket", Outcome::Failed)]);
    }

    #[test]
    fn rows_too_many_and_too_few_are_noticed() {
        let name = "the table holds what was counted as loaded";
        for rows in [19, 21] {
            assert_eq!(bad(|seen| seen.table = [("shop".into(), rows)].into()), [(name, Outcome::Failed)]);
        }
    }

    #[test]
    fn a_doubled_row_is_noticed_even_if_the_sum_is_right() {
        let checks = bad(|seen| seen.batches = [("abc-1-00000001".into(), (20, 19))].into());
        assert_eq!(checks, [("each row of a batch is there once", Outcome::Failed)]);
    }

    #[test]
    fn a_view_that_counts_otherwise_is_noticed() {
        assert_eq!(bad(|seen| seen.views[0].in_view = 21), [("views equal the table", Outcome::Failed)]);
    }

    #[test]
    fn a_pod_that_lost_track_of_records_is_noticed() {
        let checks = bad(|seen| seen.pods[0].scrape.samples[0].value = 36.0);
        assert_eq!(checks[0].1, Outcome::Failed);
    }

    #[test]
    fn an_object_that_was_listed_and_loaded_since_counts_once() {
        let backlog = |change: fn(&mut Seen)| {
            let mut seen = seen();
            change(&mut seen);
            staged_is_accounted_for(&seen).detail
        };
        assert!(backlog(|_| {}).ends_with("20 loaded + 0 dead letters + 0 in flight + 10 backlog"));
        // The same one in an open batch.
        let planned = backlog(|seen| seen.manifest.batches.get_mut(&ID).unwrap().state = State::Open);
        assert!(planned.ends_with("20 in flight + 10 backlog"), "{planned}");
    }

    #[test]
    fn a_batch_that_lost_rows_is_noticed_until_they_may_have_expired() {
        let name = "each row of a batch is there once";
        for batches in [vec![("abc-1-00000001".to_owned(), (19, 19))], Vec::new()] {
            let lose = |seen: &mut Seen| seen.batches = batches.clone().into_iter().collect();
            assert_eq!(bad(lose), [(name, Outcome::Failed)]);
            let expired = |seen: &mut Seen| {
                lose(seen);
                seen.at = UnixMs(130 * MS_PER_DAY);
            };
            assert_eq!(bad(expired), []);
        }
    }

    #[test]
    fn a_difference_of_views_is_harmless_only_while_rows_come_or_expire() {
        let differ = |seen: &mut Seen| seen.views[0].in_view = 21;
        let busy = |seen: &mut Seen| {
            differ(seen);
            seen.busy = true;
        };
        assert_eq!(bad(busy), [("views equal the table", Outcome::Warning)]);
        let mut seen = seen();
        differ(&mut seen);
        assert_eq!(views_equal_the_table(&seen, true).result, Outcome::Warning);
    }

    #[test]
    fn a_pipeline_is_busy_when_a_batch_came_and_went_between_the_looks_but_not_when_its_writer_only_lives() {
        use crate::audit::observe::is_busy;
        let before = seen().manifest;
        let mut idle = before.clone();
        idle.seq += 1;
        assert!(!is_busy(&before, &idle));
        let mut later = idle.clone();
        later.next_batch += 1;
        assert!(is_busy(&before, &later));
        let mut open = idle;
        open.batches.get_mut(&ID).unwrap().state = State::Open;
        assert!(is_busy(&open, &before) && is_busy(&before, &open));
    }

    #[test]
    fn what_no_pod_was_asked_for_is_not_called_good() {
        let names = bad(|seen| {
            seen.pods.clear();
            seen.silent.push("nobody there".into());
        });
        assert_eq!(names.len(), 2);
        assert!(names.iter().all(|(_, result)| *result == Outcome::NotLookedAt), "{names:?}");
    }

    #[test]
    fn an_answer_without_the_figures_of_an_ingest_is_not_good_and_one_that_received_nothing_is() {
        let scrape = |text: &str| {
            let scrape = metrics::parse(text);
            bad(move |seen| seen.pods[0].scrape = scrape)
        };
        assert_eq!(scrape("spillway_syncer_up 1\n").first().map(|check| check.1), Some(Outcome::Failed));
        assert_eq!(scrape("# TYPE spillway_ingest_received_records counter\n"), []);
    }
}
