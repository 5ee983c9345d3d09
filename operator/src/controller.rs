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
use parking_lot::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    ctx::Ctx,
    inventory::PipelineRef,
    reconcile::{Object, after_failure, reconcile},
};
use feeds::Feed;

/// Reconciles at once.
const CONCURRENCY: u16 = 48;
/// Of these, how many may wait for buckets and databases, and how many clean up after a deletion: together fewer, so
/// that servers that hang never hold up the rest.
pub(crate) const WAITING: usize = 12;
pub(crate) const CLEANING: usize = 24;
/// For what was begun when the operator is told to stop. What isn't done then is begun anew by the next one.
const DRAIN: Duration = Duration::from_secs(20);
/// After this long without a first list people are told what is missing.
const LIST_PATIENCE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(30) };
/// A change of a pipeline makes a handful of events.
const DEBOUNCE: Duration = Duration::from_millis(200);

pub(crate) type Ref = ObjectRef<Object>;

/// The queues of all scopes.
#[derive(Default)]
pub(crate) struct Wakes(Mutex<Vec<(Option<String>, mpsc::UnboundedSender<Ref>)>>);

impl Wakes {
    #[cfg(test)]
    pub(crate) fn listen(&self, scope: Option<String>) -> mpsc::UnboundedReceiver<Ref> {
        let (queue, requests) = mpsc::unbounded();
        self.add(scope, queue);
        requests
    }

    fn add(&self, scope: Option<String>, queue: mpsc::UnboundedSender<Ref>) {
        self.0.lock().push((scope, queue));
    }

    /// Has a pipeline looked at soon.
    pub(crate) fn wake(&self, pipeline: &PipelineRef) {
        let queues = self.0.lock();
        let its = queues
            .iter()
            .filter(|(scope, _)| scope.as_ref().is_none_or(|scope| *scope == pipeline.namespace));
        for (_, queue) in its {
            // Closed: this is ending.
            let _ = queue.unbounded_send(Ref::new(&pipeline.name).within(&pipeline.namespace));
        }
    }
}

/// A watch has ended, which none does by itself: without it nothing would be noticed any more.
#[derive(Debug, thiserror::Error)]
#[error("a watch of {scope} broke: {why}")]
pub(crate) struct Broken {
    scope: String,
    why: String,
}

/// Makes the pipelines of a scope (a namespace; `None`: all) so, until `stop`. What was begun is given a while then.
///
/// # Errors
/// When it can't go on.
pub(crate) async fn run(ctx: Arc<Ctx>, scope: Option<String>, stop: CancellationToken) -> Result<(), Broken> {
    let (queue, requests) = mpsc::unbounded::<Ref>();
    ctx.wakes.add(scope.clone(), queue.clone());
    let (store, writer) = reflector::store::<Object>();
    let feed = Arc::new(Feed::new(ctx.clone(), scope, queue));
    // Aborted when this ends.
    let mut watches = JoinSet::new();
    let mut listed = feeds::spawn(&feed, writer, &mut watches);
    let broken = |ended: Result<(), JoinError>| Broken {
        scope: feed.scope().to_owned(),
        why: ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string()),
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = feeds::all_listed(&mut listed) => break,
            Some(ended) = watches.join_next() => return Err(broken(ended)),
            () = tokio::time::sleep(LIST_PATIENCE) => {
                let kinds = feed.unlisted();
                tracing::warn!(scope = feed.scope(), "nothing is done before these are listed: {kinds}");
                ctx.readiness.lacks(feed.scope(), kinds);
            }
        }
    }
    ctx.readiness.listed(feed.scope());
    tracing::info!(scope = feed.scope(), "watching");
    let requests = requests.map(Ok::<_, Infallible>);
    let queue = requests.take_until(stop.clone().cancelled_owned());
    let config = Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    let work = applier(
        |object, ctx| Box::pin(reconcile(object, ctx)),
        after_failure,
        ctx,
        store,
        Box::pin(queue),
        config,
    );
    let mut work = std::pin::pin!(work);
    let mut drained = std::pin::pin!(async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    });
    loop {
        tokio::select! {
            result = work.next() => match result {
                Some(Ok(_)) => {}
                Some(Err(error)) => tracing::debug!("{error}"),
                None => return Ok(()),
            },
            Some(ended) = watches.join_next() => return Err(broken(ended)),
            () = &mut drained => {
                tracing::warn!(scope = feed.scope(), "stopping without waiting any longer for what was begun");
                return Ok(());
            }
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
