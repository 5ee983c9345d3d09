//! Taking everything of a pipeline out of its bucket, and nothing else.

use spillway_model::object::{DEAD_LETTER_DIR, Home, KeyError, ObjectKey, PACKED_DIR, SPILLWAY_DIR};

use crate::configure::plan::Versioning;
use crate::s3::{Marker, S3Bucket};
use crate::{Backend, Bucket, BucketError};

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
    /// Why old versions stay in a bucket with versioning: only what is current was deleted.
    pub versions_kept: Option<BucketError>,
    last: Vec<String>,
    /// The last keys' turn has come.
    finishing: bool,
    place: Place,
}

/// What is listed, and after which of it to go on.
#[derive(Clone, Debug, Default)]
enum Place {
    #[default]
    Undecided,
    Objects(Option<String>),
    Versions(Marker),
    Done,
}

impl Bucket {
    /// Deletes, page by page, what Spillway put under the bucket's prefix: staged objects, control objects
    /// and dead letters, in a bucket with versioning with all their versions. Other keys are counted and stay.
    /// Harmless to repeat; nothing may write meanwhile.
    ///
    /// With [`Emptying::keeping_for_last`] it goes over the bucket twice.
    ///
    /// # Errors
    /// When a request as a whole failed; call again with the same `progress` to go on.
    pub async fn empty(&self, progress: &mut Emptying) -> Result<(), BucketError> {
        loop {
            let next = match (&progress.place, &*self.0) {
                (Place::Done, _) => return Ok(()),
                (Place::Undecided, Backend::S3(s3)) => first_place(s3).await,
                (Place::Undecided, Backend::Directory(_)) => Place::Objects(None),
                (Place::Versions(marker), Backend::S3(s3)) => {
                    let marker = marker.clone();
                    empty_versions(s3, &marker, progress).await?
                }
                (Place::Versions(_), Backend::Directory(_)) => Place::Done,
                (Place::Objects(after), _) => {
                    let after = after.clone();
                    self.empty_objects(after.as_deref(), progress).await?
                }
            };
            progress.place = progress.or_finish(next);
        }
    }

    async fn empty_objects(
        &self,
        after: Option<&str>,
        progress: &mut Emptying,
    ) -> Result<Place, BucketError> {
        let page = self.list("", after, PAGE).await?;
        let (ours, foreign): (Vec<String>, Vec<String>) =
            page.objects.into_iter().map(|object| object.key).partition(|key| is_ours(key));
        let ours = progress.due(ours, |key| key);
        let failed = self.delete_many(&ours).await?;
        progress.count(ours.len(), failed, foreign);
        Ok(page.next.map_or(Place::Done, |next| Place::Objects(Some(next))))
    }
}

async fn first_place(s3: &S3Bucket) -> Place {
    match s3.versioning().await {
        Ok(Versioning::Never) => Place::Objects(None),
        Ok(Versioning::Enabled | Versioning::Suspended) => Place::Versions(Marker::default()),
        // Not known: whoever may list versions will see.
        Err(_) => Place::Versions(Marker::default()),
    }
}

async fn empty_versions(
    s3: &S3Bucket,
    marker: &Marker,
    progress: &mut Emptying,
) -> Result<Place, BucketError> {
    let (page, next) = match s3.list_versions(marker).await {
        Ok(page) => page,
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => return Ok(progress.without_versions(error)),
    };
    let (ours, foreign): (Vec<_>, Vec<_>) = page.into_iter().partition(|one| is_ours(&one.key));
    let ours = progress.due(ours, |one| &one.key);
    let mut failed = s3.delete_versions(&ours).await?;
    if let Some(at) = failed.iter().position(|(_, error)| matches!(error, BucketError::Denied { .. })) {
        return Ok(progress.without_versions(failed.swap_remove(at).1));
    }
    let mut foreign: Vec<String> = foreign.into_iter().map(|one| one.key).collect();
    foreign.sort();
    foreign.dedup();
    progress.count(ours.len(), failed, foreign);
    Ok(next.map_or(Place::Done, Place::Versions))
}

