//! Leadership against the real API server: its conflicts, its resourceVersions, its answers that get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Client;
use spillway_lease::{Config, Elector, Identity};
use spillway_tests::child::free_port;
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::process::Process;
use spillway_tests::proxy::{Action, Proxy, Rule};
use spillway_tests::wait::until;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::claim::claims;

claims![
    the_first_makes_the_lease_and_goes_on_renewing_it,
    who_may_not_make_the_lease_waits_for_it,
    of_candidates_that_begin_together_one_works_at_a_time,
    a_killed_holder_is_followed_when_its_lease_has_run_out_and_not_before,
    a_holder_that_is_told_to_stop_lets_the_next_begin_at_once,
    a_holder_whose_lease_is_deleted_stops_and_it_is_made_again,
    a_claim_whose_answer_is_lost_is_found_to_be_ones_own,
    a_renewal_whose_answer_is_lost_interrupts_nothing,
    a_holder_that_gets_no_answers_stops_before_another_begins,
];

const NAME: &str = "elected";

/// Short, but nothing that a busy machine could miss.
fn config() -> Config {
    Config {
        lease_duration: Duration::from_secs(8),
        renew_deadline: Duration::from_secs(6),
        retry_period: Duration::from_millis(500),
        create: true,
    }
}

/// How many work now, and the most that ever did at once.
#[derive(Default)]
struct Stage {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Stage {
    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// While it is there, its candidate works.
struct OnStage(Arc<Stage>, Arc<AtomicUsize>);

impl OnStage {
    fn enter(stage: &Arc<Stage>, working: &Arc<AtomicUsize>) -> Self {
        working.fetch_add(1, Ordering::SeqCst);
        let now = stage.now.fetch_add(1, Ordering::SeqCst) + 1;
        stage.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(stage), Arc::clone(working))
    }
}

impl Drop for OnStage {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Candidate {
    working: Arc<AtomicUsize>,
    terms: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    task: JoinHandle<Option<()>>,
}

impl Candidate {
    /// One that works until it is told to stop, or for `term`.
    fn new(
        client: Client,
        space: &Space,
        name: &str,
        stage: &Arc<Stage>,
        config: Config,
        term: Duration,
    ) -> Self {
        let me = Identity::new(name).expect("a name");
        let elector = Elector::new(client, &space.namespace, NAME, me, config).expect("an elector");
        let (working, terms): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let shutdown = CancellationToken::new();
        let work = {
            let (stage, working, terms) = (Arc::clone(stage), Arc::clone(&working), Arc::clone(&terms));
            let shutdown = shutdown.clone();
            move |lost: CancellationToken| {
                let on_stage = OnStage::enter(&stage, &working);
                terms.fetch_add(1, Ordering::SeqCst);
                let shutdown = shutdown.clone();
                async move {
                    let _on_stage = on_stage;
                    tokio::select! {
                        () = lost.cancelled() => {}
                        () = shutdown.cancelled() => {}
                        () = tokio::time::sleep(term) => {}
                    }
                }
            }
        };
        let told = shutdown.clone();
        let task = tokio::spawn(async move { elector.run(work, told).await });
        Self { working, terms, shutdown, task }
    }

    fn start(space: &Space, name: &str, stage: &Arc<Stage>) -> Self {
        Self::new(space.client.clone(), space, name, stage, config(), Duration::MAX)
    }

    fn works(&self) -> bool {
        self.working.load(Ordering::SeqCst) > 0
    }

    async fn comes_to_work(&self, name: &str) {
        until(&format!("{name} to lead"), PATIENCE, async || self.works().then_some(())).await;
    }

