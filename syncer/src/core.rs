//! The writer: takes the pipeline over, lists, plans, carries each batch through its steps, and changes the
//! manifest by compare-and-swap. It does nothing itself: it is asked for [`Action`]s and told what became
//! of them, so that every interleaving can be tried in a test.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use spillway_model::time::UnixMs;

use crate::batch::{BatchId, PipelineUid};
use crate::flight::{Around, Flight, Inserted, Millis, Need, Outline, Server, Step, Task};
use crate::limits::Limits;
use crate::manifest::{Entry, Manifest, Removed, State};
use crate::plan::Backlog;
use crate::walk::{Known, Staged, Walk};

/// When a view is mended, hundreds of batches may want to repair it: not all at once.
const MOST_STUCK_AT_ONCE: usize = 4;

/// The first 16 bytes of a key's SHA-256: a million remembered keys cost 16 MB.
type KeyHash = [u8; 16];

/// Hash under which a key is remembered.
#[must_use]
pub fn key_hash(key: &str) -> KeyHash {
    let mut hash = [0; 16];
    hash.copy_from_slice(&Sha256::digest(key.as_bytes())[..16]);
    hash
}

/// Something to do outside.
#[derive(Debug, Clone)]
pub enum Action<Tag> {
    /// Read the manifest and say whether its holder can be seen to be dead.
    ReadManifest,
    /// Swap the manifest.
    Swap {
        /// The version that must be there; `None`: none may be there.
        expected: Option<Tag>,
        /// The new one.
        manifest: Arc<Manifest>,
    },
    /// Read the control objects of these batches (and attempts).
    Load(Vec<(BatchId, u64)>),
    /// List a page of keys after this one.
    List(Option<String>),
    /// Fetch and encode the objects, write the list object.
    Prepare {
        /// The batch that they become.
        id: BatchId,
        /// The objects.
        objects: Vec<Staged>,
    },
    /// A step of one batch.
    Task {
        /// The batch.
        id: BatchId,
        /// The step.
        task: Task,
    },
    /// Delete objects that were loaded before and came back.
    DropReturned(Vec<String>),
    /// Delete the control objects of batches that nothing names any more.
    Forget(Vec<(BatchId, u64)>),
}

/// What is known of a batch from its control objects.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The batch.
    pub id: BatchId,
    /// Its current attempt.
    pub outline: Outline,
    /// Its objects' keys.
    pub keys: Vec<String>,
}

/// What became of an action.
#[derive(Debug, Clone)]
pub enum Done<Tag> {
    /// The manifest; `holder_dead`: its holder is seen to be dead.
    Manifest {
        /// What was read.
        manifest: Arc<Manifest>,
        /// Its version.
        tag: Tag,
        /// See above.
        holder_dead: bool,
    },
    /// There is none. `fresh`: neither staged objects nor loaded rows nor control objects are there.
    NoManifest {
        /// See above.
        fresh: bool,
    },
    /// The manifest could not be read.
    ManifestUnread,
    /// The swap happened.
    Swapped(Tag),
    /// The swap found another version.
    SwapLost,
    /// The swap may have happened, or surely hasn't: it is tried again as it was.
    SwapUnclear,
    /// Control objects, or the ids of batches whose objects are gone.
    Loaded(Result<Vec<Loaded>, Option<BatchId>>),
    /// A page of keys and whether more follow; `None`: listing failed.
    Page(Option<(Vec<String>, bool)>),
    /// These objects can't be loaded, for a reason that lies with them: others go first for a while.
    LeftOut(Vec<String>),
    /// A batch was prepared; `None`: it could not be.
    Prepared(BatchId, Option<Outline>),
    /// A staged object that a batch needs is gone.
    Vanished(BatchId),
    /// See [`Task::Bury`].
    Buried(BatchId, bool),
    /// See [`Task::Insert`].
    Inserted(BatchId, Inserted),
    /// See [`Task::Count`].
    Counted(BatchId, Option<bool>),
    /// See [`Task::AskRunning`].
    Running(BatchId, Option<Server>),
    /// See [`Task::FindMissing`].
    Missing(BatchId, Option<Outline>),
    /// See [`Task::Repair`].
    Repaired(BatchId, bool),
    /// See [`Task::Delete`].
    Deleted(BatchId, bool),
}

