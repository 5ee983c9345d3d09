//! Starts everything in order, and stops it in the reverse order of the data's way: ingest drains into the bucket
//! first, then the syncer finishes what it has begun, then ClickHouse ends.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use spillway_bucket::Bucket;
use spillway_crds::{
    ValidatedPipeline,
    settings::{self, Files, StandIns},
};
use spillway_ingest::{Listeners, Shutdown};
use spillway_model::settings::{ClickHouseSettings, Span};
use spillway_schema::{ClickHouse, ClickHouseError, SchemaSpec};
use spillway_syncer::RebuildError;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Args, alone,
    clickhouse::{self, Choice, Running},
    files,
    lock::{self, DataLock},
    parts, ports, server,
};
use crate::{
    exit::{Exit, Failure},
    output, place,
    send::keys,
};

/// A pipeline that runs.
pub struct Up {
    name: String,
    http: SocketAddr,
    tls: bool,
    admin: SocketAddr,
    syncer_admin: SocketAddr,
    bucket: String,
    clickhouse: ClickHouseSettings,
    clickhouse_name: String,
    pub clickhouse_url: String,
    /// The table, as SQL names it.
    pub table: String,
    /// A key of each project.
    pub keys: BTreeMap<String, String>,
    ingest: Part,
    syncer: Part,
    server: Running,
    /// Ends ingest without draining.
    pub force: CancellationToken,
    _lock: DataLock,
}

/// A task, the way to stop it, and the sign that it has ended.
struct Part {
    stop: CancellationToken,
    ended: CancellationToken,
    task: JoinHandle<Result<Exit, Failure>>,
}

/// Starts everything.
///
/// # Errors
/// What could not start, and what to do about it.
pub async fn start(args: &Args) -> Result<Up, Failure> {
    let (pipeline, secrets) = place::read_pipeline(&args.file)?;
    let refused = alone::refused(&pipeline);
    if !refused.is_empty() {
        let fields: Vec<String> = refused.iter().map(|field| format!("\n  {field}")).collect();
        let message = format!("{} can't be run on one machine:{}", args.file.display(), fields.concat());
        return Err(Failure::new(Exit::Usage, message));
    }
    for field in alone::left_out(&pipeline) {
        output::note(&format!("left to the operator: {field}"));
    }
    let (tenants, refused) = settings::tenants_file(&pipeline, &secrets);
    let errors: Vec<_> = refused.into_iter().flat_map(|tenant| tenant.errors).collect();
    if !errors.is_empty() {
        return Err(place::wrong(&args.file, &errors));
    }
    let lock = lock::take(&args.data).map_err(cannot_start)?;
    let http = ports::bind(args.http, "requests", "--http").await.map_err(cannot_start)?;
    let admin = ports::bind(args.admin, "metrics and probes", "--admin").await.map_err(cannot_start)?;
    let syncer_admin = ports::bind(args.syncer_admin, "the syncer's metrics", "--syncer-admin")
        .await
        .map_err(cannot_start)?;
    let unwritten = |error| Failure::new(Exit::Usage, error);
    let mut files = files::write(&pipeline, &secrets, &args.data).map_err(unwritten)?;
    files.tls = files::certificate(&pipeline, &secrets, &args.data).map_err(unwritten)?;

    let choice = Choice::make(pipeline.clickhouse.url.as_deref(), server::find());
    let server = clickhouse::start(choice, &args.data, args.clickhouse_port).await.map_err(cannot_start)?;
    let stand_ins = place::stand_ins(&args.data, server.url.clone());
    let force = CancellationToken::new();
    let parts = start_parts(
        &pipeline,
        tenants,
        (&files, &stand_ins),
        Listening { http, admin, syncer_admin },
        args.rebuild_manifest,
        &force,
    )
    .await;
    match parts {
        Ok(Parts { ingest, syncer, bucket, clickhouse }) => Ok(Up {
            name: pipeline.name.clone(),
            http: args.http,
            tls: pipeline.ingest.tls.is_some(),
            admin: args.admin,
            syncer_admin: args.syncer_admin,
            bucket: bucket.describe(),
            clickhouse_name: server.name.clone(),
            clickhouse_url: clickhouse.url.clone(),
            table: format!("{}.{}", clickhouse.database, clickhouse.table),
            clickhouse,
            keys: keys::from_pipeline(&pipeline, &secrets),
            ingest,
            syncer,
            server,
            force,
            _lock: lock,
        }),
        Err(failure) => {
            server.stop().await;
            Err(failure)
        }
    }
}

/// The ports that were taken.
struct Listening {
    http: TcpListener,
    admin: TcpListener,
    syncer_admin: TcpListener,
}

