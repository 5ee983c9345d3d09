//! A test: its name says what is claimed, its function shows it.

use std::any::Any;
use std::sync::Arc;

use futures::future::LocalBoxFuture;
use spillway_tests::kubernetes::operator::Operator;
use spillway_tests::kubernetes::space::Space;
use spillway_tests::kubernetes::world::World;

type Shown = Box<dyn for<'a> FnOnce(&'a mut Space) -> LocalBoxFuture<'a, Box<dyn Kept>> + Send>;

pub(crate) struct Claim {
    pub(crate) name: String,
    shown: Shown,
}

impl Claim {
    pub(crate) fn new<F>(name: impl Into<String>, shown: F) -> Self
    where
        F: for<'a> FnOnce(&'a mut Space) -> LocalBoxFuture<'a, Box<dyn Kept>> + Send + 'static,
    {
        Self { name: name.into(), shown: Box::new(shown) }
    }

    pub(crate) async fn show(self, world: &Arc<World>) {
        let mut space = world.space(self.name.rsplit("::").next().unwrap_or_default()).await;
        let mut kept = (self.shown)(&mut space).await;
        // Without an operator nothing writes, which would show nothing.
        if kept.at_work() {
            space.is_at_rest().await;
            assert!(kept.at_work(), "the operator ended by itself");
        }
    }
}

/// What a test hands back: an operator that must be at rest now, or nothing.
pub(crate) trait Kept: Any {
    fn at_work(&mut self) -> bool;
}

impl Kept for () {
    fn at_work(&mut self) -> bool {
        false
    }
}

impl Kept for Operator {
    fn at_work(&mut self) -> bool {
        self.process.is_running()
    }
}

impl Kept for [Operator; 2] {
    fn at_work(&mut self) -> bool {
        self.iter_mut().all(Kept::at_work)
    }
}

/// Makes `claims()` of functions in this module.
macro_rules! claims {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn claims() -> Vec<crate::claim::Claim> {
            let module = module_path!().trim_end_matches("::functions");
            let module = module.rsplit("::").next().unwrap_or_default();
            vec![$(crate::claim::Claim::new(
                format!("{module}::{}", stringify!($name)),
                |space| Box::pin(async { Box::new($name(space).await) as Box<dyn crate::claim::Kept> }),
            )),*]
        }
    };
}
pub(crate) use claims;
