//! Random interleavings of writers, faults and a server that may die between any two of its own steps. The
//! writers are the real [`Core`]; bucket and server are models of what was seen on the real ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use spillway_model::time::UnixMs;

use crate::batch::{BatchId, PipelineUid};
use crate::core::{Action, Core, Done, Identity, Loaded, Stop};
use crate::flight::{Inserted, Outline, Server, Task};
use crate::limits::Limits;
use crate::manifest::Manifest;
use crate::rebuild::{self, Highest, Parts, Remains, Undecided, Written};

type Tag = u64;
type Row = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    id: u32,
    partition: u8,
    poison: bool,
}

#[derive(Debug, Clone, Default)]
struct AttemptModel {
    pieces: Vec<Vec<Row>>,
    /// Rows put aside by this attempt or an earlier one.
    dead: BTreeSet<Row>,
    buries: Vec<Row>,
    /// Version of the encoder that made it.
    encoder: u32,
}

/// An insert on its way: in transit, then at the server, partition by partition.
#[derive(Debug, Clone)]
struct Pending {
    id: u64,
    batch: BatchId,
    token: (BatchId, u64, usize),
    rows: Vec<(Row, Record)>,
    arrived: bool,
    /// Partitions still to do; the flag: token already written, part not yet renamed.
    todo: VecDeque<(u8, bool)>,
    expires: u64,
    /// The server is stuck in the middle of it until then.
    frozen_until: u64,
}

struct World {
    rng: SmallRng,
    now: u64,
    next: u64,
    manifest: Option<(Arc<Manifest>, Tag)>,
    /// Since when it is lost.
    lost: Option<u64>,
    losses: u32,
    /// Batches whose control objects are deleted.
    forgotten: BTreeSet<BatchId>,
    objects: BTreeMap<String, Vec<Record>>,
    stalled: Vec<(String, Vec<Record>, u64)>,
    batches: BTreeMap<BatchId, (Vec<String>, Vec<Record>)>,
    attempts: BTreeMap<(BatchId, u64), AttemptModel>,
    graves: BTreeMap<(BatchId, u64), Vec<u32>>,
    table: BTreeMap<(BatchId, Row), (Record, u32)>,
    tokens: VecDeque<((BatchId, u64, usize), u8)>,
    window: usize,
    views: BTreeMap<(BatchId, u8), (u64, usize)>,
    pending: Vec<Pending>,
    results: BTreeMap<u64, Inserted>,
    /// The server refuses every insert as if its data were bad.
    shut: bool,
    /// Version of the encoder of writers that start now.
    encoder: u32,
    inserts: BTreeMap<BatchId, u32>,
    view_broken: bool,
    server_started: u64,
    faults: bool,
}

struct Writer {
    core: Core<Tag>,
    /// Actions under way; the insert's pending id once it was sent.
    out: Vec<(Action<Tag>, Option<u64>, u64)>,
    skew: i64,
    asleep_until: u64,
    encoder: u32,
}

fn outline(world: &World, id: BatchId, number: u64) -> Outline {
    let attempt = &world.attempts[&(id, number)];
    let records = &world.batches[&id].1;
    let window: usize = attempt
        .pieces
        .iter()
        .map(|piece| piece.iter().map(|&row| records[row].partition).collect::<BTreeSet<_>>().len())
        .sum();
    Outline {
        pieces: attempt.pieces.iter().map(|piece| piece.len() as u64).collect(),
        rows: (records.len() - attempt.dead.len()) as u64,
        window: window as u64,
        buries: !attempt.buries.is_empty(),
        totals: BTreeMap::new(),
    }
}

impl World {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn fault(&mut self, percent: u32) -> bool {
        self.faults && self.chance(percent)
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn full(&self, id: BatchId, number: u64) -> bool {
        let dead = &self.attempts[&(id, number)].dead;
        (0..self.batches[&id].1.len()).all(|row| dead.contains(&row) || self.table.contains_key(&(id, row)))
    }

