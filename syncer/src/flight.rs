//! One batch on its way from "planned" to "gone": a pure state machine. It decides, the core carries its
//! wishes into the manifest, the runner acts. Why each step is as it is stands in
//! docs/commit-protocol.md; the words used here are the same.

use std::collections::BTreeMap;

use crate::batch::{Attempt, BatchId};
use crate::limits::Limits;
use crate::manifest::Totals;

/// Milliseconds on the process' own monotonic clock. Never compared with another machine's.
pub type Millis = u64;

/// Under this name the totals count dead letters whose project can't be told.
pub const UNKNOWN_PROJECT: &str = "_unknown";

/// What the state machine has to know of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Rows of each insert.
    pub pieces: Vec<u64>,
    /// Rows in the table once it is done.
    pub rows: u64,
    /// Entries of the deduplication window that it may use.
    pub window: u64,
    /// Whether this attempt put rows aside that must be written as dead letters before it inserts.
    pub buries: bool,
    /// What the batch adds to each project's totals once it is in the table.
    pub totals: BTreeMap<String, Totals>,
}

impl Outline {
    /// The outline of attempt `number`.
    #[must_use]
    pub fn of(attempt: &Attempt, number: u64) -> Self {
        let mut totals: BTreeMap<String, Totals> = BTreeMap::new();
        for (project, rows) in &attempt.projects {
            totals.entry(project.to_string()).or_default().loaded += rows;
        }
        for dead in &attempt.dead {
            let project = dead.project.as_ref().map_or(UNKNOWN_PROJECT, |project| project.as_str());
            totals.entry(project.to_owned()).or_default().dead_lettered += dead.rows;
        }
        Self {
            pieces: attempt.pieces.iter().map(|piece| piece.rows.len()).collect(),
            rows: attempt.rows(),
            window: attempt.window(),
            buries: attempt.dead.iter().any(|dead| dead.attempt == number),
            totals,
        }
    }
}

/// Where a batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Objects are fetched and encoded, the list object is written.
    Prepare,
    /// The manifest has yet to name it.
    Plan,
    /// Dead letters of the current attempt are written.
    Bury,
    /// Piece number `.0` of the current attempt is inserted.
    Insert(usize),
    /// The table is asked which of the batch's rows it holds.
    Count,
    /// Nothing of the batch may still run at the server.
    AwaitOver,
    /// Rows that are missing become the next attempt, whose object is written.
    FindMissing,
    /// The manifest has yet to name the next attempt.
    EnterAttempt,
    /// The views are made right for this batch.
    Repair,
    /// The manifest has yet to say that the batch can't go on by itself.
    MarkStuck(&'static str),
    /// The manifest has yet to say that the rows are in the table.
    Mark,
    /// The objects are kept a little longer.
    Grace,
    /// The table is asked once more before the objects are deleted.
    ReadBack,
    /// Rows were found missing after all: the manifest has yet to say that the batch is open again.
    Reopen,
    /// The objects are deleted.
    Delete,
    /// The manifest has yet to forget the batch.
    SwapOut,
}

/// Something to do outside, for one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Write the dead letters of the attempt, put-if-absent.
    Bury { attempt: u64 },
    /// Insert one piece under its token.
    Insert {
        /// Attempt the token belongs to.
        attempt: u64,
        /// Which of its pieces.
        piece: usize,
        /// Load the rows although a view fails; the views are repaired afterwards.
        past_views: bool,
    },
    /// Count the batch's rows in the table.
    Count,
    /// Ask whether any insert of the batch still runs.
    AskRunning,
    /// Work out the missing rows, write the object of attempt `next`.
    FindMissing {
        /// Number of the attempt to write.
        next: u64,
        /// Pieces of the current attempt that the server refused for their data: split these.
        refused: Vec<usize>,
        /// The budget for splitting is spent: put whole refused pieces aside.
        bury_whole: bool,
    },
    /// Recompute the batch's rows in every view, under this version.
    Repair { version: u64 },
    /// Delete the batch's objects.
    Delete,
}

/// What the batch needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Something outside.
    Do(Task),
    /// A change of the manifest.
    Swap,
    /// Time: nothing before this.
    Wait(Millis),
    /// An answer that is under way.
    Answer,
}

