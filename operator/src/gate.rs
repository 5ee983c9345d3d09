//! What of the workloads may be applied, given how bucket, schema and manifest stand.
//!
//! Before a pipeline's first pods there must be a bucket, a table and a manifest: a syncer that finds staged data
//! without a manifest stops. Later a failed step never blocks objects, because their new settings may be the cure
//! (Altinity/clickhouse-operator#1926). The one exception is a refused migration: a syncer with new columns
//! against an old table can only fail, so the one that runs is left as it is. So it is until a first answer to new
//! settings, which a server that hangs owes for minutes.

/// How the steps outside of the cluster stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The first manifest is known to be there, which implies bucket and table.
    pub(crate) manifest: bool,
    pub(crate) schema: Schema,
    pub(crate) ingest_exists: bool,
    pub(crate) syncer_exists: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    Good,
    /// Tables differ in what only their owner may change.
    Refused,
    /// Not reached.
    Unknown,
    /// No answer yet to what is asked.
    Pending,
}

/// What becomes of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Apply,
    /// Not created yet.
    Wait,
    /// Left as it is.
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) ingest: Decision,
    pub(crate) syncer: Decision,
}

pub(crate) fn gate(standing: Standing) -> Gate {
    let Standing { manifest, schema, ingest_exists, syncer_exists } = standing;
    let created = |exists: bool| if exists || manifest { Decision::Apply } else { Decision::Wait };
    let syncer = match (schema, syncer_exists) {
        (Schema::Refused | Schema::Pending, true) => Decision::Keep,
        (Schema::Refused | Schema::Pending, false) => Decision::Wait,
        (Schema::Good | Schema::Unknown, exists) => created(exists),
    };
    Gate { ingest: created(ingest_exists), syncer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_wait_for_the_first_manifest_and_never_again_for_anything_but_a_refused_migration() {
        use Decision::{Apply, Keep, Wait};
        use Schema::{Good, Pending, Refused, Unknown};
        for (manifest, schema, ingest_exists, syncer_exists, ingest, syncer) in [
            (false, Unknown, false, false, Wait, Wait),
            (false, Good, false, false, Wait, Wait),
            (true, Good, false, false, Apply, Apply),
            // The manifest is there, the server is away: the pods can start, the syncer waits for it itself.
            (true, Unknown, false, false, Apply, Apply),
            (true, Refused, false, false, Apply, Wait),
            (false, Refused, false, false, Wait, Wait),
            // Running already: whatever fails, new settings go out.
            (false, Unknown, true, true, Apply, Apply),
            (true, Unknown, true, true, Apply, Apply),
            (true, Refused, true, true, Apply, Keep),
            (false, Refused, true, true, Apply, Keep),
            // New columns are being made.
            (true, Pending, true, true, Apply, Keep),
            (false, Pending, true, true, Apply, Keep),
            (true, Pending, false, false, Apply, Wait),
            // Killed between the two.
            (false, Unknown, true, false, Apply, Wait),
            (true, Good, true, false, Apply, Apply),
        ] {
            let standing = Standing { manifest, schema, ingest_exists, syncer_exists };
            assert_eq!(gate(standing), Gate { ingest, syncer }, "{standing:?}");
        }
    }
}