    /// One step of one insert at the server.
    fn server_step(&mut self, index: usize) {
        if self.fault(5) {
            self.pending[index].frozen_until = self.now + self.rng.random_range(500..40_000);
        }
        let now = self.now;
        let pending = &mut self.pending[index];
        if pending.frozen_until > now {
            return;
        }
        if !pending.arrived {
            pending.arrived = true;
            if self.shut || pending.rows.iter().any(|(_, record)| record.poison) {
                let id = pending.id;
                self.results.insert(id, Inserted::BadData);
                self.pending.remove(index);
            }
            return;
        }
        let Some((partition, logged)) = pending.todo.front().copied() else {
            let id = pending.id;
            self.results.insert(id, Inserted::Yes);
            self.pending.remove(index);
            return;
        };
        let (batch, token) = (pending.batch, pending.token);
        let rows: Vec<_> =
            pending.rows.iter().filter(|(_, record)| record.partition == partition).copied().collect();
        if !logged {
            if self.tokens.contains(&(token, partition)) {
                pending.todo.pop_front();
                // A deduplicated block may be pushed to the views all the same.
                if self.rng.random_range(0..2) == 0 {
                    self.push_view(batch, partition, rows.len());
                }
                return;
            }
            pending.todo[0].1 = true;
            self.tokens.push_back((token, partition));
            if self.tokens.len() > self.window {
                self.tokens.pop_front();
            }
            return;
        }
        pending.todo.pop_front();
        for (row, record) in &rows {
            self.table.entry((batch, *row)).or_insert((*record, 0)).1 += 1;
        }
        if self.view_broken {
            let id = self.pending[index].id;
            self.results.insert(id, Inserted::Refused);
            self.pending.remove(index);
        } else if !self.fault(5) {
            self.push_view(batch, partition, rows.len());
        } else {
            let id = self.pending[index].id;
            self.results.insert(id, Inserted::Refused);
            self.pending.remove(index);
        }
    }

    fn push_view(&mut self, batch: BatchId, partition: u8, rows: usize) {
        let entry = self.views.entry((batch, partition)).or_insert((0, 0));
        if entry.0 == 0 {
            *entry = (0, rows);
        }
    }

    fn server_crash(&mut self) {
        self.server_started = self.now;
        for pending in std::mem::take(&mut self.pending) {
            if pending.arrived {
                self.results.insert(pending.id, Inserted::Unclear);
            } else {
                self.pending.push(pending);
            }
        }
    }

    fn tick(&mut self) {
        self.now += self.rng.random_range(1..400);
        let now = self.now;
        // Requests that never arrived are gone after the deadline: sockets and proxies time out.
        let (keep, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|p| p.arrived || p.expires > now);
        self.pending = keep;
        for pending in gone {
            self.results.insert(pending.id, Inserted::Unclear);
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stalled).into_iter().partition(|(.., at)| *at <= now);
        self.stalled = later;
        for (key, records, _) in due {
            self.objects.entry(key).or_insert(records);
        }
    }

    fn stage(&mut self, ids: std::ops::Range<u32>, poison: &BTreeSet<u32>) {
        let project = ["ant", "bee", "cat"][self.rng.random_range(0..3)];
        let records: Vec<Record> = ids
            .map(|id| Record { id, partition: self.rng.random_range(0..3), poison: poison.contains(&id) })
            .collect();
        let number = self.fresh();
        let key = format!(
            "{project}/api/20261122T1716{:05}Z-pod-{number:010}-v1-{}-100.json.gz",
            10_000 + number % 50_000,
            records.len()
        );
        if self.chance(20) {
            let at = self.now + self.rng.random_range(1_000..120_000);
            self.stalled.push((key.clone(), records.clone(), at));
        }
        self.objects.insert(key, records);
    }
}

impl World {
    fn lose_manifest(&mut self) {
        if self.manifest.take().is_some() {
            self.lost = Some(self.now);
            self.losses += 1;
        }
    }

    /// What an administrator has done sooner or later.
    fn rebuild_manifest(&mut self, limits: &Limits) {
        let Some(since) = self.lost else { return };
        let settled = self.now > since + limits.insert_deadline + limits.take_over_after;
        if settled && self.pending.iter().any(|pending| pending.arrived) {
            return;
        }
        let batches: BTreeMap<BatchId, Remains> = self
            .batches
            .keys()
            .filter(|id| !self.forgotten.contains(id))
            .map(|id| (*id, self.remains(*id)))
            .collect();
        let fates = match rebuild::decide(&batches, settled) {
            Ok(fates) => fates,
            Err(Undecided::Wait) => return,
            Err(error @ Undecided::LoadedTwice { .. }) => panic!("{error:?}"),
        };
        let mut highest = Highest::default();
        self.batches.keys().for_each(|id| highest.take(id.epoch, id.number));
        self.attempts.keys().for_each(|(_, number)| highest.take_attempt(*number));
        let nonce = format!("r{}", self.fresh());
        let manifest = rebuild::manifest(Parts {
            pipeline: PipelineUid("p".into()),
            highest,
            batches: &batches,
            fates: &fates,
            unseen: u64::from(self.losses) * 1_000,
            nonce,
            window: limits.window,
            now: UnixMs(0),
        });
        let tag = self.fresh();
        self.manifest = Some((Arc::new(manifest), tag));
        self.lost = None;
    }