impl Emptying {
    /// To be deleted when everything else is gone, and only then: what tells the next run whose the rest is.
    #[must_use]
    pub fn keeping_for_last<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self { last: keys.into_iter().map(str::to_owned).collect(), ..Self::default() }
    }

    /// What of a page is to be deleted now.
    fn due<T>(&self, mut page: Vec<T>, key: impl Fn(&T) -> &String) -> Vec<T> {
        page.retain(|one| self.finishing || !self.last.contains(key(one)));
        page
    }

    /// Over once more, for the last keys, if everything else could be deleted.
    fn or_finish(&mut self, next: Place) -> Place {
        if !matches!(next, Place::Done) || self.finishing || self.last.is_empty() || self.failed > 0 {
            return next;
        }
        self.finishing = true;
        // They are counted again.
        self.foreign = 0;
        self.examples.clear();
        if self.versions_kept.is_some() { Place::Objects(None) } else { Place::Undecided }
    }

    fn count(&mut self, tried: usize, failed: Vec<(String, BucketError)>, foreign: Vec<String>) {
        self.deleted += (tried - failed.len()) as u64;
        self.failed += failed.len() as u64;
        if self.first_failure.is_none() {
            self.first_failure = failed.into_iter().next().map(|(_, error)| error);
        }
        self.foreign += foreign.len() as u64;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(foreign.into_iter().take(room));
    }

    /// Starts over with what is current, which needs fewer permissions.
    fn without_versions(&mut self, why: BucketError) -> Place {
        let last = std::mem::take(&mut self.last);
        let Self { deleted, finishing, .. } = *self;
        *self = Self { deleted, versions_kept: Some(why), last, finishing, ..Self::default() };
        Place::Objects(None)
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
        Err(KeyError::Version { .. }) => !key.contains("/_packed/"),
        Err(KeyError::Place { .. } | KeyError::Name { .. } | KeyError::File { .. }) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_keys_have_their_turn_when_nothing_else_is_left() {
        let page = || vec!["_spillway/a".to_owned(), "_spillway/owner.json".to_owned()];
        let mut emptying = Emptying::keeping_for_last(["_spillway/owner.json"]);
        assert_eq!(emptying.due(page(), |key| key), ["_spillway/a"]);
        assert!(matches!(emptying.or_finish(Place::Objects(None)), Place::Objects(None)));
        let stuck = Emptying { failed: 1, ..emptying.clone() };
        assert!(matches!(stuck.clone().or_finish(Place::Done), Place::Done), "what is left stays somebody's");
        assert!(matches!(emptying.or_finish(Place::Done), Place::Undecided));
        assert_eq!(emptying.due(page(), |key| key), page());
        assert!(matches!(emptying.or_finish(Place::Done), Place::Done));
    }

    #[test]
    fn only_what_spillway_writes_is_its_own() {
        let file = "20260131T235959042Z-a-0000000007-v1-100-54300.json.gz";
        let newer = file.replace("-v1-", "-v9-");
        for ours in [
            format!("shop/api/{file}"),
            format!("shop/api/{newer}"),
            format!("_packed/{file}"),
            "_spillway/manifest.json".to_owned(),
            "_dead-letter/2026-11-22/1-00000001.json.gz".to_owned(),
        ] {
            assert!(is_ours(&ours), "{ours}");
        }
        for foreign in [
            "readme.txt".to_owned(),
            "shop/api/readme.txt".to_owned(),
            "backups/2026/db.json.gz".to_owned(),
            // Another pipeline's, whose prefix begins with ours.
            format!("other/shop/api/{file}"),
            format!("other/_packed/{file}"),
            format!("other/_packed/{newer}"),
            "other/_spillway/manifest.json".to_owned(),
            "other/_dead-letter/2026-11-22/1-00000001.json.gz".to_owned(),
            "_other/x".to_owned(),
        ] {
            assert!(!is_ours(&foreign), "{foreign}");
        }
    }
}
