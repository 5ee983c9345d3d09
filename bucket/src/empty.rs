//! Taking everything of a pipeline out of its bucket, and nothing else.

use spillway_model::object::{DEAD_LETTER_DIR, Home, KeyError, ObjectKey, PACKED_DIR, SPILLWAY_DIR};

use crate::{Bucket, BucketError};

/// Keys per page, and per request to delete.
const PAGE: usize = 1000;
/// So many of the keys that stay are named.
const EXAMPLES: usize = 10;

/// How far [`Bucket::empty`] has come. Start with the default; after an error or a cancelled call go on with the
/// same value.
#[derive(Clone, Debug, Default)]
pub struct Emptying {
    /// Objects (with versioning: versions and delete markers) that were deleted.
    pub deleted: u64,
    /// Keys under the prefix that are not Spillway's. They stay.
    pub foreign: u64,
    /// The first few of them.
    pub examples: Vec<String>,
    /// Keys that could not be deleted.
    pub failed: u64,
    /// Why, of the first one.
    pub first_failure: Option<BucketError>,
    /// Listed and dealt with up to this key.
    after: Option<String>,
}

impl Bucket {
    /// Deletes, page by page, what Spillway put under the bucket's prefix: staged objects, control objects
    /// and dead letters. Other keys are counted and stay. Harmless to repeat; nothing may write meanwhile.
    ///
    /// # Errors
    /// When a request as a whole failed; call again with the same `progress` to go on.
    pub async fn empty(&self, progress: &mut Emptying) -> Result<(), BucketError> {
        loop {
            let page = self.list("", progress.after.as_deref(), PAGE).await?;
            let (ours, foreign): (Vec<String>, Vec<String>) =
                page.objects.into_iter().map(|object| object.key).partition(|key| is_ours(key));
            let failed = self.delete_many(&ours).await?;
            progress.deleted += (ours.len() - failed.len()) as u64;
            progress.failed += failed.len() as u64;
            if progress.first_failure.is_none() {
                progress.first_failure = failed.into_iter().next().map(|(_, error)| error);
            }
            progress.foreign += foreign.len() as u64;
            let room = EXAMPLES.saturating_sub(progress.examples.len());
            progress.examples.extend(foreign.into_iter().take(room));
            match page.next {
                Some(next) => progress.after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

/// Whether a key below the prefix is one that Spillway writes.
fn is_ours(key: &str) -> bool {
    if key.starts_with(SPILLWAY_DIR) || key.starts_with(DEAD_LETTER_DIR) || key.starts_with(PACKED_DIR) {
        return true;
    }
    match ObjectKey::parse(key) {
        // `other/_packed/<file>` is the packed object of a pipeline whose prefix is `other/` below ours.
        Ok(ObjectKey { home: Home::Stream { service, .. }, .. }) => service.as_str() != "_packed",
        Ok(ObjectKey { home: Home::Packed, .. }) => true,
        // Staged by a newer version of this pipeline.
        Err(KeyError::Version { .. }) => true,
        Err(KeyError::Place { .. } | KeyError::Name { .. } | KeyError::File { .. }) => false,
    }
}
