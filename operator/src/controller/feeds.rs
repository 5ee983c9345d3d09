//! The watches of a scope.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{Stream, StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedSender};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ObjectReference, Secret},
};
use kube::{
    Api, Resource as _,
    api::ListParams,
    core::{DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _, reflector,
        reflector::store::Writer,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::Mutex;
use spillway_crds::LogPipeline;
use tokio::{sync::mpsc, task::JoinSet};

use super::{Ref, api, registry::Registry};
use crate::{
    ctx::Ctx,
    errors::{self, call},
    events,
    inventory::{PipelineRef, Relist, Seen},
    kinds::Kind,
    plan::names::PIPELINE,
    reconcile::Object,
    secret_cache,
};

/// Objects of pipelines, and of nobody else.
const OWNED: &str = "app.kubernetes.io/managed-by=spillway-operator";
/// Secrets that a pipeline may name.
const FOREIGN: &str = "app.kubernetes.io/managed-by!=spillway-operator";
/// Between looks for a kind that the cluster doesn't know, in ticks.
const RECHECK: u32 = 5;
/// For an answer about such a kind, before the rest goes on without.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the watches of a scope share.
pub(crate) struct Feed {
    ctx: Arc<Ctx>,
    scope: Option<String>,
    queue: UnboundedSender<Ref>,
    registry: Mutex<Registry>,
    /// Kinds without a first list.
    unlisted: Mutex<BTreeSet<String>>,
}

/// Lets go when a watch has its first list.
struct Listed {
    feed: Arc<Feed>,
    what: String,
    _sender: mpsc::Sender<()>,
}

impl Listed {
    fn awaited(feed: &Arc<Feed>, what: impl Into<String>, sender: &mpsc::Sender<()>) -> Self {
        let what = what.into();
        feed.unlisted.lock().insert(what.clone());
        Self { feed: feed.clone(), what, _sender: sender.clone() }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.feed.unlisted.lock().remove(&self.what);
    }
}

impl Feed {
    pub(crate) fn new(ctx: Arc<Ctx>, scope: Option<String>, queue: UnboundedSender<Ref>) -> Self {
        Self { ctx, scope, queue, registry: Mutex::default(), unlisted: Mutex::default() }
    }

    /// What has no first list yet, for logs.
    pub(crate) fn unlisted(&self) -> String {
        self.unlisted.lock().iter().cloned().collect::<Vec<_>>().join(", ")
    }

    /// For logs.
    pub(crate) fn scope(&self) -> &str {
        self.scope.as_deref().unwrap_or("all namespaces")
    }

    fn wake(&self, pipelines: impl IntoIterator<Item = Ref>) {
        for pipeline in pipelines {
            // Closed: this is ending.
            let _ = self.queue.unbounded_send(pipeline);
        }
    }

    fn wake_owners(&self, owners: Vec<PipelineRef>) {
        self.wake(owners.into_iter().map(|owner| Ref::new(&owner.name).within(&owner.namespace)));
    }

    fn wake_all(&self) {
        let all: Vec<Ref> = self.registry.lock().all().cloned().collect();
        self.wake(all);
    }
}

/// Begins every watch. The receiver hears of each that has its first list.
pub(crate) fn spawn(feed: &Arc<Feed>, writer: Writer<Object>, tasks: &mut JoinSet<()>) -> mpsc::Receiver<()> {
    let (listed, receiver) = mpsc::channel(Kind::ALL.len() + 2);
    let awaited = |what: &str| Listed::awaited(feed, what, &listed);
    tasks.spawn(pipelines(feed.clone(), writer, awaited("LogPipelines")));
    tasks.spawn(secrets(feed.clone(), awaited("Secrets of users")));
    for kind in Kind::ALL {
        let listed = awaited(&format!("{kind:?}s"));
        match kind {
            Kind::Lease => drop(tasks.spawn(leases(feed.clone(), listed))),
            Kind::Deployment => drop(tasks.spawn(deployments(feed.clone(), listed))),
            Kind::PodMonitor => drop(tasks.spawn(pod_monitors(feed.clone(), listed))),
            _ => drop(tasks.spawn(objects(feed.clone(), kind, Some(listed)))),
        }
    }
    drop(listed);
    receiver
}

/// Until each watch has said that it has its first list, by letting its sender go.
pub(crate) async fn all_listed(listed: &mut mpsc::Receiver<()>) {
    while listed.recv().await.is_some() {}
}

/// Follows a watch for ever. Errors are repeated by the watch itself, 0.8 s to 30 s apart.
async fn follow<K>(
    what: &str,
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    listed: Option<Listed>,
    mut take: impl FnMut(Event<K>),
) {
    let mut listed = listed;
    let mut failing = false;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let done = matches!(event, Event::InitDone);
                // That a list begins is no success yet.
                failing &= matches!(event, Event::Init);
                take(event);
                if done {
                    listed = None;
                }
            }
            Err(error) if failing => tracing::debug!(what, "{}", errors::chain(&error)),
            Err(error) => {
                failing = true;
                tracing::warn!(what, "can't be watched, trying again: {}", errors::chain(&error));
            }
        }
    }
    drop(listed);
}

