//! Compares what was sent with what ClickHouse holds.
//!
//! First by blocks of numbers: count, distinct count, sum and sum of squares of a block's numbers tell whether it
//! holds exactly the acknowledged ones. Only blocks that don't fit are read number by number.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use spillway_schema::{ClickHouse, ClickHouseError, sql::literal};

use super::{
    generator::{PRODUCER, RUN, SEQUENCE},
    record_set::Sent,
};

/// Numbers in a block.
const BLOCK: u64 = 1 << 16;
/// Examples of missing or doubled records that a verdict names.
const EXAMPLES: usize = 10;

/// What became of everything that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub sent: u64,
    pub acknowledged: u64,
    /// Sent without an answer that says what became of them: they may be there once, or not.
    pub unclear: u64,
    /// Rows of this run in the table.
    pub rows: u64,
    /// Acknowledged records that are not in the table.
    pub missing: u64,
    /// Rows beyond the first of a record.
    pub duplicated: u64,
    /// Rows of records that were refused or never sent.
    pub unexpected: u64,
    /// Acknowledged records that came into the table only after the time that was allowed.
    pub late: u64,
    /// `producer/number` of some of them.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Nothing missing, nothing twice, nothing that was not sent, and something to judge by.
    pub fn is_good(&self) -> bool {
        let is_blank = self.acknowledged == 0 && self.sent > 0;
        !is_blank && self.missing == 0 && self.duplicated == 0 && self.unexpected == 0
    }

    /// The line that scripts look for.
    pub fn line(&self) -> String {
        let word = if self.is_good() { "ok" } else { "FAILED" };
        let Self { sent, acknowledged, unclear, rows, missing, duplicated, unexpected, late, .. } = self;
        format!(
            "verdict: {word} sent={sent} acknowledged={acknowledged} rows={rows} missing={missing} \
             duplicated={duplicated} unexpected={unexpected} late={late} unclear={unclear}"
        )
    }
}

/// The numbers of one producer and block that the table holds, summed up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BlockSeen {
    pub producer: String,
    pub block: u64,
    pub rows: u64,
    pub distinct: u64,
    /// Modulo 2^64.
    pub sum: u64,
    /// Modulo 2^64.
    pub squares: u64,
}

/// How often the table holds one record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NumberSeen {
    pub number: u64,
    pub copies: u64,
}

/// Asks the table and compares.
///
/// # Errors
/// When ClickHouse can't be asked.
pub async fn judge(
    clickhouse: &ClickHouse,
    table: &str,
    run: &str,
    sent: &[Sent],
) -> Result<Verdict, ClickHouseError> {
    let blocks: Vec<BlockSeen> = clickhouse.query_json(&blocks_query(table, run), &[]).await?;
    let mut verdict = Verdict {
        sent: sent.iter().map(|producer| producer.count).sum(),
        acknowledged: sent.iter().map(Sent::acknowledged_total).sum(),
        unclear: sent.iter().map(Sent::unclear_total).sum(),
        rows: blocks.iter().map(|block| block.rows).sum(),
        ..Verdict::default()
    };
    for (producer, block) in doubtful(sent, &blocks) {
        let numbers: Vec<NumberSeen> =
            clickhouse.query_json(&numbers_query(table, run, &producer, block), &[]).await?;
        let nobody = Sent::new(producer.clone());
        let sent = sent.iter().find(|sent| sent.producer == producer).unwrap_or(&nobody);
        compare(sent, block, &numbers, &mut verdict);
    }
    Ok(verdict)
}

fn filter(run: &str) -> String {
    format!("attributes['{RUN}'] = {}", literal(run))
}

fn blocks_query(table: &str, run: &str) -> String {
    format!(
        "SELECT attributes['{PRODUCER}'] AS producer, intDiv(n, {BLOCK}) AS block, count() AS rows, \
         uniqExact(n) AS distinct, sum(n) AS sum, sum(n * n) AS squares FROM \
         (SELECT attributes, toUInt64OrZero(attributes['{SEQUENCE}']) AS n FROM {table} WHERE {}) \
         GROUP BY producer, block",
        filter(run)
    )
}

fn numbers_query(table: &str, run: &str, producer: &str, block: u64) -> String {
    format!(
        "SELECT toUInt64OrZero(attributes['{SEQUENCE}']) AS number, count() AS copies FROM {table} \
         WHERE {} AND attributes['{PRODUCER}'] = {} AND intDiv(number, {BLOCK}) = {block} GROUP BY number",
        filter(run),
        literal(producer)
    )
}

/// Producers and blocks of which it is not plain that they hold exactly what was acknowledged.
fn doubtful(sent: &[Sent], seen: &[BlockSeen]) -> BTreeSet<(String, u64)> {
    let mut expected: BTreeMap<(&str, u64), BlockSeen> = BTreeMap::new();
    for producer in sent {
        for number in (0..producer.count).filter(|number| producer.is_acknowledged(*number)) {
            let block = number / BLOCK;
            let entry = expected.entry((producer.producer.as_str(), block)).or_insert_with(|| BlockSeen {
                producer: producer.producer.clone(),
                block,
                rows: 0,
                distinct: 0,
                sum: 0,
                squares: 0,
            });
            entry.rows += 1;
            entry.distinct += 1;
            entry.sum = entry.sum.wrapping_add(number);
            entry.squares = entry.squares.wrapping_add(number.wrapping_mul(number));
        }
    }
    let mut doubtful = BTreeSet::new();
    for block in seen {
        let key = (block.producer.as_str(), block.block);
        if expected.remove(&key).as_ref() != Some(block) {
            doubtful.insert((block.producer.clone(), block.block));
        }
    }
    doubtful.extend(expected.into_values().map(|block| (block.producer, block.block)));
    doubtful
}