/// How an insert ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// The server said yes. That proves little: see [`Task::Count`].
    Yes,
    /// The server refused it because of the data.
    BadData,
    /// The server refused it for another reason, perhaps after part of the work.
    Refused,
    /// No answer: it may or may not have happened, or may yet happen.
    Unclear,
    /// It surely never reached the server.
    NotSent,
    /// The rows encode differently now: the token must not be used again.
    OtherBytes,
    /// A staged object is gone although its rows aren't in the table.
    Vanished,
}

/// What the server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// An insert of the batch runs there.
    pub running: bool,
    /// Milliseconds since it was started.
    pub up: Millis,
}

/// A server counts its uptime in seconds.
const UPTIME_STEP: Millis = 1_500;

/// What the state machine must know of the world around the batch.
#[derive(Debug, Clone, Copy)]
pub struct Around {
    /// The process' clock.
    pub now: Millis,
    /// Whether the server still remembers the attempt's token if it was ever used.
    pub window_holds: bool,
    /// Refusals look like the server's fault: don't split, wait.
    pub server_at_fault: bool,
    /// When the latest insert that the server took was sent.
    pub last_success: Option<Millis>,
    /// A version for view repairs, higher than any before.
    pub repair_version: u64,
    /// The writer's epoch.
    pub epoch: u64,
}