/// Why the writer stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// It was asked to, and everything under way has ended.
    #[error("stopped in good order")]
    Released,
    /// Another writer took over.
    #[error("another syncer has taken the pipeline over; this one stops")]
    Fenced,
    /// The manifest is gone although data is there.
    #[error(
        "_spillway/manifest.json is missing although the bucket or the table holds data of this pipeline: beginning anew could load records twice. Restore it, or have it made anew from what is left (see docs/recovery.md): in a cluster with the annotation spillway.dev/rebuild-manifest=true on the LogPipeline, otherwise with --rebuild-manifest of spillway-syncer or of spillway up"
    )]
    ManifestLost,
    /// A control object is gone.
    #[error(
        "the list object of batch {0} is missing from _spillway/batches/; restore it, or follow docs/recovery.md"
    )]
    ListLost(BatchId),
}

/// Who this writer is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Random, new for each process.
    pub nonce: String,
    /// Host, boot and process.
    pub holder: String,
    /// The name of the pipeline, should it be new.
    pub pipeline: PipelineUid,
}

#[derive(Debug)]
enum Phase {
    /// The manifest is about to be read, at this time.
    Look(Millis),
    Looking,
    /// The take-over swap is under way.
    TakingOver,
    /// Control objects are about to be read, at this time.
    Load(Millis),
    Loading,
    /// A swap was lost: the manifest is read again to see to whom.
    Doubt(Millis),
    Doubting,
    Leading,
    Stopped(Stop),
}

/// Whether there is room for another batch.
enum Room {
    None,
    Probe,
    Some,
}

#[derive(Debug)]
struct Swapping {
    manifest: Arc<Manifest>,
    ids: Vec<BatchId>,
    begun: Millis,
    /// Not sent again before.
    retry_at: Option<Millis>,
    sent: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Core<Tag> {
    limits: Limits,
    me: Identity,
    phase: Phase,
    manifest: Arc<Manifest>,
    tag: Option<Tag>,
    /// Seq seen while another writer was alive, and since when.
    watched: Option<(u64, u64, Millis)>,
    swapping: Option<Swapping>,
    swap_failures: u32,
    last_swap: Millis,
    flights: BTreeMap<BatchId, Flight>,
    /// Keys of batches under way (`None`) and of removed ones (since when).
    keys: HashMap<KeyHash, Option<Millis>>,
    /// Objects that can't be loaded, and until when they are left out.
    shunned: HashMap<KeyHash, Millis>,
    keys_of: BTreeMap<BatchId, Vec<KeyHash>>,
    /// What the manifest's `window` was at recent swaps: how fast the deduplication window moves.
    window_moved: VecDeque<(Millis, u64)>,
    /// Removed batches and when to forget them.
    forget_at: BTreeMap<BatchId, Millis>,
    to_forget: Vec<(BatchId, u64)>,
    backlog: Backlog,
    walk: Option<Walk>,
    walk_begun: Millis,
    /// Streams with a backlog that the last walk saw.
    streams_seen: usize,
    /// Keys in the bucket that are no staged object's, as far as the last walk saw.
    foreign: BTreeSet<String>,
    listing: bool,
    next_list: Millis,
    list_pause: Millis,
    resume_at: Option<String>,
    /// Objects of the last complete walk that were not under way.
    last_seen: u64,
    next_number: u64,
    prepare_not_before: Millis,
    probe_not_before: Millis,
    prepare_failures: u32,
    refusals: BTreeSet<BatchId>,
    /// When the latest insert that the server took was sent.
    last_success: Option<Millis>,
    repairs: u64,
    stopping: bool,
    /// Give up what is under way: the successor settles it.
    at_once: bool,
    /// Loaded objects that a stalled PUT brought back.
    returned: Vec<String>,
}

impl<Tag: Clone + std::fmt::Debug> Core<Tag> {
    /// A writer that has yet to look at the manifest.
    #[must_use]
    pub fn new(limits: Limits, me: Identity) -> Self {
        let manifest = Arc::new(Manifest::first(me.pipeline.clone(), UnixMs(0)));
        Self {
            list_pause: limits.list_busy,
            limits,
            me,
            phase: Phase::Look(0),
            manifest,
            tag: None,
            watched: None,
            swapping: None,
            swap_failures: 0,
            last_swap: 0,
            flights: BTreeMap::new(),
            keys: HashMap::new(),
            shunned: HashMap::new(),
            keys_of: BTreeMap::new(),
            window_moved: VecDeque::new(),
            forget_at: BTreeMap::new(),
            to_forget: Vec::new(),
            backlog: Backlog::default(),
            walk: None,
            walk_begun: 0,
            streams_seen: 0,
            foreign: BTreeSet::new(),
            listing: false,
            next_list: 0,
            resume_at: None,
            last_seen: 0,
            next_number: 0,
            prepare_not_before: 0,
            probe_not_before: 0,
            prepare_failures: 0,
            refusals: BTreeSet::new(),
            last_success: None,
            repairs: 0,
            stopping: false,
            at_once: false,
            returned: Vec::new(),
        }
    }