    fn remains(&self, id: BatchId) -> Remains {
        let (keys, records) = &self.batches[&id];
        let left = keys.iter().filter(|key| self.objects.contains_key(*key)).count();
        let written: Vec<Written> = self
            .attempts
            .range((id, 1)..=(id, u64::MAX))
            .map(|((_, number), attempt)| Written {
                number: *number,
                buries: !attempt.buries.is_empty(),
                buried: self.graves.contains_key(&(id, *number)),
            })
            .collect();
        let attempt = rebuild::last_attempt(&written, left < keys.len());
        let shares =
            self.batches.iter().filter(|(other, _)| **other != id && !self.forgotten.contains(other));
        let shares = shares.filter_map(|(other, (theirs, _))| {
            keys.iter().find(|key| theirs.contains(key)).map(|key| (*other, key.clone()))
        });
        Remains {
            created: UnixMs(0),
            attempt,
            expected: (records.len() - self.attempts[&(id, attempt)].dead.len()) as u64,
            rows: (0..records.len()).filter(|row| self.table.contains_key(&(id, *row))).count() as u64,
            complete: self.full(id, attempt),
            objects: keys.len() as u64,
            left: left as u64,
            shares: shares.collect(),
        }
    }
}

impl Writer {
    fn new(world: &mut World, limits: &Limits) -> Self {
        let name = world.fresh();
        let me = Identity {
            nonce: format!("n{name}"),
            holder: format!("h{name}"),
            pipeline: PipelineUid("p".into()),
        };
        let skew = if world.chance(20) { 600_000 } else { 0 };
        Self {
            core: Core::new(limits.clone(), me),
            out: Vec::new(),
            skew,
            asleep_until: 0,
            encoder: world.encoder,
        }
    }

    fn wall(&self, world: &World) -> UnixMs {
        UnixMs(1_800_000_000_000 + i64::try_from(world.now).unwrap() + self.skew)
    }

    fn turn(&mut self, world: &mut World) {
        if world.now < self.asleep_until || self.core.stopped().is_some() {
            return;
        }
        let wall = self.wall(world);
        for action in self.core.poll(world.now, wall) {
            self.out.push((action, None, world.now));
        }
        if self.out.is_empty() {
            return;
        }
        let index = world.rng.random_range(0..self.out.len());
        let (action, sent, _) = self.out[index].clone();
        if let Some(pending) = sent {
            if let Some(result) = world.results.get(&pending).cloned() {
                self.out.remove(index);
                let Action::Task { id, .. } = action else { unreachable!() };
                let result = if world.fault(5) { Inserted::Unclear } else { result };
                self.core.done(world.now, wall, Done::Inserted(id, result));
            } else if world.fault(3) {
                // The client gives up, the server doesn't.
                self.out.remove(index);
                let Action::Task { id, .. } = action else { unreachable!() };
                self.core.done(world.now, wall, Done::Inserted(id, Inserted::Unclear));
            }
            return;
        }
        if let Some(done) = self.act(world, index) {
            self.out.remove(index);
            self.core.done(world.now, wall, done);
        }
    }

