use spillway_model::time::Day;

use super::*;

fn id(number: u64) -> BatchId {
    BatchId { epoch: 3, number }
}

/// Four objects and ten rows.
fn batch(rows: u64, left: u64, shares: &[u64]) -> Remains {
    Remains {
        created: UnixMs(5),
        attempt: 0,
        expected: 10,
        rows,
        complete: rows == 10,
        objects: 4,
        left,
        shares: shares.iter().map(|other| (id(*other), "p/s/shared".to_owned())).collect(),
    }
}

fn decided(all: &[Remains], settled: bool) -> Result<Vec<Fate>, Undecided> {
    let all = (1..).map(id).zip(all.iter().cloned()).collect();
    decide(&all, settled).map(|fates| fates.into_values().collect())
}

#[test]
fn a_batch_goes_on_where_its_objects_and_rows_say_that_it_was() {
    let gone = || Fate::Dropped(Why::ObjectsGone);
    let expired = Remains { complete: true, ..batch(0, 0, &[]) };
    for (what, batch, fate) in [
        ("planned, or never swapped in", batch(0, 4, &[]), Fate::Open),
        ("half of it inserted", batch(5, 4, &[]), Fate::Open),
        ("inserted; nobody knows about its views", batch(10, 4, &[]), Fate::Open),
        ("being deleted", batch(10, 2, &[]), Fate::Inserted),
        ("removed", batch(10, 0, &[]), Fate::Removed),
        ("removed, and its rows expired", expired, Fate::Removed),
        ("rows and objects are missing: somebody has to look", batch(5, 2, &[]), Fate::Open),
        ("rows lost, or loaded by another batch", batch(0, 0, &[]), gone()),
        ("the same, with objects that wait to be loaded", batch(0, 2, &[]), gone()),
    ] {
        assert_eq!(decided(&[batch], true), Ok(vec![fate]), "{what}");
    }
}

#[test]
fn of_two_lists_of_an_object_the_one_without_rows_goes() {
    let dropped = |other| Fate::Dropped(Why::ObjectsIn(id(other)));
    for (what, first, second, fates) in [
        ("an orphan and its successor", batch(0, 4, &[2]), batch(10, 4, &[1]), [dropped(2), Fate::Open]),
        ("neither was inserted", batch(0, 4, &[2]), batch(0, 4, &[1]), [dropped(2), Fate::Open]),
        (
            "a later one that took a loaded object",
            batch(10, 4, &[2]),
            batch(0, 4, &[1]),
            [Fate::Open, dropped(1)],
        ),
        ("the successor is gone already", batch(0, 1, &[2]), batch(10, 0, &[1]), [dropped(2), Fate::Removed]),
    ] {
        assert_eq!(decided(&[first, second], true), Ok(fates.to_vec()), "{what}");
    }
}

#[test]
fn an_object_in_two_batches_that_both_have_rows_is_left_to_people() {
    let error = decided(&[batch(3, 4, &[2]), batch(10, 4, &[1])], true).unwrap_err();
    assert_eq!(error, Undecided::LoadedTwice { batches: [id(1), id(2)], key: "p/s/shared".to_owned() });
}

#[test]
fn no_batch_is_dropped_before_everything_under_way_has_ended() {
    assert_eq!(decided(&[batch(0, 4, &[2]), batch(10, 4, &[1])], false), Err(Undecided::Wait));
    assert_eq!(decided(&[batch(0, 0, &[])], false), Err(Undecided::Wait));
    assert_eq!(decided(&[batch(0, 4, &[])], false), Ok(vec![Fate::Open]));
}

#[test]
fn an_attempt_that_puts_rows_aside_counts_with_its_dead_letters() {
    let plain = |number| Written { number, buries: false, buried: false };
    let buries = |number, buried| Written { number, buries: true, buried };
    for (attempts, objects_gone, last) in [
        (vec![], false, 0),
        (vec![plain(7), plain(9)], false, 9),
        (vec![plain(7), buries(9, false)], false, 7),
        (vec![buries(9, false)], false, 0),
        (vec![plain(7), buries(9, true)], false, 9),
        (vec![plain(7), buries(9, false)], true, 9),
    ] {
        assert_eq!(last_attempt(&attempts, objects_gone), last, "{attempts:?}");
    }
}

#[test]
fn rows_whose_retention_is_over_are_not_missed() {
    let on = |day| Partition { day: Day(day), retention_days: 30 };
    let expected = [(on(100), 5), (on(101), 5)];
    let found = |rows: &[(i32, u64)]| rows.iter().map(|(day, rows)| (on(*day), *rows)).collect();
    for (found, today, complete) in [
        (found(&[(100, 5), (101, 5)]), 110, true),
        (found(&[(100, 5), (101, 4)]), 110, false),
        (found(&[(101, 5)]), 129, false),
        (found(&[(101, 5)]), 130, true),
        (found(&[]), 131, true),
    ] {
        assert_eq!(is_complete(&expected, &found, today), complete, "{found:?} {today}");
    }
}

#[test]
fn the_new_manifest_lies_above_all_that_was_and_past_every_old_token() {
    let batches: BTreeMap<_, _> = (1..)
        .map(id)
        .zip([batch(0, 4, &[]), batch(10, 2, &[]), batch(10, 0, &[]), batch(0, 0, &[])])
        .collect();
    let fates = decide(&batches, true).unwrap();
    let mut highest = Highest::default();
    highest.take(3, 4);
    highest.take(2, 70);
    highest.take_attempt((5 << 16) + 2);
    let made = manifest(Parts {
        pipeline: PipelineUid("p".into()),
        highest,
        batches: &batches,
        fates: &fates,
        unseen: UNSEEN_EPOCHS,
        nonce: "n".into(),
        window: 30_000,
        now: UnixMs(9),
    });
    assert_eq!((made.epoch, made.next_batch, made.released), (5 + UNSEEN_EPOCHS, 71, true));
    assert_eq!(made.batches.keys().copied().collect::<Vec<_>>(), [id(1), id(2)]);
    assert_eq!(made.removed.iter().map(|removed| removed.id).collect::<Vec<_>>(), [id(3)]);
    assert!(made.batches.values().all(|entry| made.window - entry.mark >= 30_000 / 2));
    assert_eq!(Manifest::parse(&made.to_bytes().unwrap()).unwrap(), made);
}

#[test]
fn the_pipelines_name_is_the_lists_or_else_the_tables() {
    let name = |text: &str| PipelineUid(text.to_owned());
    let lists = |names: &[Option<&str>]| -> BTreeSet<_> { names.iter().map(|text| text.map(name)).collect() };
    let table = |names: &[(&str, u64)]| -> BTreeMap<_, _> {
        names.iter().map(|(text, epoch)| (name(text), Highest { epoch: *epoch, number: 1 })).collect()
    };
    for (lists, table, expected) in [
        (lists(&[]), table(&[]), Some("new")),
        (lists(&[]), table(&[("a", 9), ("b", 4)]), Some("a")),
        (lists(&[Some("b")]), table(&[("a", 9), ("b", 4)]), Some("b")),
        (lists(&[Some("b")]), table(&[]), Some("b")),
        (lists(&[None]), table(&[("a", 9)]), Some("a")),
        (lists(&[None]), table(&[]), None),
        (lists(&[None, Some("a")]), table(&[("a", 9)]), None),
        (lists(&[Some("a"), Some("b")]), table(&[("a", 9)]), None),
    ] {
        let found = pipeline_of(&lists, &table, || name("new"));
        assert_eq!(found.ok(), expected.map(name), "{lists:?} {table:?}");
    }
}
