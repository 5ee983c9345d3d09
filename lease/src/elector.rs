//! Does what [`step`] decides, and runs the work while the lease is held.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError, Identity};
use crate::failure::Failure;
use crate::observed::Observed;
use crate::record::{self, Holder};
use crate::step::{Decision, Loss, step};

const FIELD_MANAGER: &str = "spillway-lease";

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// The three requests, so that tests can lose, delay and hang them.
trait Leases: Send + Sync {
    fn get(&self) -> Answer<Option<Lease>>;
    fn create(&self, lease: Lease) -> Answer<Lease>;
    fn replace(&self, lease: Lease) -> Answer<Lease>;
}

struct OnServer {
    api: Api<Lease>,
    name: String,
}

impl OnServer {
    fn params() -> PostParams {
        PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
    }
}

impl Leases for OnServer {
    fn get(&self) -> Answer<Option<Lease>> {
        let (api, name) = (self.api.clone(), self.name.clone());
        Box::pin(async move { Ok(api.get_opt(&name).await?) })
    }

    fn create(&self, lease: Lease) -> Answer<Lease> {
        let api = self.api.clone();
        Box::pin(async move { Ok(api.create(&Self::params(), &lease).await?) })
    }

    fn replace(&self, lease: Lease) -> Answer<Lease> {
        let (api, name) = (self.api.clone(), self.name.clone());
        Box::pin(async move { Ok(api.replace(&name, &Self::params(), &lease).await?) })
    }
}

/// A candidate for one Lease.
pub struct Elector {
    leases: Arc<dyn Leases>,
    namespace: String,
    name: String,
    me: Identity,
    config: Config,
    began: Instant,
}

/// What became of a decision.
enum Outcome {
    Waited,
    Rested,
    Read(Option<Lease>),
    Written { sent: Duration, lease: Lease },
    Failed(Failure),
}

/// What is known, and what was last said of it.
#[derive(Default)]
struct Seat {
    observed: Observed,
    complaint: Option<&'static str>,
    holder: Option<String>,
}