    fn act(&mut self, world: &mut World, index: usize) -> Option<Done<Tag>> {
        let (action, _, _) = self.out[index].clone();
        Some(match action {
            Action::ReadManifest => match world.manifest.clone() {
                _ if world.fault(5) => Done::ManifestUnread,
                Some((manifest, tag)) => Done::Manifest { manifest, tag, holder_dead: false },
                None => Done::NoManifest { fresh: world.lost.is_none() },
            },
            Action::Swap { expected, manifest } => {
                if world.fault(5) {
                    return Some(Done::SwapUnclear);
                }
                let current = world.manifest.as_ref().map(|(_, tag)| *tag);
                let mine = world.manifest.as_ref().is_some_and(|(there, _)| **there == *manifest);
                if mine {
                    return Some(Done::Swapped(current.unwrap()));
                }
                if current != expected {
                    return Some(Done::SwapLost);
                }
                let tag = world.fresh();
                world.manifest = Some((manifest, tag));
                if world.fault(5) { Done::SwapUnclear } else { Done::Swapped(tag) }
            }
            Action::Load(_) if world.fault(20) => Done::Loaded(Err(None)),
            Action::Load(ids) => Done::Loaded(Ok(ids
                .into_iter()
                .map(|(id, attempt)| Loaded {
                    id,
                    outline: outline(world, id, attempt),
                    keys: world.batches[&id].0.clone(),
                })
                .collect())),
            Action::List(after) => {
                let mut keys: Vec<String> = world
                    .objects
                    .keys()
                    .filter(|key| after.as_ref().is_none_or(|after| *key > after))
                    .cloned()
                    .collect();
                let more = keys.len() > 3;
                keys.truncate(3);
                Done::Page(if world.fault(3) { None } else { Some((keys, more)) })
            }
            Action::Prepare { id, objects } if world.fault(2) => {
                let keys = objects.into_iter().map(|staged| staged.key).take(1).collect();
                self.core.done(world.now, self.wall(world), Done::LeftOut(keys));
                Done::Prepared(id, None)
            }
            Action::Prepare { id, objects } => {
                if world.fault(5) || objects.iter().any(|staged| !world.objects.contains_key(&staged.key)) {
                    return Some(Done::Prepared(id, None));
                }
                let keys: Vec<String> = objects.into_iter().map(|staged| staged.key).collect();
                let records: Vec<Record> = keys.iter().flat_map(|key| world.objects[key].clone()).collect();
                let pieces = by_two_partitions(&records, (0..records.len()).collect());
                world.forgotten.remove(&id);
                world.batches.insert(id, (keys, records));
                world.attempts.insert(
                    (id, 0),
                    AttemptModel { pieces, encoder: self.encoder, ..AttemptModel::default() },
                );
                Done::Prepared(id, Some(outline(world, id, 0)))
            }
            Action::DropReturned(keys) => {
                for key in keys {
                    world.objects.remove(&key);
                }
                return self.forget(index);
            }
            Action::Forget(ids) => {
                world.forgotten.extend(ids.into_iter().map(|(id, _)| id));
                return self.forget(index);
            }
            Action::Task { id, task } => return self.task(world, index, id, task),
        })
    }

    fn forget(&mut self, index: usize) -> Option<Done<Tag>> {
        self.out.remove(index);
        None
    }

