//! A test: its name says what is claimed, its function shows it in a namespace of its own.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;

use crate::artefacts;
use crate::cluster::Cluster;
use crate::space::Space;

type Shown = Box<dyn for<'a> FnOnce(&'a Space) -> LocalBoxFuture<'a, ()> + Send>;

pub struct Case {
    pub name: String,
    alone: bool,
    shown: Shown,
}

impl Case {
    pub fn new<F>(name: String, shown: F) -> Self
    where
        F: for<'a> FnOnce(&'a Space) -> LocalBoxFuture<'a, ()> + Send + 'static,
    {
        Self { name, alone: false, shown: Box::new(shown) }
    }

    /// Runs while no other test does: it takes away what they need.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Opens a namespace, runs the test and removes the namespace. After a failure, what the cluster knows of it is
    /// kept in a folder.
    ///
    /// # Errors
    /// What the test failed with, and where the rest is.
    pub async fn show(self, cluster: &Arc<Cluster>) -> Result<(), String> {
        let (_shared, _alone);
        if self.alone {
            _alone = cluster.turn.write().await;
        } else {
            _shared = cluster.turn.read().await;
        }
        let since = Instant::now();
        let space = Space::new(Arc::clone(cluster), &self.name);
        let work = async {
            space.open().await;
            (self.shown)(&space).await;
        };
        let done = AssertUnwindSafe(work).catch_unwind().await;
        let failed = done.err().map(|panic| message(panic.as_ref()));
        println!("{}: {:.0} s", self.name, since.elapsed().as_secs_f32());
        let failed = match failed {
            Some(failed) => {
                let folder = artefacts::collect(&space).await;
                if self.alone {
                    // It may have ended while the operator was away.
                    cluster.install(&[]).await;
                }
                Some(format!("{failed}\nlogs, events and objects: {}", folder.display()))
            }
            None => None,
        };
        if std::env::var_os("SPILLWAY_E2E_KEEP").is_none() {
            space.close().await;
        }
        failed.map_or(Ok(()), Err)
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Makes `cases()` of functions in this module; those after `alone:` run while no other test does.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)? $(; alone: $($single:ident),* $(,)?)?) => {
        pub(crate) fn cases() -> Vec<$crate::case::Case> {
            vec![
                $($crate::cases!(@one $name),)*
                $($($crate::cases!(@one $single).alone(),)*)?
            ]
        }
    };
    (@one $name:ident) => {{
        let module = module_path!().rsplit("::").next().unwrap_or_default();
        $crate::case::Case::new(format!("{module}::{}", stringify!($name)), |space| Box::pin($name(space)))
    }};
}
