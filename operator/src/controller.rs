//! Watches, and the queue that they feed. Two things are not as in kube's ready-made controller: a status write
//! wakes nobody (so that no failure can make a loop of it), and what watches tell is kept in a few fields per object.

mod feeds;
mod registry;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::{StreamExt as _, channel::mpsc};
use kube::{
    Api, Client,
    runtime::{
        controller::{Config, applier},
        reflector::{self, ObjectRef},
    },
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    ctx::Ctx,
    reconcile::{Object, after_failure, reconcile},
};
use feeds::Feed;

/// Reconciles at once.
const CONCURRENCY: u16 = 16;
/// A change of a pipeline makes a handful of events.
const DEBOUNCE: Duration = Duration::from_millis(200);

pub(crate) type Ref = ObjectRef<Object>;

/// Makes the pipelines of a scope (a namespace; `None`: all) so, until `stop`. What was begun is finished then.
pub(crate) async fn run(ctx: Arc<Ctx>, scope: Option<String>, stop: CancellationToken) {
    let (queue, requests) = mpsc::unbounded::<Ref>();
    let (store, writer) = reflector::store::<Object>();
    let feed = Arc::new(Feed::new(ctx.clone(), scope, queue));
    // Aborted when this ends.
    let mut watches = JoinSet::new();
    let mut listed = feeds::spawn(&feed, writer, &mut watches);
    tokio::select! {
        () = stop.cancelled() => return,
        () = feeds::all_listed(&mut listed) => {}
    }
    tracing::info!(scope = feed.scope(), "watching");
    let requests = requests.map(Ok::<_, Infallible>);
    let queue = requests.take_until(stop.cancelled_owned());
    let config = Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    let work = applier(
        |object, ctx| Box::pin(reconcile(object, ctx)),
        |object, error, ctx| after_failure(object, error, ctx),
        ctx,
        store,
        Box::pin(queue),
        config,
    );
    let mut work = std::pin::pin!(work);
    while let Some(result) = work.next().await {
        if let Err(error) = result {
            tracing::debug!("{error}");
        }
    }
}

/// The API of a scope.
fn api<K>(client: &Client, scope: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
