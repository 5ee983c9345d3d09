//! Thousands of random histories: several candidates whose clocks differ, requests that come late, twice too late
//! or never, answers that are lost, processes that are paused and started again. The candidates are the real
//! [`step`] and [`Observed`]; the rest of the world is here.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use crate::config::{Config, Identity};
use crate::observed::Observed;
use crate::record;
use crate::step::{Decision, Loss, step};

const TICK: u64 = 50;
const CHAOS: u64 = 300_000;
/// Longer than a lease, a pause between looks, and the slowest clock.
const CALM: u64 = 60_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn unit(&mut self) -> f64 {
        self.below(1_000_000) as f64 / 1_000_000.0
    }
}

#[derive(Clone)]
enum Request {
    Get,
    Create(Lease),
    Replace(Lease),
}

#[derive(Clone)]
enum Answer {
    Lease(Option<Lease>),
    Written(Lease),
    Conflict,
    Missing,
    Failed,
}

#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
}

impl Server {
    fn store(&mut self, mut lease: Lease, uid: Option<String>) -> Answer {
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        lease.metadata.uid = uid.or(Some(format!("uid-{}", self.version)));
        self.lease = Some(lease.clone());
        Answer::Written(lease)
    }

    fn handle(&mut self, request: Request) -> Answer {
        match (request, self.lease.clone()) {
            (Request::Get, found) => Answer::Lease(found),
            (Request::Create(_), Some(_)) => Answer::Conflict,
            (Request::Create(lease), None) => self.store(lease, None),
            (Request::Replace(_), None) => Answer::Missing,
            (Request::Replace(lease), Some(found))
                if found.metadata.resource_version == lease.metadata.resource_version =>
            {
                self.store(lease, found.metadata.uid)
            }
            (Request::Replace(_), Some(_)) => Answer::Conflict,
        }
    }
}

/// A message on its way. The sender may have given it up long before it arrives.
struct Message {
    arrives: u64,
    from: usize,
    /// Which of the sender's requests this is.
    number: u64,
    request: Request,
    /// How long the answer takes; `None`: it is lost.
    back: Option<u64>,
}

struct Candidate {
    me: Identity,
    observed: Observed,
    /// Local time is `offset + rate * true time`.
    rate: f64,
    offset: f64,
    paused_until: u64,
    /// The request under way: its number, when it was sent and when it is given up, local.
    waiting: Option<(u64, Duration, Duration)>,
    inbox: Vec<(u64, u64, Answer)>,
    /// Work that was told to end and hasn't: until then.
    stubborn_until: Option<Duration>,
    next_number: u64,
    terms: u64,
}

impl Candidate {
    fn now(&self, time: u64) -> Duration {
        Duration::from_secs_f64((self.offset + self.rate * time as f64) / 1_000.0)
    }

    /// Whether its work is going on. A paused process does nothing, and looks at the clock before it goes on.
    fn works(&self, time: u64, config: &Config) -> bool {
        let now = self.now(time);
        time >= self.paused_until
            && (self.observed.held_until(config).is_some_and(|until| now < until)
                || self.stubborn_until.is_some_and(|until| now < until))
    }
}

struct World {
    random: Random,
    config: Config,
    server: Server,
    candidates: Vec<Candidate>,
    messages: Vec<Message>,
    api_away_until: u64,
    /// Faults of processes and lines, and deletions of the lease.
    restarts: bool,
    deletions: bool,
}

impl World {
    fn new(seed: u64, restarts: bool, deletions: bool) -> Self {
        let mut random = Random(seed);
        let candidates = (0..2 + random.below(3)).map(|number| Candidate {
            me: Identity::new(format!("candidate-{number}")).unwrap(),
            observed: Observed::default(),
            rate: 0.95 + random.unit() * 0.1,
            offset: random.unit() * 1e9,
            paused_until: 0,
            waiting: None,
            inbox: Vec::new(),
            stubborn_until: None,
            next_number: 0,
            terms: 0,
        });
        let candidates = candidates.collect();
        let create = random.once_in(2);
        let mut server = Server::default();
        if !create {
            server.store(Lease::default(), None);
        }
        let config = Config { create, ..Config::default() };
        Self {
            random,
            config,
            server,
            candidates,
            messages: Vec::new(),
            api_away_until: 0,
            restarts,
            deletions,
        }
    }

    fn run(&mut self) {
        for time in (0..CHAOS + CALM).step_by(TICK as usize) {
            if time < CHAOS {
                self.break_something(time);
            }
            self.deliver(time);
            for index in 0..self.candidates.len() {
                if time >= self.candidates[index].paused_until {
                    self.act(index, time);
                }
            }
            let at_work = self.candidates.iter().filter(|candidate| candidate.works(time, &self.config));
            let names: Vec<&str> = at_work.map(|candidate| candidate.me.as_str()).collect();
            assert!(names.len() <= 1, "at {time} ms {names:?} work at once");
        }
        let end = CHAOS + CALM - TICK;
        let at_work = self.candidates.iter().filter(|candidate| candidate.works(end, &self.config)).count();
        assert_eq!(at_work, 1, "somebody must get it in the end");
    }