    fn task(&mut self, world: &mut World, index: usize, id: BatchId, task: Task) -> Option<Done<Tag>> {
        let current = self.core.flights().find(|flight| flight.id == id).map_or(0, |flight| flight.attempt);
        Some(match task {
            Task::Bury { attempt } => {
                let rows = &world.attempts[&(id, attempt)].buries;
                let ids = rows.iter().map(|&row| world.batches[&id].1[row].id).collect();
                world.graves.entry((id, attempt)).or_insert(ids);
                Done::Buried(id, !world.fault(5))
            }
            Task::Insert { attempt, piece, past_views: _ } => {
                if world.fault(5) {
                    return Some(Done::Inserted(id, Inserted::NotSent));
                }
                if world.attempts[&(id, attempt)].encoder != self.encoder {
                    return Some(Done::Inserted(id, Inserted::OtherBytes));
                }
                *world.inserts.entry(id).or_default() += 1;
                let records = &world.batches[&id].1;
                let rows: Vec<(Row, Record)> = world.attempts[&(id, attempt)].pieces[piece]
                    .iter()
                    .map(|&row| (row, records[row]))
                    .collect();
                let partitions: BTreeSet<u8> = rows.iter().map(|(_, record)| record.partition).collect();
                let pending = Pending {
                    id: world.fresh(),
                    batch: id,
                    token: (id, attempt, piece),
                    rows,
                    arrived: false,
                    todo: partitions.into_iter().map(|partition| (partition, false)).collect(),
                    expires: self.out[index].2 + 60_000,
                    frozen_until: 0,
                };
                self.out[index].1 = Some(pending.id);
                world.pending.push(pending);
                return None;
            }
            Task::Count if world.fault(5) => Done::Counted(id, None),
            Task::Count => Done::Counted(id, Some(world.full(id, current))),
            Task::AskRunning if world.fault(5) => Done::Running(id, None),
            Task::AskRunning => {
                let running = world.pending.iter().any(|pending| pending.arrived && pending.batch == id);
                Done::Running(id, Some(Server { running, up: world.now - world.server_started }))
            }
            Task::FindMissing { next, refused, bury_whole } => {
                if world.fault(5) {
                    return Some(Done::Missing(id, None));
                }
                let before = world.attempts[&(id, current)].clone();
                let records = world.batches[&id].1.clone();
                let missing: Vec<Row> = (0..records.len())
                    .filter(|row| !before.dead.contains(row) && !world.table.contains_key(&(id, *row)))
                    .collect();
                let mut attempt = AttemptModel {
                    dead: before.dead.clone(),
                    encoder: self.encoder,
                    ..AttemptModel::default()
                };
                let mut rest: BTreeSet<Row> = missing.iter().copied().collect();
                for piece in refused {
                    let rows = &before.pieces[piece];
                    if rows.iter().any(|row| !rest.contains(row)) {
                        continue;
                    }
                    rest.retain(|row| !rows.contains(row));
                    if rows.len() == 1 || bury_whole {
                        attempt.buries.extend(rows);
                        attempt.dead.extend(rows);
                    } else {
                        let (left, right) = rows.split_at(rows.len() / 2);
                        attempt.pieces.extend([left.to_vec(), right.to_vec()]);
                    }
                }
                attempt.pieces.extend(by_two_partitions(&records, rest.into_iter().collect()));
                let clash = world.attempts.insert((id, next), attempt);
                assert!(clash.is_none(), "attempt {next} of {id} written twice");
                Done::Missing(id, Some(outline(world, id, next)))
            }
            Task::Repair { version } => {
                if world.fault(5) || world.view_broken {
                    return Some(Done::Repaired(id, false));
                }
                for partition in 0..3 {
                    let rows = world
                        .table
                        .iter()
                        .filter(|((batch, _), (record, _))| *batch == id && record.partition == partition);
                    let rows = rows.count();
                    if rows > 0 {
                        let entry = world.views.entry((id, partition)).or_insert((0, 0));
                        if version >= entry.0 {
                            *entry = (version, rows);
                        }
                    }
                }
                Done::Repaired(id, !world.fault(5))
            }
            Task::Delete => {
                let keys = world.batches[&id].0.clone();
                for key in keys {
                    if world.fault(10) {
                        return Some(Done::Deleted(id, false));
                    }
                    world.objects.remove(&key);
                }
                Done::Deleted(id, !world.fault(5))
            }
        })
    }
}

fn by_two_partitions(records: &[Record], rows: Vec<Row>) -> Vec<Vec<Row>> {
    let (low, high): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|&row| records[row].partition < 2);
    [low, high].into_iter().filter(|piece| !piece.is_empty()).collect()
}

fn limits() -> Limits {
    Limits {
        concurrency: 3,
        batch_rows: 9,
        batch_objects: 3,
        queue: 6,
        window: 60,
        insert_deadline: 90_000,
        ..Limits::default()
    }
}