    /// As SIGKILL does: nothing is released.
    async fn kill(mut self) {
        self.task.abort();
        (&mut self.task).await.ok();
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn spec(space: &Space) -> LeaseSpec {
    space.get::<Lease>(NAME).await.spec.unwrap_or_default()
}

/// Waits for another renewal of the same holder.
async fn is_renewed(space: &Space) -> LeaseSpec {
    let before = spec(space).await;
    space
        .sees("a renewal", NAME, |now: &Lease| {
            let spec = now.spec.clone()?;
            (spec.renew_time > before.renew_time && spec.holder_identity == before.holder_identity)
                .then_some(spec)
        })
        .await
}

async fn the_first_makes_the_lease_and_goes_on_renewing_it(space: &mut Space) {
    let first = Candidate::start(space, "first", &Arc::default());
    first.comes_to_work("first").await;
    let began = spec(space).await;
    assert_eq!(began.holder_identity.as_deref(), Some("first"));
    assert_eq!((began.lease_duration_seconds, began.lease_transitions), (Some(8), Some(1)));
    for _ in 0..3 {
        let now = is_renewed(space).await;
        assert_eq!(
            (now.acquire_time, now.lease_transitions),
            (began.acquire_time.clone(), began.lease_transitions)
        );
    }
    assert_eq!(first.terms.load(Ordering::SeqCst), 1);
}

async fn who_may_not_make_the_lease_waits_for_it(space: &mut Space) {
    let stage = Arc::default();
    let waits = Config { create: false, ..config() };
    let one = Candidate::new(space.client.clone(), space, "one", &stage, waits, Duration::MAX);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!one.works());
    let mut lease = Lease::default();
    lease.metadata.name = Some(NAME.to_owned());
    space.create(&lease).await;
    one.comes_to_work("one").await;
}

async fn of_candidates_that_begin_together_one_works_at_a_time(space: &mut Space) {
    let stage: Arc<Stage> = Arc::default();
    let term = Duration::from_millis(300);
    let mut candidates: Vec<_> = (0..5)
        .map(|number| {
            let name = format!("candidate-{number}");
            Candidate::new(space.client.clone(), space, &name, &stage, config(), term)
        })
        .collect();
    for candidate in &mut candidates {
        let ended = tokio::time::timeout(PATIENCE, &mut candidate.task).await;
        assert_eq!(ended.expect("in time").expect("no panic"), Some(()), "one never led");
    }
    assert_eq!(stage.most(), 1);
    let after = spec(space).await;
    assert_eq!((after.holder_identity.as_deref(), after.lease_transitions), (Some(""), Some(5)));
}

async fn a_killed_holder_is_followed_when_its_lease_has_run_out_and_not_before(space: &mut Space) {
    let stage = Arc::default();
    let first = Candidate::start(space, "first", &stage);
    first.comes_to_work("first").await;
    let second = Candidate::start(space, "second", &stage);
    for _ in 0..3 {
        is_renewed(space).await;
    }
    first.kill().await;
    let last = spec(space).await;
    assert!(!second.works());
    second.comes_to_work("second").await;
    let now = spec(space).await;
    assert_eq!((now.holder_identity.as_deref(), now.lease_transitions), (Some("second"), Some(2)));
    let pause = now.acquire_time.expect("a time").0.duration_since(last.renew_time.expect("a time").0);
    // One clock wrote both.
    assert!(pause >= jiff::SignedDuration::from_secs(8), "after {pause:?}");
    assert_eq!(stage.most(), 1);
}

async fn a_holder_that_is_told_to_stop_lets_the_next_begin_at_once(space: &mut Space) {
    let long = Config {
        lease_duration: Duration::from_secs(600),
        renew_deadline: Duration::from_secs(500),
        ..config()
    };
    let stage = Arc::default();
    let candidate =
        |name| Candidate::new(space.client.clone(), space, name, &stage, long.clone(), Duration::MAX);
    let mut first = candidate("first");
    first.comes_to_work("first").await;
    let second = candidate("second");
    is_renewed(space).await;
    let since = Instant::now();
    first.shutdown.cancel();
    assert_eq!((&mut first.task).await.expect("no panic"), Some(()));
    second.comes_to_work("second").await;
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    assert_eq!(stage.most(), 1);
}

async fn a_holder_whose_lease_is_deleted_stops_and_it_is_made_again(space: &mut Space) {
    let one = Candidate::start(space, "one", &Arc::default());
    one.comes_to_work("one").await;
    let before = space.get::<Lease>(NAME).await.metadata.uid;
    space.api::<Lease>().delete(NAME, &Default::default()).await.expect("deleted");
    until("the work to end", PATIENCE, async || (!one.works()).then_some(())).await;
    one.comes_to_work("one").await;
    assert_ne!(space.get::<Lease>(NAME).await.metadata.uid, before);
    assert_eq!(one.terms.load(Ordering::SeqCst), 2);
}

/// A way to the API server on which answers get lost. `kubectl proxy` takes the encryption off.
struct Detour {
    proxy: Proxy,
    _kubectl: Process,
}

impl Detour {
    async fn start(space: &Space) -> Self {
        let port = free_port();
        let mut command = space.world.control_plane.kubectl();
        command.args(["proxy", &format!("--port={port}")]);
        let name = format!("{}-kubectl-proxy", space.namespace);
        let kubectl = Process::start(&name, space.world.control_plane.dir(), &mut command);
        until("kubectl proxy", PATIENCE, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self { proxy: Proxy::start(port).await, _kubectl: kubectl }
    }

    fn candidate(&self, space: &Space, name: &str, stage: &Arc<Stage>) -> Candidate {
        let mut way = kube::Config::new(self.proxy.url().parse().expect("a URL"));
        // As spillway_lease::connect does.
        way.default_retry = false;
        let client = Client::try_from(way).expect("a client");
        Candidate::new(client, space, name, stage, config(), Duration::MAX)
    }
}

async fn a_claim_whose_answer_is_lost_is_found_to_be_ones_own(space: &mut Space) {
    let detour = Detour::start(space).await;
    let made = detour.proxy.add(Rule::new(Action::CutAfter).method(Method::POST).times(1));
    let claimed = detour.proxy.add(Rule::new(Action::CutAfter).method(Method::PUT).times(1));
    let one = detour.candidate(space, "one", &Arc::default());
    one.comes_to_work("one").await;
    assert_eq!((made.taken(), claimed.taken()), (1, 1));
    // Its own claim that it didn't know of is no other's.
    assert_eq!(spec(space).await.lease_transitions, Some(1));
}

async fn a_renewal_whose_answer_is_lost_interrupts_nothing(space: &mut Space) {
    let detour = Detour::start(space).await;
    let one = detour.candidate(space, "one", &Arc::default());
    one.comes_to_work("one").await;
    let renewed = detour.proxy.add(Rule::new(Action::CutAfter).method(Method::PUT).times(2));
    renewed.was_taken(2).await;
    for _ in 0..3 {
        is_renewed(space).await;
    }
    assert!(one.works());
    assert_eq!(one.terms.load(Ordering::SeqCst), 1);
    assert_eq!(spec(space).await.lease_transitions, Some(1));
}

async fn a_holder_that_gets_no_answers_stops_before_another_begins(space: &mut Space) {
    let detour = Detour::start(space).await;
    let stage = Arc::default();
    let first = detour.candidate(space, "first", &stage);
    first.comes_to_work("first").await;
    let second = Candidate::start(space, "second", &stage);
    is_renewed(space).await;
    // Its renewals take effect, which it can't know.
    detour.proxy.add(Rule::new(Action::HangAfter).method(Method::PUT));
    detour.proxy.add(Rule::new(Action::HangBefore).method(Method::GET));
    until("the first to stop", PATIENCE, async || (!first.works()).then_some(())).await;
    second.comes_to_work("second").await;
    assert_eq!(stage.most(), 1);
    // Once it is heard again, it is a candidate as any other.
    detour.proxy.behave();
    second.shutdown.cancel();
    first.comes_to_work("first").await;
    assert_eq!(stage.most(), 1);
}
