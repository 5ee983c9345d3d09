//! The process: client, admin port, leadership, signals.

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use kube::{
    Client,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::events::{Recorder, Reporter},
};
use spillway_lease::{Elector, Identity};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    admin::{self, Readiness},
    args::{Args, LogFormat},
    controller,
    ctx::{Config, Ctx},
    errors,
    metrics::{Counted, Metrics},
    plan::names::FIELD_MANAGER,
};

const USAGE: u8 = 2;
const START: u8 = 3;

/// It could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("there is no way to the API server: {0}; give --kubeconfig, or run it in a cluster")]
    Client(String),
    #[error("can't listen on {address} ({source}); choose another --metrics-addr")]
    Port { address: std::net::SocketAddr, source: std::io::Error },
    #[error("no leader can be elected: {0}")]
    Election(#[from] spillway_lease::ConfigError),
    #[error("signals can't be received: {0}")]
    Signals(std::io::Error),
    /// It had started, and goes on when it is started again.
    #[error("it can't go on: {0}")]
    Broken(String),
}

/// Runs the process to its end.
pub async fn run(args: Args) -> ExitCode {
    start_logs(args.log);
    // Two crypto providers are in the tree; without a choice TLS panics at its first use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if args.image.trim().is_empty() {
        tracing::error!("--image names no image");
        return ExitCode::from(USAGE);
    }
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ StartError::Broken(_)) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(START)
        }
    }
}

fn start_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SPILLWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // It logs each failed request as an error of its own; whoever asked says it better.
    let filter = match "kube_client::client::builder=off".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => logs.json().flatten_event(true).init(),
        LogFormat::Text => logs.init(),
    }
}

async fn serve(args: Args) -> Result<(), StartError> {
    let metrics = Arc::new(Metrics::default());
    let client = client(&args, &metrics).await?;
    let address = args.metrics_addr;
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Port { address, source })?;
    let stop = stop_on_signal().map_err(StartError::Signals)?;
    let readiness = Arc::new(Readiness::default());
    let served = CancellationToken::new();
    let serving = tokio::spawn(admin::serve(listener, metrics.clone(), readiness.clone(), served.clone()));
    tokio::spawn(find_server(client.clone(), readiness.clone()));

    let identity = Identity::of_this_pod();
    // The API server takes no event without one.
    let instance = identity.as_ref().map_or_else(|_| FIELD_MANAGER.to_owned(), ToString::to_string);
    let lead = |stop: CancellationToken| {
        let ctx = context(&args, client.clone(), metrics.clone(), readiness.clone(), &instance);
        lead(ctx, args.watch_namespaces.clone(), stop)
    };
    let ended = if args.no_leader_election {
        Some(lead(stop.clone()).await)
    } else {
        let config = spillway_lease::Config { create: true, ..spillway_lease::Config::default() };
        let elector =
            Elector::new(client.clone(), &args.lease_namespace, &args.lease_name, identity?, config)?;
        let shutdown = stop.clone();
        let work = |lost: CancellationToken| {
            let (shutdown, working) = (shutdown.clone(), lead(lost.clone()));
            // Told to shut down, it ends as if the lease were lost, but the lease is released then.
            async move {
                let mut working = std::pin::pin!(working);
                tokio::select! {
                    ended = &mut working => return ended,
                    () = shutdown.cancelled() => lost.cancel(),
                }
                working.await
            }
        };
        elector.run(work, stop.clone()).await
    };
    served.cancel();
    // Nobody waits for a last scrape.
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    ended.unwrap_or(Ok(()))
}

/// While it is there, this process leads. Also an elector that drops its work ends it.
struct Leading(Arc<Ctx>);

impl Leading {
    fn begin(ctx: Arc<Ctx>) -> Self {
        ctx.metrics.leading.set(1);
        Self(ctx)
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.metrics.leading.set(0);
        self.0.readiness.forget();
        self.0.ended.cancel();
    }
}

/// Runs every scope until `stop`.
///
/// # Errors
/// When one of them can't go on: the others end with it, and the process, to be started anew.
async fn lead(ctx: Arc<Ctx>, namespaces: Vec<String>, stop: CancellationToken) -> Result<(), StartError> {
    let _leading = Leading::begin(ctx.clone());
    let scopes: Vec<Option<String>> =
        if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
    // Dropped with this, and what runs in it.
    let mut running = JoinSet::new();
    for scope in scopes {
        running.spawn(controller::run(ctx.clone(), scope, stop.clone()));
    }
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(ended) => ended.map_err(|broken| StartError::Broken(broken.to_string()))?,
            Err(panicked) => return Err(StartError::Broken(panicked.to_string())),
        }
    }
    Ok(())
}