async fn pipelines(feed: Arc<Feed>, writer: Writer<Object>, listed: Listed) {
    let api: Api<Object> = api(&feed.ctx.client, feed.scope.as_deref());
    let config = watcher::Config::default().any_semantic();
    // The store has the object before anybody is woken for it.
    let events = reflector(writer, watcher(api, config).default_backoff());
    follow("LogPipelines", events, Some(listed), |event| {
        let (news, count) = {
            let mut registry = feed.registry.lock();
            (registry.take(&event), registry.len())
        };
        feed.ctx.metrics.pipelines.set(i64::try_from(count).unwrap_or(i64::MAX));
        feed.wake(news.changed);
        for (reference, known) in news.gone {
            feed.ctx.memories.forget(&known.uid);
            let namespace = reference.namespace.clone().unwrap_or_default();
            let named = feed.registry.lock().named_in(&namespace);
            feed.ctx.secrets.keep_only(&namespace, &named);
            if let Some(kept) = known.kept {
                // Nothing waits for it, and it has a limit of its own.
                tokio::spawn(say_kept(feed.ctx.clone(), reference, known.uid, kept));
            }
        }
    })
    .await;
}

async fn say_kept(ctx: Arc<Ctx>, reference: Ref, uid: String, kept: String) {
    let object = ObjectReference {
        api_version: Some(LogPipeline::api_version(&()).into_owned()),
        kind: Some(LogPipeline::kind(&()).into_owned()),
        name: Some(reference.name),
        namespace: reference.namespace,
        uid: Some(uid),
        ..ObjectReference::default()
    };
    let note = format!("{kept}; a pipeline of the same name and settings goes on with them");
    events::publish(&ctx, &object, events::Reason::Kept, note).await;
}

async fn secrets(feed: Arc<Feed>, listed: Listed) {
    let api: Api<PartialObjectMeta<Secret>> = api(&feed.ctx.client, feed.scope.as_deref());
    let config = watcher::Config::default().any_semantic().labels(FOREIGN);
    let events = watcher(api, config).default_backoff().map_ok(|event| map(event, |secret| secret.metadata));
    let mut relist = secret_cache::Relist::default();
    follow("Secrets", events, Some(listed), |event| {
        let news = feed.ctx.secrets.take(feed.scope.as_deref(), &mut relist, event);
        let naming: Vec<Ref> = {
            let registry = feed.registry.lock();
            news.iter().flat_map(|(namespace, name)| registry.naming(namespace, name)).collect()
        };
        feed.wake(naming);
    })
    .await;
}