    fn break_something(&mut self, time: u64) {
        if self.random.once_in(400) {
            self.api_away_until = time + self.random.below(30_000);
        }
        let index = self.random.below(self.candidates.len() as u64) as usize;
        if self.random.once_in(200) {
            let pause = self.random.below(40_000);
            self.candidates[index].paused_until = time + pause;
        }
        let index = self.random.below(self.candidates.len() as u64) as usize;
        if self.restarts && self.random.once_in(300) {
            // Killed and started again under the same name; what it sent may still arrive.
            let candidate = &mut self.candidates[index];
            candidate.observed = Observed::default();
            candidate.waiting = None;
            candidate.stubborn_until = None;
        }
        let known = self.candidates.iter().all(|candidate| candidate.observed.known);
        if self.deletions && known && self.random.once_in(1_200) {
            self.server.lease = None;
        }
        // The operator makes it again.
        if self.deletions && !self.config.create && self.server.lease.is_none() && self.random.once_in(40) {
            self.server.store(Lease::default(), None);
        }
    }

    fn deliver(&mut self, time: u64) {
        if self.deletions && time >= CHAOS && !self.config.create && self.server.lease.is_none() {
            self.server.store(Lease::default(), None);
        }
        let due = self.messages.extract_if(.., |message| message.arrives <= time).collect::<Vec<_>>();
        for Message { from, number, request, back, .. } in due {
            let answer = self.server.handle(request);
            if let Some(back) = back {
                self.candidates[from].inbox.push((time + back, number, answer));
            }
        }
    }

    fn send(&mut self, index: usize, time: u64, request: Request) {
        let random = &mut self.random;
        let chaos = time < CHAOS;
        let (delay, back) = match chaos {
            _ if time < self.api_away_until => (None, None),
            true if random.once_in(10) => (None, None),
            // Held up somewhere until long after it was given up.
            true if random.once_in(8) => (Some(random.below(40_000)), None),
            true if random.once_in(8) => (Some(random.below(200)), None),
            true => (Some(random.below(1_500)), Some(random.below(1_500))),
            false => (Some(random.below(20)), Some(random.below(20))),
        };
        let candidate = &mut self.candidates[index];
        candidate.next_number += 1;
        let (number, now) = (candidate.next_number, candidate.now(time));
        candidate.waiting = Some((number, now, now + self.config.request_timeout()));
        if let Some(delay) = delay {
            self.messages.push(Message { arrives: time + delay, from: index, number, request, back });
        }
    }

    /// What the elector does between two waits.
    fn act(&mut self, index: usize, time: u64) {
        let config = self.config.clone();
        let wall = Timestamp::from_millisecond(self.random.below(1 << 40) as i64).unwrap();
        loop {
            let random = self.random.unit();
            let candidate = &mut self.candidates[index];
            let now = candidate.now(time);
            let me = candidate.me.clone();
            if let Some(until) = candidate.stubborn_until {
                if now < until {
                    return;
                }
                candidate.stubborn_until = None;
                candidate.observed.lost(now, config.pause(random));
            }
            let pause = config.pause(if candidate.observed.holds() { 0.0 } else { random });
            // The deadline comes before any answer.
            let decision = step(&candidate.observed, now, &me, &config);
            if let Decision::Lose(loss) = decision {
                candidate.waiting = None;
                let until = match loss {
                    Loss::Taken => now,
                    _ => candidate.observed.abandon_at(&config).unwrap_or(now),
                };
                candidate.stubborn_until = Some(until);
                continue;
            }
            if let Some((number, sent, given_up)) = candidate.waiting {
                let arrived = candidate.inbox.iter().find(|(at, of, _)| *at <= time && *of == number);
                let answer = match arrived {
                    Some((_, _, answer)) => answer.clone(),
                    None if now >= given_up => Answer::Failed,
                    None => return,
                };
                candidate.waiting = None;
                candidate.inbox.clear();
                let observed = &mut candidate.observed;
                match answer {
                    Answer::Lease(lease) => observed.read(now, lease, &me, &config),
                    Answer::Written(lease) => {
                        let held = observed.holds();
                        observed.written(sent, now, lease, &me, &config);
                        candidate.terms += u64::from(!held && observed.holds());
                    }
                    Answer::Conflict => observed.conflicted(now, pause),
                    Answer::Missing => observed.read(now, None, &me, &config),
                    Answer::Failed => observed.failed(now, pause),
                }
                continue;
            }
            let found = candidate.observed.lease.clone();
            match (decision, found) {
                (Decision::Wait(_) | Decision::Lose(_), _) => return,
                (Decision::Rest, _) | (Decision::Claim, None) => candidate.observed.rested(now, pause),
                (Decision::Read, _) => return self.send(index, time, Request::Get),
                (Decision::Create, _) => {
                    return self.send(index, time, Request::Create(record::empty("ns", "lease")));
                }
                (Decision::Claim, Some(found)) => {
                    let lease = record::claimed(&found, &me, &config, wall);
                    return self.send(index, time, Request::Replace(lease));
                }
            }
        }
    }
}

fn histories(seeds: std::ops::Range<u64>, restarts: bool, deletions: bool) {
    let mut terms = 0;
    let many = seeds.end - seeds.start;
    for seed in seeds {
        let mut world = World::new(seed, restarts, deletions);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if let Err(panic) = result {
            eprintln!("seed {seed}, restarts {restarts}, deletions {deletions}");
            std::panic::resume_unwind(panic);
        }
        terms += world.candidates.iter().map(|candidate| candidate.terms).sum::<u64>();
    }
    // Else nothing was tried.
    assert!(terms > 3 * many, "{terms} terms in {many} histories");
}

#[test]
fn never_two_at_work_and_always_one_in_the_end() {
    histories(0..400, false, false);
}

#[test]
fn never_two_at_work_when_candidates_are_killed_and_started_again() {
    histories(1_000..1_400, true, false);
}

#[test]
fn never_two_at_work_when_the_lease_is_deleted_under_candidates_that_knew_it() {
    histories(2_000..2_400, false, true);
}