    /// Ends what is under way and then stops.
    pub fn stop(&mut self) {
        self.stopping = true;
        if !matches!(self.phase, Phase::Leading | Phase::Stopped(_)) {
            self.phase = Phase::Stopped(Stop::Released);
        }
    }

    /// Stops without waiting for what is under way: it stays open for the successor to settle.
    pub fn stop_at_once(&mut self) {
        self.stop();
        self.at_once = true;
    }

    /// Set when the writer has stopped: nothing may be done any more.
    #[must_use]
    pub fn stopped(&self) -> Option<&Stop> {
        match &self.phase {
            Phase::Stopped(stop) => Some(stop),
            _ => None,
        }
    }

    /// Whether this writer owns the manifest.
    #[must_use]
    pub fn leading(&self) -> bool {
        matches!(self.phase, Phase::Leading)
    }

    /// The newest manifest that this writer knows to be in force.
    #[must_use]
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The batches under way.
    pub fn flights(&self) -> impl Iterator<Item = &Flight> {
        self.flights.values()
    }

    /// What waits to be planned.
    #[must_use]
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Staged objects that the last walk saw and that weren't under way then.
    #[must_use]
    pub fn backlog_seen(&self) -> u64 {
        self.last_seen.max(self.backlog.len() as u64)
    }

    /// Keys that are no staged object's: a few of them, for the status.
    #[must_use]
    pub fn foreign(&self) -> &BTreeSet<String> {
        &self.foreign
    }

    /// Whether refusals look like the server's fault.
    #[must_use]
    pub fn server_at_fault(&self) -> bool {
        self.refusals.len() >= self.limits.breaker
    }

    fn around(&self, now: Millis, id: BatchId) -> Around {
        let mark = self.manifest.batches.get(&id).map_or(self.manifest.window, |entry| entry.mark);
        Around {
            now,
            window_holds: self.manifest.window.saturating_sub(mark) < self.limits.window / 2,
            server_at_fault: self.server_at_fault(),
            last_success: self.last_success,
            repair_version: (self.manifest.epoch << 24) + self.repairs + 1,
            epoch: self.manifest.epoch,
        }
    }

    /// Everything that can be begun now.
    pub fn poll(&mut self, now: Millis, wall: UnixMs) -> Vec<Action<Tag>> {
        let mut actions = Vec::new();
        match self.phase {
            Phase::Look(at) if now >= at => {
                self.phase = Phase::Looking;
                actions.push(Action::ReadManifest);
            }
            Phase::Doubt(at) if now >= at => {
                self.phase = Phase::Doubting;
                actions.push(Action::ReadManifest);
            }
            Phase::Load(at) if now >= at => {
                self.phase = Phase::Loading;
                let batches = self.manifest.batches.iter().map(|(id, entry)| (*id, entry.attempt));
                let removed = self.manifest.removed.iter().map(|removed| (removed.id, removed.attempt));
                actions.push(Action::Load(batches.chain(removed).collect()));
            }
            Phase::TakingOver => self.push_swap(now, &mut actions),
            Phase::Load(_) | Phase::Loading => {
                // Reading many control objects takes long; others must see that this writer is alive.
                self.begin_swap(now, wall);
                self.push_swap(now, &mut actions);
            }
            Phase::Leading => {
                self.push_swap(now, &mut actions);
                if self.in_charge(now) {
                    self.push_tasks(now, &mut actions);
                    self.push_prepares(now, wall, &mut actions);
                    self.push_listing(now, &mut actions);
                    if !self.to_forget.is_empty() {
                        actions.push(Action::Forget(std::mem::take(&mut self.to_forget)));
                    }
                    if !self.returned.is_empty() {
                        actions.push(Action::DropReturned(std::mem::take(&mut self.returned)));
                    }
                }
                self.begin_swap(now, wall);
                self.push_swap(now, &mut actions);
            }
            _ => {}
        }
        actions
    }