/// Runs one history, in which the manifest is lost up to so many times, and checks its end.
fn history(seed: u64, poison: &BTreeSet<u32>, losses: u32) {
    // Some windows pass within a history, some hold.
    let window = if seed.is_multiple_of(2) { 40 } else { 200 };
    let limits = Limits { window, ..limits() };
    let mut world = World {
        rng: SmallRng::seed_from_u64(seed),
        now: 0,
        next: 0,
        manifest: None,
        lost: None,
        losses: 0,
        forgotten: BTreeSet::new(),
        objects: BTreeMap::new(),
        stalled: Vec::new(),
        batches: BTreeMap::new(),
        attempts: BTreeMap::new(),
        graves: BTreeMap::new(),
        table: BTreeMap::new(),
        tokens: VecDeque::new(),
        window: usize::try_from(window).unwrap(),
        views: BTreeMap::new(),
        pending: Vec::new(),
        results: BTreeMap::new(),
        shut: false,
        encoder: 1,
        inserts: BTreeMap::new(),
        view_broken: false,
        server_started: 0,
        faults: true,
    };
    let mut writers = vec![Writer::new(&mut world, &limits)];
    let mut staged = 0_u32;
    let shut = world.rng.random_range(0..3_000);
    let shut = shut..shut + world.rng.random_range(0..600);
    for step in 0..3_000 {
        world.tick();
        if world.chance(4) && staged < 150 {
            let rows = world.rng.random_range(1..6);
            world.stage(staged..staged + rows, poison);
            staged += rows;
        }
        if world.chance(1) {
            world.server_crash();
        }
        if world.chance(1) {
            world.view_broken = !world.view_broken;
        }
        // Once in a history the server refuses everything for a while.
        world.shut = shut.contains(&step);
        if world.rng.random_range(0..1_000) == 0 {
            world.encoder += 1;
        }
        if world.losses < losses && world.rng.random_range(0..500) == 0 {
            world.lose_manifest();
        }
        if world.lost.is_some() && world.chance(2) {
            world.rebuild_manifest(&limits);
        }
        let pick = world.rng.random_range(0..writers.len());
        match world.rng.random_range(0..400) {
            // Killed: what it sent goes on without it.
            0..3 => {
                let gone = writers.remove(pick);
                drop(gone);
            }
            3..6 => writers[pick].asleep_until = world.now + world.rng.random_range(1_000..60_000),
            6 => writers[pick].core.stop(),
            _ => writers[pick].turn(&mut world),
        }
        writers.retain(|writer| writer.core.stopped().is_none());
        if writers.is_empty() || (writers.len() < 2 && world.chance(1)) {
            let writer = Writer::new(&mut world, &limits);
            writers.push(writer);
        }
        if !world.pending.is_empty() && world.chance(60) {
            let index = world.rng.random_range(0..world.pending.len());
            world.server_step(index);
        }
    }
    // From here on all is well, and the end must come.
    let mut later = 10_000;
    world.faults = false;
    world.view_broken = false;
    world.shut = false;
    for _ in 0..60_000 {
        world.tick();
        world.rebuild_manifest(&limits);
        for writer in &mut writers {
            writer.turn(&mut world);
        }
        writers.retain(|writer| writer.core.stopped().is_none());
        if writers.is_empty() {
            let writer = Writer::new(&mut world, &limits);
            writers.push(writer);
        }
        for _ in 0..100 {
            if world.pending.is_empty() {
                break;
            }
            let index = world.rng.random_range(0..world.pending.len());
            world.server_step(index);
        }
        // A lone refused row is put aside only once the server was seen to take another.
        let idle = world.manifest.as_ref().is_some_and(|(manifest, _)| manifest.batches.is_empty());
        if idle && world.objects.is_empty() && world.stalled.is_empty() {
            break;
        }
        if later < 10_300 && world.chance(2) {
            world.stage(later..later + 1, &BTreeSet::new());
            later += 1;
        }
    }
    verdict(&world, (0..staged).chain(10_000..later), poison);
}

fn verdict(world: &World, staged: impl Iterator<Item = u32>, poison: &BTreeSet<u32>) {
    let manifest = &world.manifest.as_ref().unwrap().0;
    assert!(manifest.batches.is_empty(), "batches left: {:?}", manifest.batches);
    assert!(world.objects.is_empty(), "objects left: {:?}", world.objects.keys());
    let most = world.inserts.values().max().copied().unwrap_or(0);
    assert!(most <= 2_000, "one batch was inserted {most} times: something goes round in circles");
    let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
    for (record, times) in world.table.values() {
        *seen.entry(record.id).or_default() += times;
    }
    let mut dead: BTreeMap<u32, u32> = BTreeMap::new();
    for ids in world.graves.values() {
        for record in ids {
            *dead.entry(*record).or_default() += 1;
        }
    }
    for id in staged {
        let loaded = seen.get(&id).copied().unwrap_or(0);
        let buried = dead.get(&id).copied().unwrap_or(0);
        if poison.contains(&id) {
            assert_eq!((loaded, buried), (0, 1), "poison record {id}");
        } else {
            assert_eq!((loaded, buried), (1, 0), "record {id}");
        }
    }
    let mut rows: BTreeMap<(BatchId, u8), usize> = BTreeMap::new();
    for ((batch, _), (record, _)) in &world.table {
        *rows.entry((*batch, record.partition)).or_default() += 1;
    }
    let views: BTreeMap<(BatchId, u8), usize> =
        world.views.iter().map(|(key, (_, rows))| (*key, *rows)).collect();
    assert_eq!(views, rows, "the views differ from the table");
}

/// The same histories each time, so that a change is judged and not the dice; `PROPTEST_RNG_SEED=<n>` and
/// `PROPTEST_CASES=<n>` look for others.
fn seed() -> RngSeed {
    match ProptestConfig::default().rng_seed {
        RngSeed::Random => RngSeed::Fixed(20_261_122),
        fixed => fixed,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, rng_seed: seed(), ..ProptestConfig::default() })]

    #[test]
    fn each_staged_record_is_in_the_table_and_the_views_once_whatever_happens(seed: u64) {
        history(seed, &BTreeSet::new(), 0);
    }

    #[test]
    fn a_record_that_the_server_refuses_becomes_one_dead_letter_and_costs_no_other(seed: u64, poison in proptest::collection::btree_set(0_u32..60, 1..4)) {
        history(seed, &poison, 0);
    }

    #[test]
    fn a_manifest_that_is_lost_and_made_anew_costs_no_record_and_doubles_none(seed: u64, poison in proptest::collection::btree_set(0_u32..60, 0..3)) {
        history(seed, &poison, 3);
    }
}

