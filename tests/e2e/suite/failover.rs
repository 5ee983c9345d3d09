//! The Lease passes on in the time that docs/architecture.md gives, and who lost it writes nothing any more.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use spillway_e2e::cases;
use spillway_e2e::faults::{are_back, kill, rows_come};
use spillway_e2e::metrics::{Metrics, SYNCER};
use spillway_e2e::pods;
use spillway_e2e::space::{PATIENCE, Space};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::wait::until;

// Alone, since what is promised is a time: the nodes share one machine.
cases![;
    alone: a_leader_that_is_killed_or_lost_is_replaced_in_time,
    a_leader_that_was_paused_past_its_lease_writes_nothing_any_more,
];

const LONG: u32 = 280;
const RATE: u32 = 1000;

/// A standby takes a Lease that it saw unchanged for 15 s. It looks every 4.4 s at least: once to see the last renewal,
/// once more at the end.
const HELD: Duration = Duration::from_secs(15 + 5 + 5);
/// A leader that is told to stop releases it, and a standby finds that at its next look. Kubelet comes first.
const RELEASED: Duration = Duration::from_secs(5 + 5);
/// From the Lease to the first rows: manifest, open batches, a listing, an insert.
const LOADED: Duration = Duration::from_secs(10);

async fn a_leader_that_is_killed_or_lost_is_replaced_in_time(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;

    let leader = Leader::now(space).await;
    let since = Instant::now();
    let killed = kill(&space.cluster, std::slice::from_ref(&leader.pod)).await;
    // Its container may be back before anybody else would lead, and then has the same name.
    leader.is_followed_by_rows(space, "killed", since, HELD + LOADED).await;
    are_back(&killed).await;

    // As when its node is lost: nobody releases the Lease, and its pod doesn't come back.
    let leader = Leader::now(space).await;
    let since = Instant::now();
    kill(&space.cluster, std::slice::from_ref(&leader.pod)).await;
    leader.is_deleted(space).await;
    leader.is_followed(space, "lost", since, HELD).await;
    space.is_available(&format!("{NAME}-syncer")).await;

    let leader = Leader::now(space).await;
    let since = Instant::now();
    leader.is_deleted(space).await;
    leader.is_followed(space, "deleted by force", since, RELEASED).await;

    traffic.stop().await;
}

async fn a_leader_that_was_paused_past_its_lease_writes_nothing_any_more(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    let mut past = Vec::new();
    for _ in 0..2 {
        let old = Leader::now(space).await;
        let since = Instant::now();
        space.cluster.nodes.signal(&old.pod, "STOP").await;
        old.is_followed(space, "paused", since, HELD).await;
        let new = Leader::now(space).await;
        old.is_settled(space).await;
        let rows = old.rows(space).await;

        space.cluster.nodes.signal(&old.pod, "CONT").await;
        old.stands_by(space).await;
        rows_come(space).await;
        let now = Leader::now(space).await;
        assert_eq!((now.pod.name_any(), now.epoch), (new.pod.name_any(), new.epoch));
        past.push((old, rows));
    }
    traffic.stop().await;
    for (old, rows) in past {
        assert_eq!(old.rows(space).await, rows, "{} wrote after it was paused", old.pod.name_any());
    }
}

/// Who leads, and the last epoch of which there are rows.
struct Leader {
    pod: Pod,
    epoch: u64,
}

impl Leader {
    async fn now(space: &Space) -> Self {
        let epoch = epoch(space).await.expect("the table can be asked");
        Self { pod: space.leader().await, epoch }
    }

    /// Waits for another holder of the Lease, then for rows of its epoch; says how long both took.
    async fn is_followed(&self, space: &Space, how: &str, since: Instant, bound: Duration) {
        let old = self.pod.name_any();
        let holder = space
            .sees("another leader", &format!("{NAME}-syncer"), |lease: &Lease| {
                let holder = lease.spec.as_ref()?.holder_identity.clone()?;
                (!holder.is_empty() && holder != old).then_some(holder)
            })
            .await;
        let held = since.elapsed();
        println!("failover: syncer {how}: {holder} holds the Lease after {:.1} s", held.as_secs_f64());
        assert!(held <= bound, "{held:?}, promised are {bound:?}");
        self.is_followed_by_rows(space, how, since, held + LOADED).await;
    }

    /// Waits for rows of a later epoch.
    async fn is_followed_by_rows(&self, space: &Space, how: &str, since: Instant, bound: Duration) {
        until(&format!("rows of a later epoch ({})", space.namespace), PATIENCE, async || {
            epoch(space).await.filter(|epoch| *epoch > self.epoch)
        })
        .await;
        let loaded = since.elapsed();
        println!("failover: syncer {how}: rows again after {:.1} s", loaded.as_secs_f64());
        assert!(loaded <= bound, "{loaded:?}, promised are {bound:?}");
    }

    /// Deletes its pod without waiting for its end.
    async fn is_deleted(&self, space: &Space) {
        let at_once = DeleteParams::default().grace_period(0);
        let deleted = space.api::<Pod>().delete(&self.pod.name_any(), &at_once).await;
        deleted.expect("the leader's pod is deleted");
    }

    /// Waits until the manifest names no open batch of this leader's epoch or an earlier one: its successor is done
    /// with what it left.
    async fn is_settled(&self, space: &Space) {
        let (bucket, _forward) = space.bucket().await;
        until(&format!("the old batches to be settled ({})", space.namespace), PATIENCE, async || {
            let (bytes, _) = bucket.get("_spillway/manifest.json").await.ok()??;
            let manifest: Value = serde_json::from_slice(&bytes).ok()?;
            let open =
                manifest["batches"].as_object()?.iter().filter(|(_, entry)| entry["state"]["is"] == "open");
            let epochs: Option<Vec<u64>> = open.map(|(id, _)| id.split('-').next()?.parse().ok()).collect();
            epochs?.iter().all(|epoch| *epoch > self.epoch).then_some(())
        })
        .await;
    }

    /// Rows of its epoch.
    async fn rows(&self, space: &Space) -> u64 {
        let query = format!("SELECT count() FROM spillway.logs WHERE {EPOCH} = {}", self.epoch);
        space.sql(&query).await.trim().parse().expect("a number")
    }

    /// Waits until its pod is ready again and says itself that it doesn't lead.
    async fn stands_by(&self, space: &Space) {
        let name = self.pod.name_any();
        let pod = until(&format!("{name} to stand by"), PATIENCE, async || {
            let pod: Pod = space.api().get(&name).await.ok().filter(pods::is_ready)?;
            let metrics = Metrics::try_of(space, &pod, SYNCER).await.ok()?;
            (metrics.value("spillway_syncer_leader")? == 0.0).then_some(pod)
        })
        .await;
        let how = if pods::restarts(&pod) > pods::restarts(&self.pod) { "ended and" } else { "went on and" };
        println!("failover: syncer paused: {name} {how} stands by");
    }
}

/// Of a row: `batch_id` ends in `-EPOCH-NUMBER`.
const EPOCH: &str = "toUInt64(splitByChar('-', toString(batch_id))[-2])";

/// The last epoch of which there are rows.
async fn epoch(space: &Space) -> Option<u64> {
    space.try_sql(&format!("SELECT max({EPOCH}) FROM spillway.logs")).await.ok()?.trim().parse().ok()
}