    /// Until when nothing needs to be polled, should nothing come back before.
    #[must_use]
    pub fn wake_at(&self, now: Millis) -> Millis {
        let mut at = now + 1_000;
        match self.phase {
            Phase::Look(look) | Phase::Load(look) | Phase::Doubt(look) => at = at.min(look),
            Phase::Leading => {
                for (id, flight) in &self.flights {
                    if let Need::Wait(until) = flight.need(&self.around(now, *id)) {
                        at = at.min(until);
                    }
                }
                if self.walk.is_none() {
                    at = at.min(self.next_list);
                }
                if self.prepare_not_before > now {
                    at = at.min(self.prepare_not_before);
                }
            }
            _ => {}
        }
        if let Some(retry) = self.swapping.as_ref().and_then(|swapping| swapping.retry_at) {
            at = at.min(retry);
        }
        at.max(now)
    }

    /// A writer that could not swap for long must expect that another one has taken over, and begins
    /// nothing new. The protocol would survive it; this keeps the two from working against each other.
    fn in_charge(&self, now: Millis) -> bool {
        now < self.last_swap + self.limits.take_over_after * 3 / 4
    }

    fn push_tasks(&mut self, now: Millis, actions: &mut Vec<Action<Tag>>) {
        if self.at_once {
            return;
        }
        let mut stuck_busy = self.flights.values().filter(|flight| flight.stuck && flight.is_busy()).count();
        let ids: Vec<BatchId> = self.flights.keys().copied().collect();
        for id in ids {
            let around = self.around(now, id);
            let limits = &self.limits;
            let Some(flight) = self.flights.get_mut(&id) else { continue };
            if flight.stuck && stuck_busy >= MOST_STUCK_AT_ONCE {
                continue;
            }
            if let Need::Do(task) = flight.need_within(&around, limits) {
                stuck_busy += usize::from(flight.stuck);
                flight.started(&around);
                if matches!(task, Task::Repair { .. }) {
                    self.repairs += 1;
                }
                actions.push(Action::Task { id, task });
            }
        }
    }

    fn push_prepares(&mut self, now: Millis, wall: UnixMs, actions: &mut Vec<Action<Tag>>) {
        if self.stopping || now < self.prepare_not_before {
            return;
        }
        loop {
            let probe = match self.room(now) {
                Room::None => return,
                Room::Probe if now < self.probe_not_before => return,
                Room::Probe => true,
                Room::Some => false,
            };
            let objects = self.backlog.take(&self.limits, wall);
            if objects.is_empty() {
                return;
            }
            let id = BatchId { epoch: self.manifest.epoch, number: self.next_number };
            self.next_number += 1;
            self.remember(id, objects.iter().map(|staged| key_hash(&staged.key)).collect());
            self.flights.insert(id, Flight::new(id));
            actions.push(Action::Prepare { id, objects });
            if probe {
                self.probe_not_before = now + self.limits.stuck_retry;
            }
        }
    }

    /// Whether a batch may be begun. Blocked batches hold no place of their own, or a few refused records
    /// would stop everybody; when many of them pile up, only now and then one more is begun, to see whether
    /// the server takes any.
    fn room(&self, now: Millis) -> Room {
        let stuck = self.flights.values().filter(|flight| flight.stuck).count();
        let open = self.flights.values().filter(|flight| flight.is_open()).count();
        let blocked = self.flights.values().filter(|flight| flight.is_blocked()).count();
        let full =
            self.flights.len() - stuck >= self.limits.max_batches || stuck >= 4 * self.limits.max_batches;
        if full || !self.window_is_slow(now) {
            Room::None
        } else if self.server_at_fault() || blocked >= 4 * self.limits.concurrency {
            Room::Probe
        } else if open - blocked < self.limits.concurrency {
            Room::Some
        } else {
            Room::None
        }
    }