#[test]
fn a_writer_that_finds_a_newer_epoch_stops_for_good() {
    let limits = limits();
    let me =
        |name: &str| Identity { nonce: name.into(), holder: name.into(), pipeline: PipelineUid("p".into()) };
    let mut core: Core<Tag> = Core::new(limits, me("a"));
    let wall = UnixMs(0);
    assert!(matches!(core.poll(0, wall)[..], [Action::ReadManifest]));
    core.done(0, wall, Done::NoManifest { fresh: true });
    assert!(matches!(core.poll(0, wall)[..], [Action::Swap { expected: None, .. }]));
    core.done(0, wall, Done::Swapped(1));
    assert!(matches!(core.poll(0, wall)[..], [Action::Load(_)]));
    core.done(0, wall, Done::Loaded(Ok(Vec::new())));
    let heartbeat = core.poll(6_000, wall);
    assert!(heartbeat.iter().any(|action| matches!(action, Action::Swap { expected: Some(1), .. })));
    core.done(6_000, wall, Done::SwapLost);
    assert!(matches!(core.poll(6_000, wall)[..], [Action::ReadManifest]));
    let theirs = Manifest { epoch: 2, nonce: "b".into(), ..Manifest::clone(core.manifest()) };
    core.done(6_000, wall, Done::Manifest { manifest: Arc::new(theirs), tag: 2, holder_dead: false });
    assert_eq!(core.stopped(), Some(&Stop::Fenced));
    assert!(core.poll(7_000, wall).is_empty());
}

#[test]
fn a_missing_manifest_beside_data_stops_the_writer() {
    let me = Identity { nonce: "a".into(), holder: "a".into(), pipeline: PipelineUid("p".into()) };
    let mut core: Core<Tag> = Core::new(limits(), me);
    core.poll(0, UnixMs(0));
    core.done(0, UnixMs(0), Done::NoManifest { fresh: false });
    assert_eq!(core.stopped(), Some(&Stop::ManifestLost));
}

fn leader() -> Core<Tag> {
    let me = Identity { nonce: "a".into(), holder: "a".into(), pipeline: PipelineUid("p".into()) };
    let mut core: Core<Tag> = Core::new(limits(), me);
    let wall = UnixMs(0);
    core.poll(0, wall);
    core.done(0, wall, Done::NoManifest { fresh: true });
    core.poll(0, wall);
    core.done(0, wall, Done::Swapped(1));
    core.poll(0, wall);
    core.done(0, wall, Done::Loaded(Ok(Vec::new())));
    core
}

/// The same manifest as the core has in force, with another seq.
fn with_seq(core: &Core<Tag>, seq: u64) -> Arc<Manifest> {
    Arc::new(Manifest { seq, ..Manifest::clone(core.manifest()) })
}

#[test]
fn a_refused_swap_that_was_our_own_echo_does_not_stop_the_writer() {
    let wall = UnixMs(0);
    for (landed, tag) in [(true, 2), (false, 1)] {
        let mut core = leader();
        let before = core.manifest().seq;
        core.poll(6_000, wall);
        core.done(6_000, wall, Done::SwapLost);
        assert!(core.stopped().is_none());
        assert!(matches!(core.poll(6_000, wall)[..], [Action::ReadManifest]));
        let manifest = with_seq(&core, before + u64::from(landed));
        core.done(6_000, wall, Done::Manifest { manifest, tag, holder_dead: false });
        assert!(core.leading(), "landed: {landed}");
        let again = core.poll(12_000, wall);
        let expects =
            |action: &Action<Tag>| matches!(action, Action::Swap { expected: Some(t), .. } if *t == tag);
        assert!(again.iter().any(expects), "the next swap builds on what is there; landed: {landed}");
    }
}

#[test]
fn a_manifest_that_was_deleted_under_the_writer_is_reported_as_lost() {
    let wall = UnixMs(0);
    let mut core = leader();
    core.poll(6_000, wall);
    core.done(6_000, wall, Done::SwapLost);
    core.poll(6_000, wall);
    core.done(6_000, wall, Done::NoManifest { fresh: false });
    assert_eq!(core.stopped(), Some(&Stop::ManifestLost));
}

