//! Compares what was seen. Pure.

use std::collections::{BTreeMap, BTreeSet};

use spillway_syncer::manifest::State;

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
        views_equal_the_table(seen),
        keys_are_known(seen),
    ]
}

fn check(name: &'static str, good: bool, detail: String) -> Check {
    Check { name, result: if good { Outcome::Ok } else { Outcome::Failed }, detail }
}

fn sum(pod: &Pod, name: &str) -> u64 {
    metrics::sum(&pod.samples, name, &[]) as u64
}

fn staged_by(pod: &Pod) -> u64 {
    sum(pod, "spillway_ingest_staged_records_total")
}

/// Per pod: received = rejected + staged + buffered + in flight + lost.
fn pods(seen: &Seen) -> Check {
    let name = "received = rejected + staged + buffered + in flight + lost, per pod";
    let mut details = Vec::new();
    let mut result = Outcome::Ok;
    for pod in &seen.pods {
        let received = sum(pod, "spillway_ingest_received_records_total");
        let lost = sum(pod, "spillway_ingest_lost_records_total");
        let parts = [
            sum(pod, "spillway_ingest_rejected_records_total"),
            staged_by(pod),
            sum(pod, "spillway_ingest_buffered_records"),
            sum(pod, "spillway_ingest_in_flight_records"),
            lost,
        ];
        if received != parts.iter().sum::<u64>() {
            result = Outcome::Failed;
        } else if lost > 0 && result == Outcome::Ok {
            result = Outcome::Warning;
        }
        let parts: Vec<String> = parts.iter().map(|part| count(*part)).collect();
        details.push(format!("{}: {} = {}", pod.url, count(received), parts.join(" + ")));
    }
    if details.is_empty() {
        details.push("no pods named; name them with --metrics".to_owned());
    }
    Check { name, result, detail: details.join("; ") }
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
        "{} staged by these pods; {} loaded + {} dead letters + {} in flight + {} backlog",
        count(staged),
        count(loaded),
        count(dead),
        count(in_flight),
        count(backlog)
    );
    check(
        "staged = loaded + dead letters + in flight + backlog",
        staged <= loaded + dead + in_flight + backlog,
        detail,
    )
}

/// Keys that batches hold or held.
fn known_keys(seen: &Seen) -> BTreeSet<String> {
    seen.lists.values().flat_map(|list| &list.objects).map(|member| member.key.clone()).collect()
}

/// An open batch can't be loaded without its objects.
fn open_objects_exist(seen: &Seen) -> Check {
    let there: BTreeSet<String> = seen.staged.iter().map(ToString::to_string).collect();
    let mut gone = Vec::new();
    let mut objects = 0;
    for id in &seen.still_open {
        for member in seen.lists.get(id).iter().flat_map(|list| &list.objects) {
            objects += 1;
            if !there.contains(&member.key) {
                gone.push(member.key.clone());
            }
        }
    }
    let detail = match gone.first() {
        None => format!("{} objects of {} open batches", count(objects), seen.still_open.len()),
        Some(first) => format!("{} of {} objects are gone, for instance {first}", gone.len(), count(objects)),
    };
    check("objects of open batches are in the bucket", gone.is_empty(), detail)
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

/// Each row of a batch once, and all rows of a batch that counts as inserted.
fn batches_are_whole(seen: &Seen) -> Check {
    let mut wrong = Vec::new();
    for (batch, (rows, distinct)) in &seen.batches {
        if rows != distinct {
            wrong.push(format!("{batch} has {} rows more than once", count(rows - distinct)));
        }
    }
    for (id, entry) in &seen.manifest.batches {
        let name = id.in_table(&seen.manifest.pipeline);
        let rows = seen.batches.get(&name).map_or(0, |(rows, _)| *rows);
        if matches!(entry.state, State::Inserted { .. }) && rows > entry.rows {
            wrong.push(format!("{name} has {} rows, not {}", count(rows), count(entry.rows)));
        }
    }
    let detail = wrong.first().cloned().unwrap_or_else(|| format!("{} batches", seen.batches.len()));
    check("each row of a batch is there once", wrong.is_empty(), detail)
}

/// Inserts go on while views and table are read: a difference of a moment is no failure when the pipeline is busy.
fn views_equal_the_table(seen: &Seen) -> Check {
    let busy = !seen.still_open.is_empty();
    let wrong: Vec<String> = seen
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
    let result = match (wrong.is_empty(), busy) {
        (true, _) => Outcome::Ok,
        (false, true) => Outcome::Warning,
        (false, false) => Outcome::Failed,
    };
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
    use spillway_model::{ObjectKey, UnixMs};
    use spillway_syncer::{
        batch::{Attempt, BatchId, BatchList, Member, PipelineUid},
        manifest::{Entry, Manifest, Totals},
    };

    use super::*;
    use crate::audit::observe::ViewSeen;

    const ID: BatchId = BatchId { epoch: 1, number: 1 };

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
            encoder: 1,
            created: UnixMs(0),
            shard: 1,
            objects,
            first: Attempt::default(),
        };
        let metrics = "spillway_ingest_received_records_total{tenant=\"a\"} 35\n\
                       spillway_ingest_rejected_records_total{tenant=\"a\"} 3\n\
                       spillway_ingest_staged_records_total{tenant=\"a\",project=\"shop\"} 30\n\
                       spillway_ingest_buffered_records{tenant=\"a\",project=\"shop\"} 2\n";
        let view = ViewSeen { view: "error_rate", project: "shop".into(), in_view: 20, in_table: 20 };
        Seen {
            pods: vec![Pod { url: "pod".into(), samples: metrics::parse(metrics) }],
            manifest,
            lists: [(ID, list)].into(),
            staged: [1, 2, 3].map(|number| ObjectKey::parse(&key(number)).unwrap()).to_vec(),
            foreign: Vec::new(),
            table: [("shop".to_owned(), 20)].into(),
            batches: [("abc-1-00000001".to_owned(), (20, 20))].into(),
            views: vec![view],
            still_open: Vec::new(),
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
            seen.still_open.push(ID);
            seen.staged.remove(0);
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
        let checks = bad(|seen| seen.pods[0].samples[0].value = 36.0);
        assert_eq!(checks[0].1, Outcome::Failed);
    }
}