    /// A late twin of an insert may arrive until its deadline, and must still find its token in the window
    /// then. So within one deadline no more than a quarter of the window is used; the rest is for what was
    /// planned before, and for predecessors who did the same.
    fn window_is_slow(&self, now: Millis) -> bool {
        let recent = self.window_moved.iter().find(|(at, _)| at + self.limits.insert_deadline > now);
        recent.is_none_or(|(_, window)| self.manifest.window - window < self.limits.window / 4)
    }

    fn push_listing(&mut self, now: Millis, actions: &mut Vec<Action<Tag>>) {
        if self.stopping || self.listing {
            return;
        }
        if self.walk.is_none() {
            if now < self.next_list || self.backlog.len() > self.limits.batch_objects {
                return;
            }
            // As many of each stream as there is room for, going by the streams seen last time.
            let per_stream = (self.limits.queue / self.streams_seen.max(1)).max(1);
            let per_stream = if self.streams_seen == 0 { per_stream.min(500) } else { per_stream };
            self.walk_begun = now;
            self.walk = Some(Walk::new(self.resume_at.take(), per_stream, self.limits.queue));
        }
        if let Some(after) = self.walk.as_ref().and_then(Walk::next) {
            self.listing = true;
            actions.push(Action::List(after.map(str::to_owned)));
        }
    }

    fn remember(&mut self, id: BatchId, hashes: Vec<KeyHash>) {
        self.keys.extend(hashes.iter().map(|hash| (*hash, None)));
        self.keys_of.insert(id, hashes);
    }

    fn unremember(&mut self, id: BatchId) {
        for hash in self.keys_of.remove(&id).unwrap_or_default() {
            self.keys.remove(&hash);
        }
    }

    // --- the manifest ---

    /// Puts every change that waits into one swap.
    fn begin_swap(&mut self, now: Millis, wall: UnixMs) {
        if self.swapping.is_some() {
            return;
        }
        let ids: Vec<BatchId> = self
            .flights
            .iter()
            .filter(|(id, flight)| flight.need(&self.around(now, **id)) == Need::Swap)
            .filter(|(_, flight)| flight.step != Step::EnterAttempt || self.window_is_slow(now))
            .map(|(id, _)| *id)
            .collect();
        let forget: Vec<BatchId> =
            self.forget_at.iter().filter(|(_, at)| now >= **at).map(|(id, _)| *id).collect();
        let release = self.stopping && (self.at_once || !self.flights.values().any(Flight::is_loading));
        let heartbeat = now >= self.last_swap + self.limits.heartbeat;
        if ids.is_empty() && forget.is_empty() && !release && !heartbeat {
            return;
        }
        let mut manifest = Manifest::clone(&self.manifest);
        manifest.seq += 1;
        manifest.written = wall;
        manifest.released = release;
        manifest.next_batch = self.next_number;
        for id in &ids {
            if let Some(flight) = self.flights.get(id) {
                change(&mut manifest, flight, wall);
            }
        }
        manifest.removed.retain(|removed| !forget.contains(&removed.id));
        self.swapping =
            Some(Swapping { manifest: Arc::new(manifest), ids, begun: now, retry_at: None, sent: false });
    }

    fn push_swap(&mut self, now: Millis, actions: &mut Vec<Action<Tag>>) {
        let Some(swapping) = &mut self.swapping else { return };
        let due = swapping.retry_at.is_some_and(|at| now >= at);
        if swapping.sent && !due {
            return;
        }
        swapping.sent = true;
        swapping.retry_at = None;
        actions.push(Action::Swap { expected: self.tag.clone(), manifest: swapping.manifest.clone() });
    }