async fn objects(feed: Arc<Feed>, kind: Kind, listed: Option<Listed>) {
    let resource = kind.resource();
    let client = feed.ctx.client.clone();
    let api: Api<PartialObjectMeta<DynamicObject>> = match &feed.scope {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let config = watcher::Config::default().any_semantic().labels(OWNED);
    let seen =
        |object: PartialObjectMeta<DynamicObject>| Seen { metadata: object.metadata, ..Seen::default() };
    let events = watcher(api, config).default_backoff().map_ok(move |event| map(event, seen));
    take_in(feed, kind, events, listed).await;
}

async fn deployments(feed: Arc<Feed>, listed: Listed) {
    let api: Api<Deployment> = api(&feed.ctx.client, feed.scope.as_deref());
    let config = watcher::Config::default().any_semantic().labels(OWNED);
    let events = watcher(api, config).default_backoff().map_ok(|event| map(event, Seen::from));
    take_in(feed, Kind::Deployment, events, Some(listed)).await;
}

async fn take_in(
    feed: Arc<Feed>,
    kind: Kind,
    events: impl Stream<Item = Result<Event<Seen>, watcher::Error>>,
    listed: Option<Listed>,
) {
    let mut relist = Relist::default();
    let name = format!("{kind:?}s");
    follow(&name, events, listed, |event| {
        let owners = feed.ctx.inventory.take(kind, feed.scope.as_deref(), &mut relist, event);
        feed.wake_owners(owners);
    })
    .await;
}

/// One list for all pipelines in place of a watch: syncers renew their Leases every 2 s, and asking once per tick
/// is cheaper than hearing of each.
async fn leases(feed: Arc<Feed>, listed: Listed) {
    let api: Api<Lease> = api(&feed.ctx.client, feed.scope.as_deref());
    let parameters = ListParams::default().labels(&format!("{OWNED},{PIPELINE}")).match_any();
    let mut listed = Some(listed);
    let mut relist = Relist::default();
    loop {
        match call("list Leases", api.list(&parameters)).await {
            Ok(found) => {
                let seen = found.items.into_iter().map(|lease| Event::InitApply(Seen::from(lease)));
                let events = [Event::Init].into_iter().chain(seen).chain([Event::InitDone]);
                for event in events {
                    let owners =
                        feed.ctx.inventory.take(Kind::Lease, feed.scope.as_deref(), &mut relist, event);
                    feed.wake_owners(owners);
                }
                listed = None;
            }
            Err(error) => tracing::warn!(reason = error.reason(), "{error}"),
        }
        let pause = if listed.is_some() { Duration::from_secs(2) } else { feed.ctx.config.tick };
        tokio::time::sleep(pause).await;
    }
}

/// Watched while the cluster knows them; looked for now and then, because the Prometheus operator may come later. Who
/// may not list them does without: a nicety stops nothing.
async fn pod_monitors(feed: Arc<Feed>, listed: Listed) {
    let mut first = Some(listed);
    let resource = Kind::PodMonitor.resource();
    let kind = kube::core::GroupVersionKind::gvk(&resource.group, &resource.version, &resource.kind);
    let mut watch = JoinSet::new();
    loop {
        let asking = kube::discovery::oneshot::pinned_kind(&feed.ctx.client, &kind);
        let known = match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(_)) => true,
            Ok(Err(kube::Error::Discovery(_))) => false,
            // With the last kind of its group the server forgets the group, and says so without a reason.
            Ok(Err(kube::Error::Api(status))) => status.code != 404 && !watch.is_empty(),
            // Not known now: as it was.
            Ok(Err(_)) | Err(_) => !watch.is_empty(),
        };
        match (known, watch.is_empty()) {
            (true, true) => {
                let (sender, mut listed) = mpsc::channel(1);
                let awaited = Listed::awaited(&feed, "PodMonitors", &sender);
                drop(sender);
                watch.spawn(objects(feed.clone(), Kind::PodMonitor, Some(awaited)));
                if tokio::time::timeout(PATIENCE, all_listed(&mut listed)).await.is_ok() {
                    know_pod_monitors(&feed, true);
                } else {
                    let feed = feed.clone();
                    watch.spawn(async move {
                        all_listed(&mut listed).await;
                        know_pod_monitors(&feed, true);
                    });
                }
            }
            (false, false) => {
                watch.abort_all();
                while watch.join_next().await.is_some() {}
                feed.ctx.inventory.forget(Kind::PodMonitor, feed.scope.as_deref());
                know_pod_monitors(&feed, false);
            }
            _ => {}
        }
        drop(first.take());
        tokio::time::sleep(feed.ctx.config.tick * RECHECK).await;
    }
}

fn know_pod_monitors(feed: &Feed, known: bool) {
    if feed.ctx.pod_monitors.swap(known, Ordering::Relaxed) != known {
        tracing::info!(known, "PodMonitors");
        feed.wake_all();
    }
}

fn map<A, B>(event: Event<A>, with: impl Fn(A) -> B) -> Event<B> {
    match event {
        Event::Apply(object) => Event::Apply(with(object)),
        Event::Delete(object) => Event::Delete(with(object)),
        Event::InitApply(object) => Event::InitApply(with(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}
