//! What objects go through, noted by a watch: polling would miss what lasts only for a moment.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use spillway_tests::wait::until;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::space::{PATIENCE, Space};

type Seen<T> = Arc<Mutex<Vec<(Timestamp, T)>>>;

/// Goes on until it is dropped.
pub struct Watched<T> {
    seen: Seen<T>,
    task: JoinHandle<()>,
}

impl<T: Clone + PartialEq + Send + 'static> Watched<T> {
    /// Notes what `look` sees in each state of the objects, and when; not twice in a row. It is told the last state
    /// with `true` once the object is gone. The states at the beginning are there when this returns.
    pub async fn start<K>(
        space: &Space,
        which: watcher::Config,
        look: impl Fn(&K, bool) -> Option<T> + Send + 'static,
    ) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let seen = Seen::<T>::default();
        let (begun, begins) = oneshot::channel();
        let (noted, changes) = (Arc::clone(&seen), watcher(space.api::<K>(), which));
        let task = tokio::spawn(async move {
            let (mut changes, mut begun) = (std::pin::pin!(changes), Some(begun));
            while let Some(change) = changes.next().await {
                let found = match change {
                    Ok(Event::InitApply(object) | Event::Apply(object)) => look(&object, false),
                    Ok(Event::Delete(object)) => look(&object, true),
                    Ok(Event::InitDone) => {
                        begun.take().map(|begun| begun.send(()));
                        None
                    }
                    // The watcher begins again by itself.
                    Ok(Event::Init) | Err(_) => None,
                };
                let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(found) = found
                    && noted.last().is_none_or(|(_, last)| *last != found)
                {
                    noted.push((Timestamp::now(), found));
                }
            }
        });
        let watched = Self { seen, task };
        tokio::time::timeout(PATIENCE, begins).await.expect("the watch begins").expect("it goes on");
        watched
    }

    /// All there was so far.
    #[must_use]
    pub fn seen(&self) -> Vec<(Timestamp, T)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for something and says when it first came.
    pub async fn waits_for(&self, what: &str, is_it: impl Fn(&T) -> bool) -> (Timestamp, T) {
        until(what, PATIENCE, async || self.seen().into_iter().find(|(_, seen)| is_it(seen))).await
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