/// The number of the attempt after number `last`: higher, and in the writer's own range, so that a
/// predecessor that wrote an attempt's object without getting it into the manifest is never mistaken for
/// this writer.
#[must_use]
pub fn attempt_after(last: u64, epoch: u64) -> u64 {
    (last + 1).max((epoch << 16) + 1)
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Flight {
    /// The batch.
    pub id: BatchId,
    /// Where it stands.
    pub step: Step,
    /// Number of the current attempt.
    pub attempt: u64,
    /// What the current attempt does.
    pub outline: Outline,
    /// The attempt that [`Step::EnterAttempt`] is about.
    pub next: Option<Outline>,
    /// Its number. Numbers are never used twice, whoever used them: see [`attempt_after`].
    pub next_number: u64,
    /// A task is under way.
    busy: bool,
    /// No insert of the current attempt can exist at the server.
    fresh: bool,
    /// Every piece of the current attempt was answered with yes: its tokens are used up, so that a late
    /// twin of any of its inserts can't do anything.
    burned: bool,
    /// Since the last insert it was seen that nothing of the batch runs at the server.
    settled: bool,
    /// The views may lack rows of this batch.
    repair_due: bool,
    /// Its next inserts go past failing views: a view's refusal must not look like the data's.
    past_views: bool,
    /// The manifest says that it is stuck.
    pub stuck: bool,
    /// The rows encode differently now than they did for this attempt: its tokens must not be used.
    stale: bool,
    /// Attempts in a row that were taken whole and yet did not bring the rows into sight.
    fruitless: u32,
    /// The server was started after the last insert was sent.
    restarted: bool,
    /// Pieces refused for their data.
    refused: Vec<usize>,
    /// When the current attempt's first insert was sent.
    begun: Option<Millis>,
    /// When a piece of the current attempt was first refused for its data.
    first_refusal: Option<Millis>,
    /// [`Around::last_success`] as it was when the current round of inserts began.
    success_before: Option<Millis>,
    /// It waits for a sign that the server takes other inserts.
    blocked: bool,
    /// Rounds in which pieces were cut, and pieces cut in them.
    rounds: u32,
    splits: u32,
    failures: u32,
    /// Inserts refused for another reason than their data, in a row.
    refusals: u32,
    not_before: Millis,
    sent_at: Millis,
    /// An insert that got no answer, or a predecessor's, may still begin at the server until then.
    over_at: Millis,
}

impl Flight {
    /// A batch that is being prepared.
    #[must_use]
    pub fn new(id: BatchId) -> Self {
        Self {
            id,
            step: Step::Prepare,
            attempt: 0,
            outline: Outline::default(),
            next: None,
            next_number: 0,
            busy: true,
            fresh: true,
            burned: false,
            settled: false,
            repair_due: false,
            past_views: false,
            stuck: false,
            stale: false,
            fruitless: 0,
            restarted: false,
            refused: Vec::new(),
            begun: None,
            first_refusal: None,
            success_before: None,
            blocked: false,
            rounds: 0,
            splits: 0,
            failures: 0,
            refusals: 0,
            not_before: 0,
            sent_at: 0,
            over_at: 0,
        }
    }

    /// A batch that a predecessor left open: what it did is unknown, and it may not be dead.
    #[must_use]
    pub fn inherited(id: BatchId, attempt: u64, outline: Outline, over_at: Millis) -> Self {
        let step = if outline.buries { Step::Bury } else { Step::Count };
        Self { step, attempt, outline, busy: false, fresh: false, repair_due: true, over_at, ..Self::new(id) }
    }

    /// The same batch, of which the manifest says that it is stuck.
    #[must_use]
    pub fn as_stuck(self) -> Self {
        Self { stuck: true, ..self }
    }

    /// A batch that a predecessor saw in the table.
    #[must_use]
    pub fn inherited_inserted(
        id: BatchId,
        attempt: u64,
        outline: Outline,
        over_at: Millis,
        grace_until: Millis,
    ) -> Self {
        let step = Step::Grace;
        Self { step, not_before: grace_until, ..Self::inherited(id, attempt, outline, over_at) }
    }

    /// Whether its rows may not yet be in the table.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.stuck
            && !matches!(
                self.step,
                Step::Grace | Step::ReadBack | Step::Delete | Step::SwapOut | Step::Reopen
            )
    }

    /// When its last insert was sent.
    #[must_use]
    pub fn sent_at(&self) -> Millis {
        self.sent_at
    }

    /// Whether a task of it is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether it waits for a sign that the server takes other inserts, so that others must go first.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked && self.is_open()
    }

    /// Whether an insert, or the look whether it worked, is under way and goes well: a stop waits for
    /// these. One that meets failures is left to the successor.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.is_open() && !self.blocked && self.failures == 0 && !matches!(self.step, Step::Prepare)
    }

    /// What it needs now.
    #[must_use]
    pub fn need(&self, around: &Around) -> Need {
        if self.busy {
            return Need::Answer;
        }
        if around.now < self.not_before {
            return Need::Wait(self.not_before);
        }
        match &self.step {
            Step::Prepare => Need::Answer,
            Step::Plan
            | Step::EnterAttempt
            | Step::Mark
            | Step::MarkStuck(_)
            | Step::Reopen
            | Step::SwapOut => Need::Swap,
            Step::Bury => Need::Do(Task::Bury { attempt: self.attempt }),
            Step::Insert(piece) => Need::Do(Task::Insert {
                attempt: self.attempt,
                piece: *piece,
                past_views: self.past_views || self.refusals >= 2,
            }),
            Step::Count | Step::ReadBack => Need::Do(Task::Count),
            Step::AwaitOver if !self.burned && around.now < self.over_at => Need::Wait(self.over_at),
            Step::AwaitOver => Need::Do(Task::AskRunning),
            Step::FindMissing => Need::Do(Task::FindMissing {
                next: attempt_after(self.attempt.max(self.next_number), around.epoch),
                refused: self.refused.clone(),
                bury_whole: false,
            }),
            Step::Repair => Need::Do(Task::Repair { version: around.repair_version }),
            Step::Grace => Need::Do(Task::Count),
            Step::Delete => Need::Do(Task::Delete),
        }
    }

    /// As [`Self::need`], with the split budget looked at.
    #[must_use]
    pub fn need_within(&self, around: &Around, limits: &Limits) -> Need {
        match self.need(around) {
            Need::Do(Task::FindMissing { next, refused, .. }) => {
                Need::Do(Task::FindMissing { next, refused, bury_whole: self.splits >= limits.split_budget })
            }
            other => other,
        }
    }

    /// The task that [`Self::need`] named has been started.
    pub fn started(&mut self, around: &Around) {
        self.busy = true;
        match self.step {
            Step::Insert(_) => {
                self.settled = false;
                self.sent_at = around.now;
                self.begun.get_or_insert(around.now);
                if self.step == Step::Insert(0) {
                    self.success_before = around.last_success;
                }
            }
            Step::Grace => self.step = Step::ReadBack,
            Step::FindMissing => {
                self.next_number = attempt_after(self.attempt.max(self.next_number), around.epoch);
            }
            _ => {}
        }
    }

    /// The batch is encoded and its list object written.
    pub fn prepared(&mut self, outline: Outline) {
        self.busy = false;
        self.outline = outline;
        self.step = Step::Plan;
    }

    /// The dead letters are written.
    pub fn buried(&mut self, ok: bool, around: &Around, limits: &Limits) {
        self.busy = false;
        if ok {
            self.failures = 0;
            self.step = if self.fresh { self.first_insert() } else { Step::Count };
        } else {
            self.back_off(around, limits);
        }
    }

    /// An insert ended.
    pub fn inserted(&mut self, outcome: &Inserted, around: &Around, limits: &Limits) {
        self.busy = false;
        let Step::Insert(piece) = self.step else { return };
        if *outcome != Inserted::NotSent {
            self.fresh = false;
        }
        match outcome {
            Inserted::Yes => {
                self.failures = 0;
                self.next_piece(piece);
            }
            Inserted::BadData => {
                self.repair_due = true;
                self.refused.push(piece);
                self.first_refusal.get_or_insert(around.now);
                self.next_piece(piece);
            }
            // A piece refused before is tried again under its token: only a pass in which every piece got
            // an answer decides on a split.
            Inserted::Refused => {
                self.repair_due = true;
                self.refused.clear();
                self.refusals += 1;
                self.back_off(around, limits);
                // Others are taken, this one is not: it must not hold their place.
                let own_fault = self.refusals >= limits.refused_most && around.last_success > self.begun;
                self.step = if own_fault && !self.stuck { Step::MarkStuck("Refused") } else { Step::Count };
            }
            Inserted::Unclear => {
                self.over_at = self.over_at.max(self.sent_at + limits.insert_deadline);
                self.repair_due = true;
                self.refused.clear();
                self.back_off(around, limits);
                self.step = Step::Count;
            }
            Inserted::NotSent => self.back_off(around, limits),
            Inserted::OtherBytes => {
                self.repair_due = true;
                self.stale = true;
                self.step = Step::AwaitOver;
            }
            Inserted::Vanished => self.vanished(around, limits),
        }
    }

    /// A staged object that the current step needs is gone.
    pub fn vanished(&mut self, around: &Around, limits: &Limits) {
        self.busy = false;
        self.rest("ObjectVanished", around, limits);
    }

    /// Somebody has to help. The batch looks again now and then whether they did.
    fn rest(&mut self, reason: &'static str, around: &Around, limits: &Limits) {
        if self.stuck {
            self.step = Step::Count;
            self.not_before = around.now + limits.stuck_retry;
        } else {
            self.step = Step::MarkStuck(reason);
        }
    }

    fn next_piece(&mut self, piece: usize) {
        if piece + 1 < self.outline.pieces.len() {
            self.step = Step::Insert(piece + 1);
        } else if self.refused.is_empty() {
            self.burned = true;
            self.step = Step::Count;
        } else {
            self.step = Step::AwaitOver;
        }
    }

    /// The table was asked. `full`: it holds every row that it should. `None`: it gave no answer.
    pub fn counted(&mut self, full: Option<bool>, around: &Around, limits: &Limits) {
        self.busy = false;
        let Some(full) = full else {
            self.back_off(around, limits);
            return;
        };
        if full {
            self.failures = 0;
        }
        match (&self.step, full) {
            (Step::ReadBack, true) => self.step = Step::Delete,
            (Step::ReadBack, false) => self.step = Step::Reopen,
            (_, true) => {
                self.refused.clear();
                self.step = if self.repair_due { Step::Repair } else { Step::Mark };
            }
            (_, false) => self.settle(around, limits),
        }
    }

    /// Rows are missing from the table.
    fn settle(&mut self, around: &Around, limits: &Limits) {
        self.repair_due = true;
        if !self.refused.is_empty() {
            // Only here is a split decided, and only with nothing of the batch alive at the server.
            if !self.settled {
                self.step = Step::AwaitOver;
            } else if !self.past_views {
                self.past_views = true;
                self.refused.clear();
                self.step = Step::Insert(0);
            } else if self.must_not_split(around, limits) {
                self.blocked = true;
                self.refused.clear();
                self.failures = self.failures.max(3);
                self.back_off(around, limits);
            } else {
                self.rounds += 1;
                self.splits += u32::try_from(self.refused.len()).unwrap_or(u32::MAX);
                self.step = Step::FindMissing;
            }
        } else if !self.burned && !self.stale && around.window_holds && !self.outline.pieces.is_empty() {
            self.step = Step::Insert(0);
        } else if !self.settled {
            self.step = Step::AwaitOver;
        } else if self.burned && self.fruitless >= 2 {
            // Rows that can't be seen (a row policy, a query cache) would be inserted again and again.
            self.rest("RowsDoNotAppear", around, limits);
        } else {
            self.step = Step::FindMissing;
        }
    }

    /// Batches are cut into ever smaller inserts only while the server is seen to take other inserts; two
    /// cuts are free, because one of the four quarters usually gives the sign. Rows are put aside only when
    /// they were refused, others were taken after that, and they are refused again: a server that refuses
    /// everything for a while must not turn good rows into dead letters.
    fn must_not_split(&self, around: &Around, limits: &Limits) -> bool {
        let single = |piece: &usize| self.outline.pieces.get(*piece) == Some(&1);
        if self.refused.iter().any(single) || self.splits >= limits.split_budget {
            return around.server_at_fault || self.success_before <= self.first_refusal;
        }
        self.rounds >= 2 && (around.server_at_fault || around.last_success <= self.begun)
    }

    /// Whether an insert of the batch still runs at the server; `None`: it gave no answer.
    pub fn asked_running(&mut self, server: Option<Server>, around: &Around, limits: &Limits) {
        self.busy = false;
        if let Some(Server { running: false, up }) = server {
            // Rows that a server took and lost by dying are no sign that rows can't be seen.
            self.restarted = around.now + UPTIME_STEP > self.sent_at + up;
            self.settled = true;
            self.step = Step::Count;
        } else {
            self.back_off(around, limits);
        }
    }

    /// The next attempt's object is written; `None`: that failed.
    pub fn found_missing(&mut self, next: Option<Outline>, around: &Around, limits: &Limits) {
        self.busy = false;
        match next {
            Some(next) => {
                self.next = Some(next);
                self.step = Step::EnterAttempt;
            }
            None => {
                self.back_off(around, limits);
                self.step = Step::Count;
            }
        }
    }

    /// The views were repaired, or not.
    pub fn repaired(&mut self, ok: bool, around: &Around, limits: &Limits) {
        self.busy = false;
        if ok {
            self.failures = 0;
            self.repair_due = false;
            self.step = Step::Mark;
        } else {
            self.back_off(around, limits);
            if self.failures >= limits.stuck_after && !self.stuck {
                self.step = Step::MarkStuck("ViewFailing");
            }
        }
    }

    /// The objects are deleted, or some are not.
    pub fn deleted(&mut self, ok: bool, around: &Around, limits: &Limits) {
        self.busy = false;
        if ok {
            self.failures = 0;
            self.step = Step::SwapOut;
        } else {
            self.back_off(around, limits);
        }
    }

    /// The manifest now says what [`Need::Swap`] asked for.
    pub fn swapped(&mut self, around: &Around, limits: &Limits) {
        match self.step {
            Step::Plan => self.step = if self.outline.buries { Step::Bury } else { self.first_insert() },
            Step::EnterAttempt => {
                // Counted here and not when it was decided: writing the attempt may take several tries.
                self.fruitless += u32::from(self.burned && !self.restarted);
                self.attempt = self.next_number;
                self.outline = self.next.take().unwrap_or_default();
                self.fresh = true;
                self.burned = false;
                self.stale = false;
                self.settled = false;
                self.begun = None;
                self.first_refusal = None;
                self.over_at = 0;
                self.blocked = false;
                self.refused.clear();
                self.step = if self.outline.buries { Step::Bury } else { self.first_insert() };
            }
            Step::MarkStuck(reason) => {
                self.stuck = true;
                self.step = if reason == "ViewFailing" { Step::Repair } else { Step::Count };
                self.not_before = around.now + limits.stuck_retry;
            }
            Step::Mark => {
                self.stuck = false;
                self.step = Step::Grace;
                self.not_before = around.now + limits.delete_grace;
            }
            Step::Reopen => {
                self.fresh = false;
                self.burned = false;
                self.settled = false;
                self.step = Step::Count;
            }
            _ => {}
        }
    }

    fn first_insert(&self) -> Step {
        if self.outline.pieces.is_empty() { Step::Count } else { Step::Insert(0) }
    }

    fn back_off(&mut self, around: &Around, limits: &Limits) {
        self.failures = self.failures.saturating_add(1);
        let pause = limits.retry_first.saturating_mul(1 << self.failures.min(10)).min(limits.retry_most);
        let pause = if self.stuck { pause.max(limits.stuck_retry) } else { pause };
        self.not_before = around.now + pause;
    }
}
