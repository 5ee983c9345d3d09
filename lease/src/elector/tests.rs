use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;

/// How the server behaves towards one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Fine,
    /// Nothing arrives, nothing is answered.
    Hangs,
    /// Nothing arrives, and that is known at once.
    Away,
    /// Everything is done, no answer comes back.
    LosesAnswers,
}

/// The API server's part: one object, compared by resourceVersion.
#[derive(Default)]
struct Server {
    lease: Mutex<Option<Lease>>,
    version: AtomicU32,
    writes: AtomicU32,
}

impl Server {
    fn store(&self, mut lease: Lease, uid: Option<String>) -> Lease {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        self.writes.fetch_add(1, Ordering::SeqCst);
        lease.metadata.resource_version = Some(version.to_string());
        lease.metadata.uid = uid.or(Some(format!("uid-{version}")));
        *self.lease.lock().unwrap() = Some(lease.clone());
        lease
    }

    fn make_empty(&self) {
        self.store(Lease::default(), None);
    }

    fn holder(&self) -> String {
        let lease = self.lease.lock().unwrap();
        lease.clone().and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
    }

    fn get(&self) -> Option<Lease> {
        self.lease.lock().unwrap().clone()
    }

    fn create(&self, lease: Lease) -> Result<Lease, Failure> {
        if self.get().is_some() {
            return Err(Failure::Conflict);
        }
        Ok(self.store(lease, None))
    }

    fn replace(&self, lease: Lease) -> Result<Lease, Failure> {
        let found = self.get().ok_or(Failure::Missing)?;
        assert!(lease.metadata.resource_version.is_some(), "a write without a version overwrites anything");
        if lease.metadata.resource_version != found.metadata.resource_version {
            return Err(Failure::Conflict);
        }
        Ok(self.store(lease, found.metadata.uid))
    }
}

/// One candidate's way to the server.
#[derive(Clone)]
struct Line {
    server: Arc<Server>,
    mood: Arc<Mutex<Mood>>,
}

impl Line {
    fn to(server: &Arc<Server>) -> Self {
        Self { server: server.clone(), mood: Arc::new(Mutex::new(Mood::Fine)) }
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Server) -> Result<T, Failure> + Send + 'static,
    ) -> Answer<T> {
        let Self { server, mood } = self.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mood = *mood.lock().unwrap();
            match mood {
                Mood::Fine => call(&server),
                Mood::Hangs => std::future::pending().await,
                Mood::Away => Err(Failure::Unreachable("connection refused".to_owned())),
                Mood::LosesAnswers => {
                    call(&server).ok();
                    Err(Failure::Unreachable("connection reset".to_owned()))
                }
            }
        })
    }
}

impl Leases for Line {
    fn get(&self) -> Answer<Option<Lease>> {
        self.ask(|server| Ok(server.get()))
    }

    fn create(&self, lease: Lease) -> Answer<Lease> {
        self.ask(move |server| server.create(lease))
    }

    fn replace(&self, lease: Lease) -> Answer<Lease> {
        self.ask(move |server| server.replace(lease))
    }
}

fn elector(line: &Line, name: &str, config: Config) -> Elector {
    Elector::over(Arc::new(line.clone()), "ns", "lease", Identity::new(name).unwrap(), config).unwrap()
}

fn creating() -> Config {
    Config { create: true, ..Config::default() }
}

/// Seconds since the test began, in the tests' own time.
fn seconds_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64()
}

/// Says whether it is going on, until it is dropped.
struct AtWork<'a>(&'a AtomicBool);

