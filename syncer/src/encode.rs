//! A batch's objects to its inserts: decode, number the lines, read the rows, put the unreadable ones aside,
//! lay the others out. A function of its inputs alone.

use std::collections::{BTreeMap, HashMap};

use arrow_schema::ArrowError;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use spillway_model::time::UnixMs;
use spillway_model::{Home, ObjectKey, ProjectId, Record, codec, read_row};

use crate::batch::{Attempt, BatchId, DeadRow, Member, Partition, Piece, RowSet};
use crate::dead::DeadLetter;
use crate::loaded::{Witnesses, witness};
use crate::transcode::{Body, Encoder};

/// What an object may expand to whatever its key promises.
const MAX_OBJECT_BYTES: u64 = 1 << 30;

/// A staged object as fetched.
#[derive(Debug, Clone)]
pub struct Source {
    /// Key relative to the prefix.
    pub key: String,
    /// The key's parts.
    pub parts: ObjectKey,
    /// Its bytes.
    pub bytes: Bytes,
    /// It is known to be unusable: it stands for its rows, and nobody looks inside again.
    pub damaged: Option<String>,
    /// It may have been loaded before: rows are wanted that stand for it.
    pub suspect: bool,
}

/// Reason of the dead letter that stands for a whole object.
pub const DAMAGED_OBJECT: &str = "damaged_object";

/// Which rows go into which insert.
#[derive(Debug, Clone, Copy)]
pub enum Layout<'a> {
    /// All rows, so many partitions to an insert.
    Narrow(usize),
    /// Exactly these.
    Pieces(&'a [RowSet]),
}

/// The outcome of [`encode`].
#[derive(Debug, Default)]
pub struct Encoded {
    /// The objects and the lines found in them.
    pub members: Vec<Member>,
    /// What to insert, and what the batch amounts to.
    pub attempt: Attempt,
    /// The bodies of the attempt's pieces.
    pub bodies: Vec<Body>,
    /// Unreadable rows with their bytes.
    pub letters: Vec<DeadLetter>,
    /// Earliest admission among the rows, for measuring lag.
    pub earliest: Option<UnixMs>,
    /// The rows that stand for each suspect, by its place, when the table is asked whether it was loaded before.
    pub witnesses: BTreeMap<usize, Witnesses>,
}

/// A row of a batch, as far as planning needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowInfo {
    /// Index into [`Survey::projects`].
    pub project: u32,
    /// Index into [`Survey::partitions`].
    pub partition: u32,
}

/// All rows of a batch by number.
#[derive(Debug, Default)]
pub struct Survey {
    /// One per line; `None`: unreadable.
    pub rows: Vec<Option<RowInfo>>,
    /// The projects that occur.
    pub projects: Vec<ProjectId>,
    /// The partitions that occur.
    pub partitions: Vec<Partition>,
}

/// A line, as [`lines`] hands it out.
#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack, and nearly always a row")]
enum Line<'a> {
    Row(&'a [u8], Result<Record<'a>, spillway_model::RowError>),
    /// The object can't be decoded; stands for that many rows.
    Damaged(u64, String),
}

/// Decodes the objects one after the other and hands out each line with its number and its object's place.
fn lines(sources: &[Source], mut with: impl FnMut(u32, usize, Line<'_>)) -> Vec<Member> {
    let mut number = 0_u32;
    let mut members = Vec::with_capacity(sources.len());
    for (place, source) in sources.iter().enumerate() {
        let first = number;
        let limit = usize::try_from(source.parts.raw_bytes.min(MAX_OBJECT_BYTES)).unwrap_or(usize::MAX);
        let decoded = match &source.damaged {
            Some(damage) => Err(damage.clone()),
            None => {
                codec::decode(source.parts.version, &source.bytes, limit).map_err(|error| error.to_string())
            }
        };
        match decoded {
            Ok(raw) => {
                for line in raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    with(number, place, Line::Row(line, read_row(line)));
                    number = number.saturating_add(1);
                }
            }
            Err(error) => {
                let rows = source.parts.rows.clamp(1, 1 << 20);
                with(number, place, Line::Damaged(rows, error));
                number = number.saturating_add(u32::try_from(rows).unwrap_or(u32::MAX));
            }
        }
        members.push(Member { key: source.key.clone(), rows: u64::from(number - first) });
    }
    members
}

