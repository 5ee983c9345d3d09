//! One operator for all namespaces, as the chart installs it when it is told of none.

use std::sync::Arc;

use super::helm;
use super::operator::{Operator, Options};
use super::space::Space;
use super::world::World;

pub struct WholeCluster {
    // Dropped in this order.
    pub operator: Operator,
    /// The operator's own namespace, which has no pipeline.
    pub home: Space,
    pub world: Arc<World>,
}

impl WholeCluster {
    pub(super) async fn start(world: Arc<World>) -> Self {
        let home = world.bare_space("home-of-the-operator").await;
        let rights = helm::template(&home.namespace, &[], &["rbac.yaml", "serviceaccount.yaml"]);
        helm::apply(&world.admin, &helm::objects(&rights)).await;
        let options = Options { elect: true, ..Options::default() };
        let operator = Operator::start_for_all(&home, options).await;
        Self { operator, home, world }
    }

    /// A namespace in which nobody was given any right.
    pub async fn space(&self, test: &str) -> Space {
        self.world.bare_space(test).await
    }
}
