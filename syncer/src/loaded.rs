//! Whether a staged object was loaded before: asked of the table where no list tells, by rows of the object.

use std::collections::{BTreeMap, HashSet};

use spillway_model::Record;
use spillway_model::time::Day;
use spillway_schema::ledger::{self, Witness};
use spillway_schema::{ClickHouse, ClickHouseError, SchemaSpec};

use crate::batch::Partition;
use crate::encode::{Source, records};

/// Rows asked for in one question.
pub(crate) const ASKED: usize = 500;

/// The first readable row of each partition of an object. An insert takes effect partition by partition, so of a batch
/// that was half inserted any of an object's partitions may be the one that is there.
pub type Witnesses = BTreeMap<Partition, Witness>;

/// What the table has of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing.
    Nothing,
    /// Some rows; others that are not expired are missing.
    Partly,
    /// Every row, expired ones left out.
    Whole,
}

/// Judges by rows of the object, for each its partition and whether the table holds it. Of expired ones nobody can tell
/// whether they were ever there, so they alone prove nothing.
pub(crate) fn before(rows: impl IntoIterator<Item = (Partition, bool)>, today: Day) -> Before {
    let (mut some, mut all) = (false, true);
    for (partition, found) in rows {
        some |= found;
        all &= found || partition.is_expired(today);
    }
    match (some, all) {
        (false, _) => Before::Nothing,
        (true, false) => Before::Partly,
        (true, true) => Before::Whole,
    }
}

/// How a row is found again.
pub(crate) fn witness(record: &Record<'_>) -> Witness {
    let mut timestamp = Vec::new();
    record.timestamp.write_sql(&mut timestamp);
    Witness {
        project_id: record.project_id.to_string(),
        service: record.service.to_string(),
        severity: record.severity.name().to_owned(),
        timestamp: String::from_utf8_lossy(&timestamp).into_owned(),
        id: record.id.to_string(),
    }
}

/// The object's witnesses; none of one that can't be decoded.
pub(crate) fn witnesses(source: &Source) -> Witnesses {
    let mut found = Witnesses::new();
    records(source, |partition, record| {
        found.entry(partition).or_insert_with(|| witness(record));
    });
    found
}

/// All readable rows of the object.
pub(crate) fn all_rows(source: &Source) -> Vec<(Partition, Witness)> {
    let mut found = Vec::new();
    records(source, |partition, record| found.push((partition, witness(record))));
    found
}

/// Which of these rows the table holds.
///
/// # Errors
/// When the server gives no answer.
pub(crate) async fn find(
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
    rows: &[&Witness],
) -> Result<HashSet<Witness>, ClickHouseError> {
    let mut found = HashSet::new();
    for some in rows.chunks(ASKED) {
        let sql = ledger::find_witnesses(spec, some.iter().copied());
        found.extend(clickhouse.query_json::<Witness>(&sql, &ledger::read_settings(spec)).await?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_counts_as_loaded_when_all_its_partitions_are_there_that_are_not_expired() {
        const TODAY: Day = Day(100);
        let kept = |day| Partition { day: Day(day), retention_days: 30 };
        let (live, old) = (kept(71), kept(70));
        let brief = Partition { day: Day(71), retention_days: 7 };
        for (what, rows, expected) in [
            ("no row can be read", vec![], Before::Nothing),
            ("never loaded", vec![(live, false), (kept(72), false)], Before::Nothing),
            ("never loaded, and part of it expired", vec![(live, false), (old, false)], Before::Nothing),
            ("never loaded, and all of it expired", vec![(old, false), (brief, false)], Before::Nothing),
            ("loaded", vec![(live, true), (kept(72), true)], Before::Whole),
            ("loaded, and part of it was dropped", vec![(old, false), (live, true)], Before::Whole),
            ("loaded, expired and not yet dropped", vec![(old, true), (brief, false)], Before::Whole),
            ("only its first day was inserted", vec![(live, true), (kept(72), false)], Before::Partly),
            ("only its last day was inserted", vec![(live, false), (kept(72), true)], Before::Partly),
            ("only one tenant's retention was inserted", vec![(brief, true), (live, false)], Before::Partly),
            ("only what is expired is there", vec![(old, true), (live, false)], Before::Partly),
        ] {
            assert_eq!(before(rows, TODAY), expected, "{what}");
        }
    }
}
