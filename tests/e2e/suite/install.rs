//! From nothing to rows.

use serde_json::json;
use spillway_e2e::cases;
use spillway_e2e::space::Space;
use spillway_e2e::traffic::{Load, Traffic};

cases![a_pipeline_gets_ready_and_loads_what_it_is_sent];

async fn a_pipeline_gets_ready_and_loads_what_it_is_sent(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(10, 1000)).await;
    let verdict = traffic.verdict().await;
    assert_eq!(verdict.unclear, 0);
    assert_eq!(space.rows().await, verdict.acknowledged);
}