fn compare(sent: &Sent, block: u64, seen: &[NumberSeen], verdict: &mut Verdict) {
    let copies: BTreeMap<u64, u64> = seen.iter().map(|seen| (seen.number, seen.copies)).collect();
    let example = |verdict: &mut Verdict, what: &str, number: u64| {
        if verdict.examples.len() < EXAMPLES {
            verdict.examples.push(format!("{what} {}/{number}", sent.producer));
        }
    };
    for (number, copies) in &copies {
        if *copies > 1 {
            verdict.duplicated += copies - 1;
            example(verdict, "duplicated", *number);
        }
        if !sent.is_acknowledged(*number) && !sent.is_unclear(*number) {
            verdict.unexpected += 1;
            example(verdict, "unexpected", *number);
        }
    }
    for number in (block * BLOCK)..((block + 1) * BLOCK).min(sent.count) {
        if sent.is_acknowledged(number) && !copies.contains_key(&number) {
            verdict.missing += 1;
            example(verdict, "missing", number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A producer "p" that sent `count`, all acknowledged but the `unclear` ones.
    fn sent(count: u64, unclear: &[u64]) -> Sent {
        let mut sent = Sent::new("p".into());
        for number in 0..count {
            if unclear.contains(&number) { sent.unclear(number) } else { sent.acknowledge(number) }
        }
        sent
    }

    /// What the table says when it holds these numbers.
    fn seen(numbers: &[u64]) -> Vec<BlockSeen> {
        let mut blocks: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        numbers.iter().for_each(|number| blocks.entry(number / BLOCK).or_default().push(*number));
        let sum_up = |(block, numbers): (u64, Vec<u64>)| BlockSeen {
            producer: "p".into(),
            block,
            rows: numbers.len() as u64,
            distinct: numbers.iter().collect::<BTreeSet<_>>().len() as u64,
            sum: numbers.iter().sum(),
            squares: numbers.iter().fold(0, |sum, n| sum.wrapping_add(n.wrapping_mul(*n))),
        };
        blocks.into_iter().map(sum_up).collect()
    }

    fn judged(sent: &Sent, numbers: &[u64]) -> Verdict {
        let mut verdict = Verdict::default();
        for (_, block) in doubtful(std::slice::from_ref(sent), &seen(numbers)) {
            let mut copies: BTreeMap<u64, u64> = BTreeMap::new();
            numbers
                .iter()
                .filter(|number| *number / BLOCK == block)
                .for_each(|number| *copies.entry(*number).or_default() += 1);
            let read: Vec<_> =
                copies.into_iter().map(|(number, copies)| NumberSeen { number, copies }).collect();
            compare(sent, block, &read, &mut verdict);
        }
        verdict
    }

    #[test]
    fn what_is_there_once_is_good() {
        let all: Vec<u64> = (0..200_000).collect();
        let sent = sent(200_000, &[]);
        assert!(doubtful(std::slice::from_ref(&sent), &seen(&all)).is_empty());
        assert!(judged(&sent, &all).is_good());
    }

    #[test]
    fn a_missing_record_is_found_wherever_it_is() {
        for gone in [0, 65_535, 65_536, 199_999] {
            let numbers: Vec<u64> = (0..200_000).filter(|number| *number != gone).collect();
            let verdict = judged(&sent(200_000, &[]), &numbers);
            assert_eq!((verdict.missing, verdict.duplicated), (1, 0), "{gone}");
            assert_eq!(verdict.examples, [format!("missing p/{gone}")]);
        }
    }

    #[test]
    fn one_missing_and_one_twice_do_not_cancel_out() {
        let mut numbers: Vec<u64> = (0..1000).filter(|number| *number != 7).collect();
        numbers.push(8);
        let verdict = judged(&sent(1000, &[]), &numbers);
        assert_eq!((verdict.missing, verdict.duplicated), (1, 1));
    }

    #[test]
    fn a_whole_block_that_is_missing_is_missed() {
        let verdict = judged(&sent(70_000, &[]), &(0..65_536).collect::<Vec<_>>());
        assert_eq!(verdict.missing, 70_000 - 65_536);
    }

    #[test]
    fn an_unclear_record_may_be_there_or_not_but_never_twice() {
        let sent = sent(10, &[3, 4]);
        let mut numbers: Vec<u64> = (0..10).filter(|number| *number != 4).collect();
        assert!(judged(&sent, &numbers).is_good());
        numbers.push(3);
        assert_eq!(judged(&sent, &numbers).duplicated, 1);
    }

    #[test]
    fn a_refused_record_that_is_there_all_the_same_is_not_good() {
        let mut sent = sent(10, &[]);
        sent.refuse(10);
        let numbers: Vec<u64> = (0..11).collect();
        assert_eq!(judged(&sent, &numbers).unexpected, 1);
    }

    #[test]
    fn nothing_acknowledged_is_nothing_proven() {
        assert!(!Verdict { sent: 10, unclear: 10, ..Verdict::default() }.is_good());
        assert!(Verdict { sent: 10, acknowledged: 1, unclear: 9, ..Verdict::default() }.is_good());
        assert!(Verdict::default().is_good());
    }
}