    fn swapped(&mut self, now: Millis, tag: Tag) {
        let Some(swapping) = self.swapping.take() else { return };
        self.swap_failures = 0;
        self.last_swap = swapping.begun;
        self.tag = Some(tag);
        if swapping.manifest.window > self.manifest.window && self.leading() {
            // The value before the change: what it used is counted from its beginning on.
            self.window_moved.push_back((now, self.manifest.window));
            while self.window_moved.front().is_some_and(|(at, _)| at + self.limits.insert_deadline <= now) {
                self.window_moved.pop_front();
            }
        }
        let before = std::mem::replace(&mut self.manifest, swapping.manifest);
        if matches!(self.phase, Phase::TakingOver) {
            self.next_number = self.manifest.next_batch;
            self.phase = Phase::Load(now);
            return;
        }
        let remembered: BTreeSet<BatchId> = self.manifest.removed.iter().map(|removed| removed.id).collect();
        for removed in &before.removed {
            if !remembered.contains(&removed.id) {
                self.forget_at.remove(&removed.id);
                self.unremember(removed.id);
                self.to_forget.push((removed.id, removed.attempt));
            }
        }
        for id in swapping.ids {
            let around = self.around(now, id);
            let Some(flight) = self.flights.get_mut(&id) else { continue };
            if flight.step == Step::SwapOut {
                self.flights.remove(&id);
                self.bury_keys(id, now);
            } else {
                flight.swapped(&around, &self.limits);
            }
        }
        if self.manifest.released {
            self.phase = Phase::Stopped(Stop::Released);
        }
    }

    /// From now on the batch's keys are tombstones.
    fn bury_keys(&mut self, id: BatchId, now: Millis) {
        for hash in self.keys_of.get(&id).into_iter().flatten() {
            self.keys.insert(*hash, Some(now));
        }
        self.forget_at.insert(id, now + self.limits.tombstones);
    }

    /// The manifest after a lost swap: ours as it was (the swap is tried again), ours as it was to become, or
    /// somebody else's.
    fn doubted(&mut self, now: Millis, manifest: &Manifest, tag: Tag) {
        let wanted = self.swapping.as_ref().map(|swapping| swapping.manifest.seq);
        if manifest.nonce != self.me.nonce || manifest.epoch != self.manifest.epoch {
            self.phase = Phase::Stopped(Stop::Fenced);
        } else if Some(manifest.seq) == wanted {
            self.phase = Phase::Leading;
            self.swapped(now, tag);
        } else {
            self.phase = Phase::Leading;
            self.tag = Some(tag);
            if let Some(swapping) = &mut self.swapping {
                swapping.retry_at = Some(now + self.limits.heartbeat / 4);
            }
        }
    }

    fn take_over(&mut self, now: Millis, manifest: Manifest, tag: Option<Tag>) {
        let next = Manifest {
            epoch: manifest.epoch + 1,
            seq: manifest.seq + 1,
            nonce: self.me.nonce.clone(),
            holder: self.me.holder.clone(),
            released: false,
            ..manifest
        };
        self.tag = tag;
        self.phase = Phase::TakingOver;
        self.swapping = Some(Swapping {
            manifest: Arc::new(next),
            ids: Vec::new(),
            begun: now,
            retry_at: None,
            sent: false,
        });
    }

    fn looked(&mut self, now: Millis, wall: UnixMs, manifest: &Manifest, tag: Tag, holder_dead: bool) {
        let still = match self.watched {
            Some((epoch, seq, since)) if (epoch, seq) == (manifest.epoch, manifest.seq) => {
                now >= since + self.limits.take_over_after
            }
            _ => {
                self.watched = Some((manifest.epoch, manifest.seq, now));
                false
            }
        };
        if manifest.released || holder_dead || still {
            self.take_over(now, Manifest { written: wall, ..manifest.clone() }, Some(tag));
        } else {
            self.phase = Phase::Look(now + self.limits.heartbeat / 2);
        }
    }

    fn loaded(&mut self, now: Millis, loaded: Vec<Loaded>) {
        let over_at = now + self.limits.insert_deadline;
        for Loaded { id, outline, keys } in loaded {
            self.remember(id, keys.iter().map(|key| key_hash(key)).collect());
            let Some(entry) = self.manifest.batches.get(&id) else {
                // Counted anew from here: the predecessor's clock may have been wrong.
                self.bury_keys(id, now);
                continue;
            };
            let flight = match entry.state {
                State::Open => Flight::inherited(id, entry.attempt, outline, over_at),
                State::Stuck { .. } => Flight::inherited(id, entry.attempt, outline, over_at).as_stuck(),
                State::Inserted { .. } => {
                    let grace = now + self.limits.delete_grace;
                    Flight::inherited_inserted(id, entry.attempt, outline, over_at, grace)
                }
            };
            self.flights.insert(id, flight);
        }
        self.phase = Phase::Leading;
        self.next_list = now;
    }