fn partition(record: &Record<'_>) -> Partition {
    Partition { day: record.timestamp.day(), retention_days: record.retention_days }
}

/// Hands out the rows of an object that can be loaded.
pub(crate) fn records(source: &Source, mut with: impl FnMut(Partition, &Record<'_>)) {
    lines(std::slice::from_ref(source), |_, _, line| {
        if let Line::Row(_, Ok(record)) = line
            && ProjectId::check(&record.project_id).is_ok()
        {
            with(partition(&record), &record);
        }
    });
}

fn dead(row: u32, rows: u64, source: &Source, reason: &str, detail: String) -> DeadRow {
    let project = match &source.parts.home {
        Home::Stream { project, .. } => Some(project.clone()),
        Home::Packed => None,
    };
    DeadRow { row, rows, attempt: 0, project, reason: reason.to_owned(), detail }
}

/// Encodes a batch.
///
/// # Errors
/// When a column of one insert holds more than 2 GiB.
pub fn encode(
    id: BatchId,
    batch_id: &str,
    sources: &[Source],
    layout: Layout<'_>,
) -> Result<Encoded, ArrowError> {
    let mut out = Encoded::default();
    let mut makers: Vec<(Encoder, Vec<u32>, BTreeMap<Partition, u64>)> = Vec::new();
    if let Layout::Pieces(pieces) = layout {
        makers.resize_with(pieces.len(), Default::default);
    }
    let mut piece_of: HashMap<Partition, usize> = HashMap::new();
    let mut witnessed: Option<(usize, Partition)> = None;
    let mut totals: HashMap<(Partition, ProjectId), u64> = HashMap::new();
    let mut last: Option<((Partition, ProjectId), u64)> = None;
    out.members = lines(sources, |number, place, line| match line {
        Line::Row(_, Ok(record)) if ProjectId::check(&record.project_id).is_ok() => {
            let partition = partition(&record);
            let piece = match layout {
                Layout::Narrow(width) => {
                    let next = piece_of.len() / width.max(1);
                    *piece_of.entry(partition).or_insert(next)
                }
                Layout::Pieces(pieces) => match pieces.iter().position(|rows| rows.contains(number)) {
                    Some(piece) => piece,
                    None => return,
                },
            };
            if makers.len() <= piece {
                makers.resize_with(piece + 1, Default::default);
            }
            if sources[place].suspect && witnessed != Some((place, partition)) {
                witnessed = Some((place, partition));
                let rows = out.witnesses.entry(place).or_default();
                rows.entry(partition).or_insert_with(|| witness(&record));
            }
            let (encoder, rows, partitions) = &mut makers[piece];
            encoder.push(number, &record);
            rows.push(number);
            match &mut last {
                Some(((same, project), count))
                    if *same == partition && project.as_str() == record.project_id =>
                {
                    *count += 1;
                }
                _ => {
                    if let Some((key, count)) = last.take() {
                        *totals.entry(key).or_default() += count;
                    }
                    if let Ok(project) = ProjectId::parse(&record.project_id) {
                        last = Some(((partition, project), 1));
                    }
                }
            }
            *partitions.entry(partition).or_default() += 1;
            let received = record.received_at;
            out.earliest = Some(out.earliest.map_or(received, |earliest| earliest.min(received)));
        }
        Line::Row(raw, read) => {
            let source = &sources[place];
            let (reason, detail) = match read {
                Ok(record) => ("bad_project", format!("{:?} is no project name", record.project_id)),
                Err(error) => (error.reason(), error.to_string()),
            };
            out.letters.push(DeadLetter::new(
                id,
                dead(number, 1, source, reason, detail),
                source.key.clone(),
                raw,
            ));
        }
        Line::Damaged(rows, detail) => {
            let source = &sources[place];
            let row = dead(number, rows, source, DAMAGED_OBJECT, detail);
            out.letters.push(DeadLetter::new(id, row, source.key.clone(), &source.bytes));
        }
    });
    if let Some((key, count)) = last {
        *totals.entry(key).or_default() += count;
    }
    let mut partitions: BTreeMap<Partition, u64> = BTreeMap::new();
    for ((partition, project), rows) in totals {
        *partitions.entry(partition).or_default() += rows;
        *out.attempt.projects.entry(project).or_default() += rows;
    }
    out.attempt.partitions = partitions.into_iter().collect();
    out.attempt.dead = out.letters.iter().map(|letter| letter.row.clone()).collect();
    for (encoder, rows, partitions) in makers {
        let body = encoder.finish(batch_id)?;
        out.attempt.pieces.push(Piece {
            rows: RowSet::from_sorted(rows),
            digest: hex::encode(Sha256::digest(&body.bytes)),
            partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
        });
        out.bodies.push(body);
    }
    Ok(out)
}

/// Looks at every row without laying it out.
#[must_use]
pub fn survey(sources: &[Source]) -> Survey {
    let mut out = Survey::default();
    lines(sources, |_, _, line| match line {
        Line::Row(_, Ok(record)) => {
            let Ok(project) = ProjectId::parse(&record.project_id) else { return out.rows.push(None) };
            let partition = partition(&record);
            let info = RowInfo {
                project: place(&mut out.projects, project),
                partition: place(&mut out.partitions, partition),
            };
            out.rows.push(Some(info));
        }
        Line::Row(_, Err(_)) => out.rows.push(None),
        Line::Damaged(rows, _) => out.rows.extend((0..rows).map(|_| None)),
    });
    out
}

/// The raw lines of these rows, with their objects' keys.
#[must_use]
pub fn raw_lines(sources: &[Source], rows: &RowSet) -> BTreeMap<u32, (String, Vec<u8>)> {
    let mut out = BTreeMap::new();
    lines(sources, |number, place, line| match line {
        Line::Row(raw, _) if rows.contains(number) => {
            out.insert(number, (sources[place].key.clone(), raw.to_vec()));
        }
        Line::Damaged(..) if rows.contains(number) => {
            out.insert(number, (sources[place].key.clone(), sources[place].bytes.to_vec()));
        }
        _ => {}
    });
    out
}

fn place<T: PartialEq>(values: &mut Vec<T>, value: T) -> u32 {
    let at = values.iter().rposition(|known| *known == value).unwrap_or_else(|| {
        values.push(value);
        values.len() - 1
    });
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The next attempt of a batch: `missing` rows, with the refused pieces cut up or put aside.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Its inserts.
    pub pieces: Vec<RowSet>,
    /// Rows put aside now.
    pub dead: Vec<u32>,
}

/// Decides the next attempt. A refused piece of which no row is in the table is cut by project first, so
/// that one project's poison leaves the others alone, then in halves, down to the row that is put aside.
/// `bury_whole`: refused pieces are put aside as they are.
#[must_use]
pub fn next_attempt(
    survey: &Survey,
    missing: &RowSet,
    refused: &[&RowSet],
    bury_whole: bool,
    width: usize,
) -> Next {
    let mut next = Next::default();
    let mut taken: Vec<u32> = Vec::new();
    for piece in refused {
        if piece.is_empty() || piece.iter().any(|row| !missing.contains(row)) {
            continue;
        }
        taken.extend(piece.iter());
        if piece.len() == 1 || bury_whole {
            next.dead.extend(piece.iter());
            continue;
        }
        let mut by_project: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for row in piece.iter() {
            let project =
                survey.rows.get(row as usize).copied().flatten().map_or(u32::MAX, |info| info.project);
            by_project.entry(project).or_default().push(row);
        }
        if by_project.len() > 1 {
            next.pieces.extend(by_project.into_values().map(RowSet::from_sorted));
        } else {
            let rows: Vec<u32> = piece.iter().collect();
            let (left, right) = rows.split_at(rows.len() / 2);
            next.pieces.extend([left, right].map(|half| RowSet::from_sorted(half.iter().copied())));
        }
    }
    taken.sort_unstable();
    let mut groups: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut order: Vec<u32> = Vec::new();
    for row in missing.iter().filter(|row| taken.binary_search(row).is_err()) {
        let Some(info) = survey.rows.get(row as usize).copied().flatten() else { continue };
        let at = place(&mut order, info.partition) as usize;
        groups.entry(at / width.max(1)).or_default().push(row);
    }
    next.pieces.extend(groups.into_values().map(RowSet::from_sorted));
    next
}

#[cfg(test)]
mod tests {
    use spillway_model::{FormatVersion, UnixNanos, write_row};

    use super::*;

    const ID: BatchId = BatchId { epoch: 1, number: 1 };
    const DAY: i64 = 86_400_000_000_000;

    fn row(project: &str, day: i64) -> Vec<u8> {
        let mut out = Vec::new();
        let project_id = project.to_owned().into();
        let timestamp = UnixNanos(20_000 * DAY + day * DAY);
        write_row(&mut out, &Record { project_id, timestamp, retention_days: 30, ..Record::default() });
        out
    }

    fn source(place: &str, number: u64, rows: &[Vec<u8>]) -> Source {
        let raw = rows.concat();
        let key =
            format!("{place}/20261122T171630123Z-pod-{number:010}-v1-{}-{}.json.gz", rows.len(), raw.len());
        let bytes = codec::encode(FormatVersion::V1, &raw, 1).unwrap().into();
        Source { parts: ObjectKey::parse(&key).unwrap(), key, bytes, damaged: None, suspect: false }
    }

    fn set(rows: impl IntoIterator<Item = u32>) -> RowSet {
        RowSet::from_sorted(rows)
    }

    #[test]
    fn a_replay_from_the_list_makes_the_bytes_that_were_made_first() {
        let rows = [row("a", 0), row("a", 1), row("a", 2), row("a", 0)];
        let sources = [source("a/s", 1, &rows), source("a/s", 2, &[row("a", 1)])];
        let first = encode(ID, "p-1", &sources, Layout::Narrow(2)).unwrap();
        let pieces: Vec<RowSet> = first.attempt.pieces.iter().map(|piece| piece.rows.clone()).collect();
        assert_eq!(pieces, [set([0, 1, 3, 4]), set([2])]);
        let again = encode(ID, "p-1", &sources, Layout::Pieces(&pieces)).unwrap();
        assert_eq!(again.attempt.pieces, first.attempt.pieces);
        let other = encode(ID, "p-2", &sources, Layout::Pieces(&pieces)).unwrap();
        assert_ne!(other.attempt.pieces, first.attempt.pieces, "the batch's id is part of the bytes");
    }

    #[test]
    fn unreadable_lines_keep_their_numbers_and_cost_no_other_row() {
        let broken = b"{\"broken\n".to_vec();
        let sources = [source("a/s", 1, &[row("a", 0), broken.clone(), row("a", 0)])];
        let encoded = encode(ID, "p-1", &sources, Layout::Narrow(8)).unwrap();
        assert_eq!(encoded.attempt.pieces[0].rows, set([0, 2]));
        assert_eq!(encoded.attempt.dead.iter().map(|dead| dead.row).collect::<Vec<_>>(), [1]);
        assert_eq!(encoded.letters[0].raw().unwrap(), broken.trim_ascii_end());
        assert_eq!(encoded.attempt.projects, BTreeMap::from([(ProjectId::parse("a").unwrap(), 2)]));
    }

    #[test]
    fn a_damaged_object_is_put_aside_whole_and_the_numbers_behind_it_stay() {
        let mut damaged = source("a/s", 1, &[row("a", 0), row("a", 0), row("a", 0)]);
        damaged.bytes = damaged.bytes.slice(..damaged.bytes.len() / 2);
        let sources = [damaged, source("b/s", 2, &[row("b", 0)])];
        let encoded = encode(ID, "p-1", &sources, Layout::Narrow(8)).unwrap();
        assert_eq!(encoded.attempt.pieces[0].rows, set([3]));
        let dead = &encoded.attempt.dead[0];
        assert_eq!((dead.row, dead.rows, dead.reason.as_str()), (0, 3, DAMAGED_OBJECT));
    }

    #[test]
    fn an_object_that_breaks_the_encoder_is_put_aside_like_a_damaged_one() {
        let rows = [row("a", 0), row("a", 0)];
        let mut sources = [source("a/s", 1, &rows), source("b/s", 2, &[row("b", 0)])];
        sources[0].damaged = Some("the encoder gave up".to_owned());
        let encoded = encode(ID, "p-1", &sources, Layout::Narrow(8)).unwrap();
        assert_eq!(encoded.attempt.pieces[0].rows, set([2]));
        assert_eq!(encoded.attempt.dead[0].rows, 2);
        assert_eq!(encoded.letters[0].raw().unwrap(), sources[0].bytes);
    }

    #[test]
    fn a_suspect_is_witnessed_by_the_first_row_of_each_of_its_partitions_and_others_by_none() {
        let mut suspect =
            source("a/s", 2, &[row("a", 1), row("a", 0), row("a", 1), row("a", 0), row("a", 2)]);
        suspect.suspect = true;
        let sources = [source("a/s", 1, &[row("a", 0)]), suspect];
        let encoded = encode(ID, "p-1", &sources, Layout::Narrow(1)).unwrap();
        assert_eq!(encoded.witnesses.keys().collect::<Vec<_>>(), [&1]);
        let rows = &encoded.witnesses[&1];
        let days: Vec<i32> = rows.keys().map(|partition| partition.day.0 - 20_000).collect();
        assert_eq!(days, [0, 1, 2]);
        assert_eq!(*rows, crate::loaded::witnesses(&sources[1]));
        for (partition, row) in rows {
            assert!(row.timestamp.starts_with(&partition.day.date()), "{row:?} is not of {partition:?}");
        }
        assert_eq!(crate::loaded::all_rows(&sources[1]).len(), 5);
    }

    /// Rows 0-3 belong to a, 4-5 to b.
    fn two_projects() -> Survey {
        let rows = [row("a", 0), row("a", 0), row("a", 0), row("a", 0), row("b", 0), row("b", 0)];
        survey(&[source("_packed", 1, &rows)])
    }

    #[test]
    fn the_next_attempt_cuts_by_project_then_in_halves_then_puts_the_row_aside() {
        let survey = two_projects();
        let all = set(0..6);
        let cases = [
            ("nothing refused", all.clone(), vec![], false, vec![set(0..6)], vec![]),
            ("two projects", all.clone(), vec![set(0..6)], false, vec![set(0..4), set(4..6)], vec![]),
            (
                "one project",
                all.clone(),
                vec![set(0..4)],
                false,
                vec![set(0..2), set(2..4), set(4..6)],
                vec![],
            ),
            ("one row", set([1, 4]), vec![set([1])], false, vec![set([4])], vec![1]),
            ("budget spent", set(0..4), vec![set(0..4)], true, vec![], vec![0, 1, 2, 3]),
            ("partly in the table", set([2, 3]), vec![set(0..4)], false, vec![set([2, 3])], vec![]),
        ];
        for (name, missing, refused, bury_whole, pieces, dead) in cases {
            let refused: Vec<&RowSet> = refused.iter().collect();
            let next = next_attempt(&survey, &missing, &refused, bury_whole, 8);
            assert_eq!(next, Next { pieces, dead }, "{name}");
        }
    }
}
