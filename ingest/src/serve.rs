//! One ingest process from start to drained.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use spillway_bucket::Bucket;
use spillway_model::Incarnation;
use spillway_model::settings::{IngestSettings, SettingsError};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Health};
use crate::buffers::{Buffers, LeftOver};
use crate::http::{self, App};
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::server::{self, Secure};
use crate::settings::LoadError;
use crate::stage::Stager;
use crate::store::Store;
use crate::tenants::{Registry, TenantsSource};
use crate::tls::{CertificateError, Handshakes, Tls};

/// Why ingest could not start.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("settings can't be used: {0}")]
    Settings(#[from] SettingsError),
    #[error("tenants can't be used: {0}")]
    Tenants(#[from] LoadError),
    #[error("the certificate can't be used: {0}")]
    Certificate(#[from] CertificateError),
    #[error(
        "{address} can't be listened on: {source}; stop what uses the port or set `{setting}` to another"
    )]
    Port { address: SocketAddr, setting: &'static str, source: std::io::Error },
}

impl IngestError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Settings(error) => error.reason(),
            Self::Tenants(error) => error.reason(),
            Self::Certificate(error) => error.reason(),
            Self::Port { .. } => "port_taken",
        }
    }
}

/// The two ports, bound before anything else happens.
#[derive(Debug)]
pub struct Listeners {
    pub http: TcpListener,
    /// None: no probes, no metrics, no `/drain`.
    pub admin: Option<TcpListener>,
}

impl Listeners {
    /// # Errors
    /// When a port is taken.
    pub async fn bind(settings: &IngestSettings) -> Result<Self, IngestError> {
        let bind = async |address, setting| {
            TcpListener::bind(address).await.map_err(|source| IngestError::Port { address, setting, source })
        };
        Ok(Self {
            http: bind(settings.http, "http").await?,
            admin: Some(bind(settings.admin, "admin").await?),
        })
    }
}

/// How the process is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Readiness off, and after `drain.readinessDelay` take no more requests, stage what is there, end.
    pub drain: CancellationToken,
    /// End now.
    pub force: CancellationToken,
}

/// How the process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// What was not staged.
    pub left_over: LeftOver,
    /// Requests that were under way were all answered.
    pub all_answered: bool,
    /// It was told to end before it was drained.
    pub forced: bool,
}

impl DrainReport {
    /// 0: every record is staged. 4: some are not, whatever their senders were told. 5: forced.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.forced {
            5
        } else if self.left_over.is_nothing() {
            0
        } else {
            4
        }
    }
}

/// Runs until told to stop and drained.
///
/// # Errors
/// When it can't start.
pub async fn serve(
    settings: IngestSettings,
    tenants: TenantsSource,
    bucket: Bucket,
    listeners: Listeners,
    shutdown: Shutdown,
) -> Result<DrainReport, IngestError> {
    serve_into(settings, tenants, Arc::new(bucket), listeners, shutdown).await
}