fn context(
    args: &Args,
    client: Client,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    instance: &str,
) -> Arc<Ctx> {
    let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(instance.to_owned()) };
    Arc::new(Ctx {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        config: Config {
            image: args.image.clone(),
            use_own_credentials: args.use_own_credentials,
            cleanup_timeout: args.cleanup_timeout.get(),
            resync: args.resync.get(),
            tick: args.status_interval.get(),
            sts_endpoint: args.sts_endpoint.clone(),
        },
        metrics,
        readiness,
        inventory: Default::default(),
        secrets: Default::default(),
        memories: Default::default(),
        pod_monitors: AtomicBool::new(false),
        wakes: Default::default(),
        waiting: Semaphore::new(controller::WAITING),
        cleaning: Semaphore::new(controller::CLEANING),
        ended: CancellationToken::new(),
    })
}

async fn client(args: &Args, metrics: &Arc<Metrics>) -> Result<Client, StartError> {
    let unusable = |error: &dyn std::fmt::Display| StartError::Client(error.to_string());
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&error))?
        }
        None => kube::Config::infer().await.map_err(|error| unusable(&error))?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    let metrics = metrics.clone();
    let counted = tower::layer::layer_fn(move |inner| Counted::new(inner, metrics.clone()));
    let builder = ClientBuilder::try_from(config).map_err(|error| unusable(&error))?;
    Ok(builder.with_layer(&counted).build())
}

/// Ready once the API server has answered.
async fn find_server(client: Client, readiness: Arc<Readiness>) {
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                tracing::info!(version = version.git_version, "the API server answers");
                readiness.reached();
                return;
            }
            Err(error) => tracing::warn!("the API server does not answer: {}", errors::chain(&error)),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// The first signal stops, the second one ends at once.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let first = stop.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                std::process::exit(130);
            }
            tracing::info!("stopping: finishing what was begun");
            first.cancel();
        }
    });
    Ok(stop)
}

/// For tests.
#[cfg(test)]
pub(crate) fn context_of(client: Client, waiting: usize) -> Ctx {
    Ctx {
        recorder: Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER)),
        client,
        config: Config {
            image: "spillway:1".to_owned(),
            use_own_credentials: false,
            cleanup_timeout: Duration::from_secs(600),
            resync: Duration::from_secs(600),
            tick: Duration::from_secs(60),
            sts_endpoint: None,
        },
        metrics: Default::default(),
        readiness: Default::default(),
        inventory: Default::default(),
        secrets: Default::default(),
        memories: Default::default(),
        pod_monitors: AtomicBool::new(false),
        wakes: Default::default(),
        waiting: Semaphore::new(waiting),
        cleaning: Semaphore::new(1),
        ended: CancellationToken::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leader_that_may_not_see_what_it_looks_after_is_not_ready_and_says_what_it_lacks() {
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let ctx = Arc::new(context_of(client, 1));
        let readiness = ctx.readiness.clone();
        assert_eq!(readiness.answer().0.as_u16(), 503);
        readiness.reached();
        assert_eq!(readiness.answer().0.as_u16(), 200);
        let work = lead(ctx, vec!["a".to_owned()], CancellationToken::new());
        let _ = tokio::time::timeout(Duration::from_secs(1), work).await.unwrap_err();
        // It was dropped, and leads no more.
        assert_eq!(readiness.answer().0.as_u16(), 200);
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let ctx = Arc::new(Ctx { readiness: readiness.clone(), ..context_of(client, 1) });
        let leading = tokio::spawn(lead(ctx, vec!["a".to_owned()], CancellationToken::new()));
        let told = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let (status, text) = readiness.answer();
                if status.as_u16() == 503 {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let text = told.await.unwrap();
        assert!(text.starts_with("can't be listed in a: ") && text.contains("LogPipelines"), "{text}");
        leading.abort();
    }

    #[tokio::test]
    async fn a_work_that_is_dropped_leads_no_more_and_takes_along_what_goes_on_beside_it() {
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let ctx = Arc::new(context_of(client, 1));
        let work = lead(ctx.clone(), vec!["a".to_owned()], CancellationToken::new());
        let _ = tokio::time::timeout(Duration::from_millis(200), async {
            tokio::join!(work, async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                assert_eq!(ctx.metrics.leading.get(), 1);
            })
        })
        .await;
        assert_eq!(ctx.metrics.leading.get(), 0);
        assert!(ctx.ended.is_cancelled());
    }
}