    // --- what became of actions ---

    /// Takes in what became of an action.
    pub fn done(&mut self, now: Millis, wall: UnixMs, done: Done<Tag>) {
        if matches!(self.phase, Phase::Stopped(_)) {
            return;
        }
        let limits = self.limits.clone();
        match done {
            Done::Manifest { manifest, tag, holder_dead } => match self.phase {
                Phase::Looking => self.looked(now, wall, &manifest, tag, holder_dead),
                Phase::Doubting => self.doubted(now, &manifest, tag),
                _ => {}
            },
            Done::NoManifest { .. } if matches!(self.phase, Phase::Doubting) => {
                self.phase = Phase::Stopped(Stop::ManifestLost);
            }
            Done::NoManifest { fresh: true } => {
                let first = Manifest::first(self.me.pipeline.clone(), wall);
                self.take_over(now, first, None);
            }
            Done::NoManifest { fresh: false } => self.phase = Phase::Stopped(Stop::ManifestLost),
            Done::ManifestUnread if matches!(self.phase, Phase::Doubting) => {
                self.phase = Phase::Doubt(now + 1_000)
            }
            Done::ManifestUnread => self.phase = Phase::Look(now + 1_000),
            Done::Swapped(tag) => self.swapped(now, tag),
            Done::SwapLost => match self.phase {
                Phase::TakingOver => {
                    self.swapping = None;
                    self.phase = Phase::Look(now + limits.heartbeat / 2);
                }
                // Not yet known to whom: a refusal may be the echo of our own swap.
                _ => self.phase = Phase::Doubt(now),
            },
            Done::SwapUnclear => {
                self.swap_failures = self.swap_failures.saturating_add(1);
                let pause = (50 << self.swap_failures.min(6)).min(limits.heartbeat / 2);
                if let Some(swapping) = &mut self.swapping {
                    swapping.retry_at = Some(now + pause);
                }
            }
            Done::Loaded(Ok(loaded)) => self.loaded(now, loaded),
            Done::Loaded(Err(Some(id))) => self.phase = Phase::Stopped(Stop::ListLost(id)),
            Done::Loaded(Err(None)) => self.phase = Phase::Load(now + 1_000),
            Done::Vanished(id) => self.with(now, id, |flight, around| flight.vanished(around, &limits)),
            Done::LeftOut(keys) => {
                let until = now + limits.stuck_retry;
                self.shunned.retain(|_, until| *until > now);
                self.shunned.extend(keys.iter().map(|key| (key_hash(key), until)));
            }
            Done::Page(page) => self.paged(now, page),
            Done::Prepared(id, outline) => self.prepared(now, id, outline),
            Done::Buried(id, ok) => self.with(now, id, |flight, around| flight.buried(ok, around, &limits)),
            Done::Inserted(id, outcome) => {
                match outcome {
                    Inserted::Yes => {
                        // When it was sent, not when it was answered: it may have passed the server's checks
                        // long before.
                        self.last_success = self.last_success.max(self.flights.get(&id).map(Flight::sent_at));
                        self.refusals.clear();
                    }
                    Inserted::BadData => {
                        self.refusals.insert(id);
                    }
                    _ => {}
                }
                self.with(now, id, |flight, around| flight.inserted(&outcome, around, &limits));
            }
            Done::Counted(id, full) => {
                self.with(now, id, |flight, around| flight.counted(full, around, &limits))
            }
            Done::Running(id, running) => {
                self.with(now, id, |flight, around| flight.asked_running(running, around, &limits));
            }
            Done::Missing(id, next) => {
                self.with(now, id, |flight, around| flight.found_missing(next.clone(), around, &limits));
            }
            Done::Repaired(id, ok) => {
                self.with(now, id, |flight, around| flight.repaired(ok, around, &limits))
            }
            Done::Deleted(id, ok) => self.with(now, id, |flight, around| flight.deleted(ok, around, &limits)),
        }
    }

    fn with(&mut self, now: Millis, id: BatchId, f: impl Fn(&mut Flight, &Around)) {
        let around = self.around(now, id);
        if let Some(flight) = self.flights.get_mut(&id) {
            f(flight, &around);
        }
    }