/// As [`serve`], into anything that takes objects.
///
/// # Errors
/// When it can't start.
pub async fn serve_into(
    settings: IngestSettings,
    tenants: TenantsSource,
    store: Arc<dyn Store>,
    listeners: Listeners,
    shutdown: Shutdown,
) -> Result<DrainReport, IngestError> {
    settings.validate()?;
    let (drain, max_age) = (settings.drain.clone(), settings.max_connection_age.get());
    let tenants = Arc::new(Registry::load(tenants, settings.default_retention_days)?);
    let tls = settings.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
    let queue = Queue::new(&settings.queue);
    let buffers = Arc::new(Buffers::new(settings.flush.clone(), settings.objects, &settings.queue));
    let metrics = Arc::new(Metrics::new(Arc::clone(&buffers), Arc::clone(&queue)));
    metrics.tenants.set(tenants.current().len() as i64);
    let incarnation = Incarnation::new(&host_name(), rand::random());
    tracing::info!(%incarnation, tenants = tenants.current().len(), "ingest starts");
    let stager = Stager::new(&settings, Arc::clone(&buffers), store, Arc::clone(&metrics), incarnation);
    let app = Arc::new(App {
        intake: Intake::new(Arc::clone(&buffers), settings.ack_timeout.get()),
        settings,
        tenants: Arc::clone(&tenants),
        queue,
        buffers: Arc::clone(&buffers),
        metrics: Arc::clone(&metrics),
        stopping: AtomicBool::new(false),
        health: Health::new(Arc::clone(&stager)),
        heavy: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from))),
    });

    let background = CancellationToken::new();
    let _ends_background = background.clone().drop_guard();
    spawn_until(&background, Arc::clone(&stager).run());
    spawn_until(&background, watch_tenants(tenants, Arc::clone(&metrics)));
    if let Some(listener) = listeners.admin {
        let (router, stop) = (admin::router(Arc::clone(&app)), background.clone());
        spawn_until(&background, async move {
            server::serve(listener, None, Duration::ZERO, router, stop, Duration::from_secs(1)).await;
        });
    }
    let secure = tls.map(|tls| {
        let handshakes = Handshakes::new(tls.config());
        spawn_until(&background, watch_certificate(tls, Arc::clone(&metrics)));
        Secure { handshakes, metrics: Arc::clone(&metrics) }
    });
    let no_more = CancellationToken::new();
    let requests = server::serve(
        listeners.http,
        secure,
        max_age,
        http::router(Arc::clone(&app)),
        no_more.clone(),
        drain.request_timeout.get(),
    );

    let mut report = DrainReport::default();
    let drained = async {
        shutdown.drain.cancelled().await;
        tracing::info!("told to stop");
        metrics.draining.set(1);
        // Who routes by readiness still sends requests until it noticed, whether or not a preStop hook has
        // called `/drain`. What that call has waited for is not waited for again.
        let noticed = app.health.unready() + drain.readiness_delay.get();
        tokio::time::sleep_until(noticed.into()).await;
        tracing::info!("no more requests are taken");
        app.stopping.store(true, std::sync::atomic::Ordering::Release);
        // From here on durable requests are answered as soon as the bucket has their rows.
        stager.hurry();
        no_more.cancel();
    };
    let finish = async {
        let (all_answered, ()) = tokio::join!(requests, drained);
        // A request that was not answered in time must not be acknowledged from memory now.
        buffers.close();
        let empty = empty(&buffers);
        let staged = tokio::time::timeout(drain.flush_timeout.get(), empty).await.is_ok();
        (all_answered, staged)
    };
    tokio::select! {
        (all_answered, _) = finish => report.all_answered = all_answered,
        () = shutdown.force.cancelled() => report.forced = true,
    }
    report.left_over = buffers.give_up();
    log(&report);
    Ok(report)
}

async fn empty(buffers: &Buffers) {
    while !buffers.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn watch_tenants(tenants: Arc<Registry>, metrics: Arc<Metrics>) {
    let registry = Arc::clone(&tenants);
    let failures = Arc::clone(&metrics);
    let watch = registry.watch(move || {
        failures.tenants_reload_failures.inc();
    });
    let count = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            metrics.tenants.set(tenants.current().len() as i64);
        }
    };
    tokio::join!(watch, count);
}

async fn watch_certificate(tls: Arc<Tls>, metrics: Arc<Metrics>) {
    let failures = Arc::clone(&metrics);
    let changed = move |tls: &Tls| metrics.certificate(tls.not_after());
    let failed = move || {
        failures.tls_reload_failures.inc();
    };
    tls.watch(changed, failed).await;
}

fn spawn_until(stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

fn log(report: &DrainReport) {
    let LeftOver { lost_records, unacknowledged_records } = report.left_over;
    let forced = report.forced;
    if report.left_over.is_nothing() {
        tracing::info!(forced, "drained: every record is staged");
    } else {
        tracing::error!(
            lost_records,
            unacknowledged_records,
            forced,
            "records are not staged and gone: the bucket did not take them in time. Those lost had been \
             acknowledged from memory; of the unacknowledged no sender was told that they are stored"
        );
    }
}

/// The pod's name in Kubernetes, the machine's elsewhere.
fn host_name() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .filter(|name| !name.is_empty())
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map_or_else(|| "ingest".to_owned(), |name| name.trim().to_owned())
}