impl Elector {
    /// Nothing is asked of the API server yet.
    ///
    /// # Errors
    /// When the times can't work together.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        me: Identity,
        config: Config,
    ) -> Result<Self, ConfigError> {
        let leases = OnServer { api: Api::namespaced(client, namespace), name: name.to_owned() };
        Self::over(Arc::new(leases), namespace, name, me, config)
    }

    fn over(
        leases: Arc<dyn Leases>,
        namespace: &str,
        name: &str,
        me: Identity,
        config: Config,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Ok(Self { leases, namespace, name, me, config, began: Instant::now() })
    }

    /// The name under which this candidate runs.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.me
    }

    /// Waits for the lease and runs `work` while it is held, again and again, until a work ends by itself: then
    /// the lease is released, and this is its output. `None`: told to shut down while no work was running.
    ///
    /// `work` is given a token that is cancelled when the lease is lost. It then has until half-way between
    /// `renew_deadline` and `lease_duration` to end, and is dropped if it hasn't (at once, if somebody else is
    /// known to hold the lease); its output is of no interest any more. What it has spawned must end with it.
    /// After a loss this is a candidate again.
    ///
    /// On `shutdown` the work is expected to end by itself, having finished what it began; the lease is renewed
    /// meanwhile.
    pub async fn run<W, F, T>(&self, mut work: W, shutdown: CancellationToken) -> Option<T>
    where
        W: FnMut(CancellationToken) -> F,
        F: Future<Output = T>,
    {
        let mut seat = Seat::default();
        while self.stand_by(&mut seat, &shutdown).await {
            match self.lead(&mut seat, &mut work).await {
                Ok(output) => {
                    self.release(&mut seat).await;
                    return Some(output);
                }
                Err(loss) => {
                    tracing::warn!(lease = self.name, reason = loss.reason(), "no longer the leader");
                    let pause = self.config.pause(rand::random());
                    seat.observed.lost(self.now(), pause);
                }
            }
        }
        None
    }

    /// Until it is held; `false`: told to shut down before.
    async fn stand_by(&self, seat: &mut Seat, shutdown: &CancellationToken) -> bool {
        while !seat.observed.holds() {
            let decision = self.step(seat);
            // A claim is seen through, so that a lease that was won is released and not left to run out.
            let claims = decision == Decision::Claim;
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !claims => return false,
                outcome = self.carry_out(decision, &seat.observed) => self.take(seat, outcome),
            }
        }
        if shutdown.is_cancelled() {
            self.release(seat).await;
            return false;
        }
        true
    }

    /// Runs the work until it ends or the lease is lost.
    async fn lead<W, F, T>(&self, seat: &mut Seat, work: &mut W) -> Result<T, Loss>
    where
        W: FnMut(CancellationToken) -> F,
        F: Future<Output = T>,
    {
        // The answer to the claim may have come too late for any work to begin.
        if let Decision::Lose(loss) = self.step(seat) {
            return Err(loss);
        }
        tracing::info!(lease = self.name, identity = %self.me, "leading");
        let lost = CancellationToken::new();
        let mut work = pin!(work(lost.clone()));
        let loss = loop {
            let decision = self.step(seat);
            if let Decision::Lose(loss) = decision {
                break loss;
            }
            let until = seat.observed.held_until(&self.config).unwrap_or_default();
            tokio::select! {
                biased;
                () = self.passed(until) => break Loss::Deadline,
                outcome = self.carry_out(decision, &seat.observed) => self.take(seat, outcome),
                output = &mut work => return Ok(output),
            }
        };
        lost.cancel();
        let abandon_at = match loss {
            // Somebody else may be at work.
            Loss::Taken => Duration::ZERO,
            Loss::Deadline | Loss::Deleted => seat.observed.abandon_at(&self.config).unwrap_or_default(),
        };
        tokio::select! {
            biased;
            () = self.passed(abandon_at) => tracing::warn!(lease = self.name, "work was still going on and is dropped"),
            _ = &mut work => {}
        }
        Err(loss)
    }

    /// Gives it up, if it is still ours, so that the next need not wait. Only after the work has ended.
    async fn release(&self, seat: &mut Seat) {
        let patience = self.config.renew_deadline;
        match tokio::time::timeout(patience, self.try_release(seat)).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "released"),
            Ok(Err(error)) => {
                tracing::warn!(
                    lease = self.name,
                    reason = error.reason(),
                    "not released, it will run out: {error}"
                );
            }
            Err(_) => tracing::warn!(lease = self.name, "not released in time, it will run out"),
        }
        seat.observed = Observed::default();
    }

    async fn try_release(&self, seat: &mut Seat) -> Result<(), Failure> {
        // What is known may be old by one renewal whose answer was lost.
        let known = seat.observed.lease.clone().filter(|_| seat.observed.fresh);
        if let Some(held) = known.filter(|lease| self.is_mine(lease)) {
            match self.leases.replace(record::released(&held, wall())).await {
                Err(Failure::Conflict) => {}
                done => return done.map(|_| ()),
            }
        }
        match self.leases.get().await? {
            Some(held) if self.is_mine(&held) => {
                self.leases.replace(record::released(&held, wall())).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn is_mine(&self, lease: &Lease) -> bool {
        record::holder(lease, &self.me) == Holder::Me
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn step(&self, seat: &Seat) -> Decision {
        step(&seat.observed, self.now(), &self.me, &self.config)
    }

    /// The clock is read before every answer, whatever the timers have noticed yet: after a pause of the process
    /// this must be ready before anything that waits beside it is asked.
    async fn passed(&self, at: Duration) {
        let mut sleep = pin!(tokio::time::sleep_until(self.began + at));
        poll_fn(
            |context| {
                if self.now() >= at { std::task::Poll::Ready(()) } else { sleep.as_mut().poll(context) }
            },
        )
        .await;
    }

    async fn carry_out(&self, decision: Decision, observed: &Observed) -> Outcome {
        let sent = self.now();
        let result = match (decision, &observed.lease) {
            (Decision::Wait(until), _) => {
                self.passed(until).await;
                return Outcome::Waited;
            }
            (Decision::Read, _) => self.in_time(self.leases.get()).await.map(Outcome::Read),
            (Decision::Claim, Some(found)) => {
                let claim = record::claimed(found, &self.me, &self.config, wall());
                let written = self.in_time(self.leases.replace(claim)).await;
                match written {
                    Err(Failure::Missing) => Ok(Outcome::Read(None)),
                    written => written.map(|lease| Outcome::Written { sent, lease }),
                }
            }
            (Decision::Create, _) => {
                let empty = record::empty(&self.namespace, &self.name);
                let written = self.in_time(self.leases.create(empty)).await;
                written.map(|lease| Outcome::Written { sent, lease })
            }
            (Decision::Rest | Decision::Claim | Decision::Lose(_), _) => Ok(Outcome::Rested),
        };
        result.unwrap_or_else(Outcome::Failed)
    }

    async fn in_time<T>(&self, request: Answer<T>) -> Result<T, Failure> {
        let timeout = self.config.request_timeout();
        tokio::time::timeout(timeout, request).await.unwrap_or(Err(Failure::Timeout))
    }

    fn take(&self, seat: &mut Seat, outcome: Outcome) {
        let now = self.now();
        let holds = seat.observed.holds();
        let random = if holds { 0.0 } else { rand::random() };
        let pause = self.config.pause(random);
        match outcome {
            Outcome::Waited => {}
            Outcome::Rested => seat.observed.rested(now, pause),
            Outcome::Read(lease) => {
                if lease.is_none() && !self.config.create {
                    self.complain(seat, &Failure::Missing);
                } else {
                    seat.complaint = None;
                }
                self.say_holder(seat, lease.as_ref());
                seat.observed.read(now, lease, &self.me, &self.config);
            }
            Outcome::Written { sent, lease } => {
                seat.complaint = None;
                self.say_holder(seat, Some(&lease));
                seat.observed.written(sent, now, lease, &self.me, &self.config);
            }
            Outcome::Failed(Failure::Conflict) => {
                tracing::debug!(lease = self.name, "somebody else wrote first");
                seat.observed.conflicted(now, pause);
            }
            Outcome::Failed(failure) => {
                self.complain(seat, &failure);
                seat.observed.failed(now, pause);
            }
        }
    }

    /// Once per kind of fault, not every two seconds.
    fn complain(&self, seat: &mut Seat, failure: &Failure) {
        let reason = failure.reason();
        let (namespace, lease) = (&self.namespace, &self.name);
        if seat.complaint.replace(reason) == Some(reason) {
            tracing::debug!(namespace, lease, reason, "trying again: {failure}");
        } else {
            tracing::warn!(namespace, lease, reason, "trying again: {failure}");
        }
    }

    fn say_holder(&self, seat: &mut Seat, lease: Option<&Lease>) {
        let holder = match lease.map(|lease| record::holder(lease, &self.me)) {
            Some(Holder::Other(name)) => Some(name.to_owned()),
            _ => None,
        };
        if seat.holder != holder {
            if let Some(holder) = &holder {
                tracing::info!(lease = self.name, holder, "somebody else leads; standing by");
            }
            seat.holder = holder;
        }
    }
}

/// For people who look at the Lease; nothing is decided by it.
fn wall() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests;