/// What was started.
struct Parts {
    ingest: Part,
    syncer: Part,
    bucket: Bucket,
    clickhouse: ClickHouseSettings,
}

async fn start_parts(
    pipeline: &ValidatedPipeline,
    tenants: spillway_model::settings::TenantsFile,
    (files, stand_ins): (&Files, &StandIns),
    Listening { http, admin, syncer_admin }: Listening,
    rebuild_manifest: bool,
    force: &CancellationToken,
) -> Result<Parts, Failure> {
    let address = |listener: &TcpListener| listener.local_addr().map_err(cannot_start);
    let (at_http, at_admin, at_syncer) = (address(&http)?, address(&admin)?, address(&syncer_admin)?);
    let mut ingest =
        settings::ingest(pipeline, files, stand_ins, at_http, at_admin).map_err(place::unusable)?;
    let syncer = settings::syncer(pipeline, files, stand_ins, at_syncer).map_err(place::unusable)?;
    let clickhouse = syncer.clickhouse.clone();
    let open = Bucket::open(&syncer.bucket).await.map_err(cannot_start)?;
    let client = ClickHouse::connect(&clickhouse).map_err(cannot_start)?;
    let spec = SchemaSpec::from_settings(&clickhouse);
    spillway_schema::apply(&client, &spec).await.map_err(cannot_start)?;
    if rebuild_manifest {
        let quiet_after = spillway_syncer::quiet_after(&syncer);
        match spillway_syncer::rebuild(&open, &client, &spec, quiet_after).await {
            Ok(rebuilt) => output::note(&rebuilt.to_string()),
            // As after a start that got no further than that.
            Err(RebuildError::Present) => output::note("the manifest is there: nothing is to be rebuilt"),
            Err(error) => return Err(cannot_start(error)),
        }
    }
    spillway_syncer::initialise(&open, &client, &spec).await.map_err(cannot_start)?;
    if pipeline.ingest.drain_readiness_delay.is_none() {
        // There is no load balancer that would have to notice.
        ingest.drain.readiness_delay = Span(Duration::ZERO);
    }
    let (for_ingest, for_syncer) = (open.clone(), open.clone());
    let syncer = Part::start(|stop| parts::syncer(syncer, for_syncer, client, syncer_admin, stop));
    let listeners = Listeners { http, admin: Some(admin) };
    let force = force.clone();
    let ingest =
        Part::start(|drain| parts::ingest(ingest, tenants, for_ingest, listeners, Shutdown { drain, force }));
    Ok(Parts { ingest, syncer, bucket: open, clickhouse })
}

fn cannot_start(error: impl ToString) -> Failure {
    Failure::new(Exit::Start, error)
}

impl Part {
    fn start<F>(work: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<Exit, Failure>> + Send + 'static,
    {
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let work = work(stop.clone());
        let guard = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _guard = guard;
            work.await
        });
        Self { stop, ended, task }
    }

    /// Asks it to stop and waits; says why it failed, if it did.
    async fn stop(self, name: &'static str) -> Exit {
        self.stop.cancel();
        match self.task.await {
            Ok(Ok(exit)) => exit,
            Ok(Err(failure)) => {
                output::note(&format!("error: {name}: {failure}"));
                failure.exit
            }
            Err(error) => {
                output::note(&format!("error: {name}: {error}"));
                Exit::Forced
            }
        }
    }
}

impl Up {
    pub fn http_url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.http)
    }

    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// A client of the pipeline's ClickHouse.
    ///
    /// # Errors
    /// When its settings can't work.
    pub fn connect(&self) -> Result<ClickHouse, ClickHouseError> {
        ClickHouse::connect(&self.clickhouse)
    }

    /// What runs where.
    pub fn summary(&self) -> String {
        format!(
            "pipeline {} is up\n  logs        {}/v1/drain\n  ingest      {}/metrics\n  syncer      http://{}/metrics\n  bucket      {}\n  ClickHouse  {} ({})\n  table       {}",
            self.name,
            self.http_url(),
            self.admin_url(),
            self.syncer_admin,
            self.bucket,
            self.clickhouse_url,
            self.clickhouse_name,
            self.table
        )
    }

    /// Waits until a part ends by itself, which none should.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.ingest.ended.cancelled() => {}
            () = self.syncer.ended.cancelled() => {}
        }
    }

    /// Drains and stops everything.
    pub async fn stop(self) -> Exit {
        let ingest = self.ingest.stop("ingest").await;
        let syncer = self.syncer.stop("syncer").await;
        self.server.stop().await;
        if ingest == Exit::Done { syncer } else { ingest }
    }
}