    fn prepared(&mut self, now: Millis, id: BatchId, outline: Option<Outline>) {
        match outline {
            Some(outline) => {
                self.prepare_failures = 0;
                if let Some(flight) = self.flights.get_mut(&id) {
                    flight.prepared(outline);
                }
            }
            None => {
                // Never planned: the next listing finds its objects again.
                self.flights.remove(&id);
                self.unremember(id);
                self.to_forget.push((id, 0));
                self.prepare_failures = self.prepare_failures.saturating_add(1);
                let pause = self.limits.retry_first << self.prepare_failures.min(10);
                self.prepare_not_before = now + pause.min(self.limits.retry_most);
            }
        }
    }

    fn paged(&mut self, now: Millis, page: Option<(Vec<String>, bool)>) {
        self.listing = false;
        let Some(walk) = &mut self.walk else { return };
        let Some((keys, more)) = page else {
            self.walk = None;
            self.next_list = now + self.limits.list_busy;
            return;
        };
        let (keys_known, shunned, begun) = (&self.keys, &self.shunned, self.walk_begun);
        walk.page(&keys, more, |key| {
            let hash = key_hash(key);
            match keys_known.get(&hash) {
                // Deleted while the walk went on: the page may be older than the deletion.
                Some(Some(removed)) if *removed < begun => Known::Removed,
                Some(_) => Known::UnderWay,
                None if shunned.get(&hash).is_some_and(|until| *until > now) => Known::UnderWay,
                None => Known::No,
            }
        });
        if walk.next().is_none() {
            self.walked(now);
        }
    }

    fn walked(&mut self, now: Millis) {
        let Some(walk) = self.walk.take() else { return };
        self.resume_at = walk.resume_at();
        self.last_seen = walk.seen;
        self.streams_seen = walk.streams;
        self.foreign = walk.foreign;
        let idle = walk.found.is_empty() && !self.flights.values().any(Flight::is_open);
        self.list_pause =
            if idle { (self.list_pause * 2).min(self.limits.list_idle) } else { self.limits.list_busy };
        self.next_list = now + self.list_pause;
        self.returned.extend(walk.returned);
        // What was planned while the walk went on is known by now and must not be planned again.
        let known = &self.keys;
        let found = walk.found.into_iter().filter(|staged| !known.contains_key(&key_hash(&staged.key)));
        self.backlog.replace(found.collect());
    }
}

/// Writes what a batch asks for into the manifest.
fn change(manifest: &mut Manifest, flight: &Flight, wall: UnixMs) {
    let id = flight.id;
    match &flight.step {
        Step::Plan => {
            manifest.window += flight.outline.window;
            let (rows, mark) = (flight.outline.rows, manifest.window);
            let entry = Entry { state: State::Open, attempt: 0, rows, mark, created: wall };
            manifest.batches.insert(id, entry);
        }
        Step::EnterAttempt => {
            let Some(next) = &flight.next else { return };
            manifest.window += next.window;
            let mark = manifest.window;
            if let Some(entry) = manifest.batches.get_mut(&id) {
                entry.attempt = flight.next_number;
                entry.rows = next.rows;
                entry.mark = mark;
            }
        }
        Step::MarkStuck(reason) => {
            if let Some(entry) = manifest.batches.get_mut(&id) {
                entry.state = State::Stuck { reason: (*reason).to_owned() };
            }
        }
        Step::Mark => {
            if let Some(entry) = manifest.batches.get_mut(&id) {
                entry.state = State::Inserted { at: wall };
                for (project, add) in &flight.outline.totals {
                    let totals = manifest.totals.entry(project.clone()).or_default();
                    totals.loaded += add.loaded;
                    totals.dead_lettered += add.dead_lettered;
                }
            }
        }
        Step::Reopen => {
            if let Some(entry) = manifest.batches.get_mut(&id) {
                entry.state = State::Open;
                for (project, sub) in &flight.outline.totals {
                    let totals = manifest.totals.entry(project.clone()).or_default();
                    totals.loaded = totals.loaded.saturating_sub(sub.loaded);
                    totals.dead_lettered = totals.dead_lettered.saturating_sub(sub.dead_lettered);
                }
            }
        }
        Step::SwapOut if manifest.batches.remove(&id).is_some() => {
            manifest.removed.push(Removed { id, attempt: flight.attempt, at: wall });
        }
        _ => {}
    }
}