impl<'a> AtWork<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        assert!(!flag.swap(true, Ordering::SeqCst), "two at work at once");
        Self(flag)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_by_itself_is_answered_and_the_lease_released() {
    let server = Arc::new(Server::default());
    let line = Line::to(&server);
    let work = async |_lost| {
        assert_eq!(server.holder(), "a");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(server.holder(), "a");
        7
    };
    let output = elector(&line, "a", creating()).run(work, CancellationToken::new()).await;
    assert_eq!(output, Some(7));
    let spec = server.get().unwrap().spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some(""), Some(1)));
    // One creation, a renewal every two seconds, one release.
    assert!((28..=34).contains(&server.writes.load(Ordering::SeqCst)), "{:?}", server.writes);
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_within_seconds_of_a_release() {
    let server = Arc::new(Server::default());
    server.make_empty();
    let (line, stop) = (Line::to(&server), CancellationToken::new());
    let first = elector(&line, "a", Config::default());
    let second = elector(&line, "b", Config::default());
    let began = Instant::now();
    let hold = async |_lost| tokio::time::sleep(Duration::from_secs(100)).await;
    let (_, taken) = tokio::join!(first.run(hold, stop.clone()), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        second.run(async |_lost| seconds_since(began), stop.clone()).await
    });
    let taken = taken.unwrap();
    assert!((100.0..105.0).contains(&taken), "{taken}");
    let transitions = server.get().unwrap().spec.unwrap().lease_transitions;
    assert_eq!(transitions, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_hung_api_server_ends_the_work_at_the_deadline_before_another_begins() {
    for mood in [Mood::Hangs, Mood::Away] {
        for stubborn in [false, true] {
            let server = Arc::new(Server::default());
            let (line, other, stop) = (Line::to(&server), Line::to(&server), CancellationToken::new());
            let at_work = AtomicBool::new(false);
            let (began, ended) = (Instant::now(), Mutex::new(0.0));
            let first = elector(&line, "a", creating());
            let second = elector(&other, "b", Config::default());
            let run_first = first.run(
                async |lost: CancellationToken| {
                    let _at_work = AtWork::begin(&at_work);
                    tokio::time::sleep(Duration::from_secs(20)).await;
                    line.set(mood);
                    lost.cancelled().await;
                    *ended.lock().unwrap() = seconds_since(began);
                    if stubborn {
                        std::future::pending::<()>().await;
                    }
                },
                stop.clone(),
            );
            let run_second = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let work = async |_lost| {
                    let _at_work = AtWork::begin(&at_work);
                    seconds_since(began)
                };
                let taken = second.run(work, stop.clone()).await;
                stop.cancel();
                taken
            };
            let (_, taken) = tokio::join!(run_first, run_second);
            let ended = *ended.lock().unwrap();
            assert!((28.0..30.1).contains(&ended), "{mood:?}: {ended}");
            let taken = taken.unwrap();
            assert!((33.0..40.0).contains(&taken), "{mood:?}: {taken}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_lost_for_a_while_cost_nothing() {
    let server = Arc::new(Server::default());
    let line = Line::to(&server);
    let started = AtomicU32::new(0);
    let work = async |_lost| {
        started.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(20)).await;
        line.set(Mood::LosesAnswers);
        tokio::time::sleep(Duration::from_secs(5)).await;
        line.set(Mood::Fine);
        tokio::time::sleep(Duration::from_secs(20)).await;
    };
    assert!(elector(&line, "a", creating()).run(work, CancellationToken::new()).await.is_some());
    assert_eq!(started.load(Ordering::SeqCst), 1);
    assert_eq!(server.holder(), "");
}

#[tokio::test(start_paused = true)]
async fn one_that_lost_leads_again_when_the_server_is_back() {
    let server = Arc::new(Server::default());
    let line = Line::to(&server);
    let at_work = AtomicBool::new(false);
    let started = AtomicU32::new(0);
    let work = async |lost: CancellationToken| {
        let _at_work = AtWork::begin(&at_work);
        if started.fetch_add(1, Ordering::SeqCst) == 0 {
            line.set(Mood::Away);
            lost.cancelled().await;
            line.set(Mood::Fine);
        }
    };
    assert!(elector(&line, "a", creating()).run(work, CancellationToken::new()).await.is_some());
    assert_eq!(started.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_create_waits_for_the_lease() {
    let server = Arc::new(Server::default());
    let line = Line::to(&server);
    let began = Instant::now();
    let candidate = elector(&line, "a", Config::default());
    let (led, ()) =
        tokio::join!(candidate.run(async |_lost| seconds_since(began), CancellationToken::new()), async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            server.make_empty();
        });
    assert!((30.0..35.0).contains(&led.unwrap()), "{led:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_ends_the_work_of_who_may_not_create_it() {
    let server = Arc::new(Server::default());
    server.make_empty();
    let line = Line::to(&server);
    let (began, deaths) = (Instant::now(), Mutex::new(Vec::new()));
    let candidate = elector(&line, "a", Config::default());
    let work = async |lost: CancellationToken| {
        if deaths.lock().unwrap().is_empty() {
            *server.lease.lock().unwrap() = None;
            lost.cancelled().await;
            deaths.lock().unwrap().push(seconds_since(began));
            server.make_empty();
        }
    };
    assert!(candidate.run(work, CancellationToken::new()).await.is_some());
    assert!(deaths.lock().unwrap()[0] < 3.0, "{deaths:?}");
}

#[tokio::test(start_paused = true)]
async fn shutting_down_lets_the_work_finish_and_renews_meanwhile() {
    let server = Arc::new(Server::default());
    let (line, stop) = (Line::to(&server), CancellationToken::new());
    let candidate = elector(&line, "a", creating());
    let work = async |lost: CancellationToken| {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(!lost.is_cancelled());
        assert_eq!(server.holder(), "a");
        "finished"
    };
    let (output, ()) = tokio::join!(candidate.run(work, stop.clone()), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.cancel();
    });
    assert_eq!(output, Some("finished"));
    assert_eq!(server.holder(), "");
}

#[tokio::test(start_paused = true)]
async fn shutting_down_a_standby_ends_it_at_once() {
    let server = Arc::new(Server::default());
    let (line, stop) = (Line::to(&server), CancellationToken::new());
    line.set(Mood::Hangs);
    let candidate = elector(&line, "a", creating());
    let began = Instant::now();
    let (output, ()) = tokio::join!(candidate.run(async |_lost| (), stop.clone()), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
    });
    assert_eq!(output, None);
    assert!(seconds_since(began) < 0.2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_won_while_shutting_down_is_released() {
    let server = Arc::new(Server::default());
    server.make_empty();
    let (line, stop) = (Line::to(&server), CancellationToken::new());
    let candidate = elector(&line, "a", Config::default());
    let (output, ()) = tokio::join!(candidate.run(async |_lost| (), stop.clone()), async {
        // While the claim is on its way: 5 ms for the read, 5 ms for the claim.
        tokio::time::sleep(Duration::from_millis(7)).await;
        stop.cancel();
    });
    assert_eq!(output, None);
    assert_eq!(server.holder(), "");
    assert_eq!(server.get().unwrap().spec.unwrap().lease_transitions, Some(1));
}

/// In real time: the process' only thread sleeps as it would in a SIGSTOP, and timers and answers are all overdue
/// when it goes on.
#[tokio::test]
async fn after_a_pause_of_the_process_the_work_is_not_continued() {
    let server = Arc::new(Server::default());
    let (line, stop) = (Line::to(&server), CancellationToken::new());
    let config = Config {
        lease_duration: Duration::from_secs(2),
        renew_deadline: Duration::from_millis(1_500),
        retry_period: Duration::from_millis(200),
        create: true,
    };
    let candidate = elector(&line, "a", config);
    let (paused, continued) = (AtomicBool::new(false), AtomicBool::new(false));
    let work = async |_lost| {
        if paused.load(Ordering::SeqCst) {
            // The second turn, after the loss.
            stop.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        paused.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(4));
        tokio::task::yield_now().await;
        continued.store(true, Ordering::SeqCst);
    };
    assert!(candidate.run(work, stop.clone()).await.is_some());
    assert!(!continued.load(Ordering::SeqCst));
}