#[test]
fn while_one_project_is_refused_whole_others_are_still_tried() {
    let wall = UnixMs(1_900_000_000_000);
    let limits = Limits { concurrency: 1, batch_objects: 1, breaker: 3, window: 30_000, ..limits() };
    let me = Identity { nonce: "a".into(), holder: "a".into(), pipeline: PipelineUid("p".into()) };
    let mut core: Core<Tag> = Core::new(limits, me);
    core.poll(0, wall);
    core.done(0, wall, Done::NoManifest { fresh: true });
    let mut tag = 1;
    let mut prepared = BTreeSet::new();
    let mut now = 0;
    let keys: Vec<String> = (0..40)
        .map(|n| format!("bad/api/20261122T171600000Z-pod-{n:010}-v1-1-100.json.gz"))
        .chain(["good/api/20261122T171700000Z-pod-0000000099-v1-1-100.json.gz".to_owned()])
        .collect();
    let one = Outline { pieces: vec![1], rows: 1, window: 1, ..Outline::default() };
    let mut good = None;
    'time: while now < 3_600_000 {
        now += 500;
        for action in core.poll(now, wall) {
            let done = match action {
                Action::Swap { .. } => {
                    tag += 1;
                    Done::Swapped(tag)
                }
                Action::Load(_) => Done::Loaded(Ok(Vec::new())),
                Action::List(_) => Done::Page(Some((keys.clone(), false))),
                Action::Prepare { id, objects } => {
                    prepared.insert(id);
                    if objects.iter().any(|staged| staged.key.starts_with("good")) {
                        good = Some(id);
                    }
                    Done::Prepared(id, Some(one.clone()))
                }
                Action::Task { id, task: Task::Insert { .. } } if good == Some(id) => break 'time,
                Action::Task { id, task: Task::Insert { .. } } => Done::Inserted(id, Inserted::BadData),
                Action::Task { id, task: Task::Count } => Done::Counted(id, Some(false)),
                Action::Task { id, task: Task::AskRunning } => {
                    Done::Running(id, Some(Server { running: false, up: now }))
                }
                Action::Task { task, .. } => panic!("nothing may be put aside or cut: {task:?}"),
                _ => continue,
            };
            core.done(now, wall, done);
        }
    }
    assert!(good.is_some(), "{} batches were begun and the good one never was", prepared.len());
}

#[test]
fn rows_that_can_not_be_seen_are_not_inserted_for_ever() {
    let wall = UnixMs(1_900_000_000_000);
    let me = Identity { nonce: "a".into(), holder: "a".into(), pipeline: PipelineUid("p".into()) };
    let mut core: Core<Tag> = Core::new(Limits { window: 30_000, ..limits() }, me);
    core.poll(0, wall);
    core.done(0, wall, Done::NoManifest { fresh: true });
    let keys = vec!["a/api/20261122T171600000Z-pod-0000000001-v1-1-100.json.gz".to_owned()];
    let one = Outline { pieces: vec![1], rows: 1, window: 1, ..Outline::default() };
    let (mut tag, mut inserts, mut now) = (1, 0, 0);
    while now < 3_600_000 {
        now += 500;
        for action in core.poll(now, wall) {
            let done = match action {
                Action::Swap { .. } => {
                    tag += 1;
                    Done::Swapped(tag)
                }
                Action::Load(_) => Done::Loaded(Ok(Vec::new())),
                Action::List(_) => Done::Page(Some((keys.clone(), false))),
                Action::Prepare { id, .. } => Done::Prepared(id, Some(one.clone())),
                Action::Task { id, task: Task::Insert { .. } } => {
                    inserts += 1;
                    Done::Inserted(id, Inserted::Yes)
                }
                Action::Task { id, task: Task::Count } => Done::Counted(id, Some(false)),
                Action::Task { id, task: Task::AskRunning } => {
                    Done::Running(id, Some(Server { running: false, up: 1_000_000_000 }))
                }
                Action::Task { id, task: Task::FindMissing { .. } } => Done::Missing(id, Some(one.clone())),
                _ => continue,
            };
            core.done(now, wall, done);
        }
    }
    let state = &core.manifest().batches.values().next().expect("the batch is kept").state;
    assert_eq!(*state, crate::manifest::State::Stuck { reason: "RowsDoNotAppear".to_owned() });
    assert!(inserts <= 3, "{inserts} inserts");
}
