//! Whose a bucket's prefix is: `_spillway/owner.json` names the pipeline. A second pipeline of the same prefix would
//! share the first one's manifest, and deleting either would take the other's data.

use std::fmt;

use serde::{Deserialize, Serialize};
use spillway_bucket::{Bucket, BucketError, Swap, Tag};

use crate::target::Target;

/// Key of the record, relative to the bucket's prefix.
pub(crate) const OWNER_KEY: &str = "_spillway/owner.json";
/// `"true"` on a pipeline: it takes over a prefix that another one owned.
pub(crate) const ADOPT_ANNOTATION: &str = "spillway.dev/adopt-bucket";

/// Format that is written, and the newest that is read.
const VERSION: u32 = 1;
/// Somebody else writing the record at the same moment is rare; twice in a row is not waited for.
const TRIES: usize = 3;

/// The pipeline that a prefix belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    version: u32,
    /// Of the LogPipeline: a pipeline that is made again has another one.
    uid: String,
    namespace: String,
    name: String,
}

impl Owner {
    pub(crate) fn of(target: &Target) -> Self {
        let Target { namespace, name, uid, .. } = target;
        Self { version: VERSION, uid: uid.clone(), namespace: namespace.clone(), name: name.clone() }
    }

    pub(crate) fn is(&self, target: &Target) -> bool {
        self.uid == target.uid
    }

    pub(crate) fn has_name_of(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.name == other.name
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogPipeline {}/{} (uid {})", self.namespace, self.name, self.uid)
    }
}

/// What a pipeline may do about a prefix that another one owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// [`ADOPT_ANNOTATION`] is there.
    pub(crate) adopt: bool,
    /// It asks the bucket as itself. With the operator's credentials an annotation would prove nothing: whoever
    /// may create a pipeline could take anybody's data.
    pub(crate) own_identity: bool,
    /// It has pods already, so it isn't one that was just made again. Of another cluster there may be one of the
    /// same name; without this the two would take the prefix from each other in turns.
    pub(crate) has_pods: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Ours,
    Take,
    InUse,
}

fn decide(recorded: Option<&Owner>, me: &Owner, rights: Rights) -> Claim {
    match recorded {
        None => Claim::Take,
        Some(owner) if owner.uid == me.uid => Claim::Ours,
        Some(_) if rights.adopt && rights.own_identity => Claim::Take,
        Some(owner) if owner.has_name_of(me) && !rights.has_pods => Claim::Take,
        Some(_) => Claim::InUse,
    }
}

/// The prefix is not this pipeline's, or nobody knows whose it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnerError {
    #[error(
        "{place} is in use by {owner}; give this pipeline a bucket or prefix of its own, or, if that one is gone or gives its data up, {way_out}"
    )]
    InUse { place: String, owner: Box<Owner>, way_out: String },
    #[error(
        "{OWNER_KEY} can't be read ({0}); restore an earlier version of the object, or delete it if the prefix is this pipeline's alone"
    )]
    Damaged(#[from] serde_json::Error),
    #[error(
        "{OWNER_KEY} has format {0}, this operator reads up to {VERSION}; run an operator of the version that wrote it, or newer"
    )]
    TooNew(u32),
    #[error("{OWNER_KEY} is being written by others; it is tried again")]
    Busy,
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

impl OwnerError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "InUse",
            Self::Damaged(_) | Self::TooNew(_) => "OwnerUnreadable",
            Self::Busy => "OwnerBusy",
            Self::Bucket(error) => error.reason(),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Owner, OwnerError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(bytes)?;
    if version > VERSION {
        return Err(OwnerError::TooNew(version));
    }
    Ok(serde_json::from_slice(bytes)?)
}

async fn recorded(bucket: &Bucket) -> Result<Option<(Owner, Tag)>, OwnerError> {
    match bucket.get(OWNER_KEY).await? {
        Some((bytes, tag)) => Ok(Some((parse(&bytes)?, tag))),
        None => Ok(None),
    }
}

/// Whose the bucket is recorded to be; `None` also when there is no such bucket.
///
/// # Errors
/// When that can't be known.
pub(crate) async fn read(bucket: &Bucket) -> Result<Option<Owner>, OwnerError> {
    match recorded(bucket).await {
        Ok(found) => Ok(found.map(|(owner, _)| owner)),
        Err(OwnerError::Bucket(BucketError::NoSuchBucket { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the bucket `me`'s, if it may be. Answers with whom it was taken over from.
///
/// # Errors
/// When it is somebody else's, or can't be asked.
pub(crate) async fn claim(bucket: &Bucket, me: &Owner, rights: Rights) -> Result<Option<Owner>, OwnerError> {
    for _ in 0..TRIES {
        let (owner, tag) = recorded(bucket).await?.unzip();
        match (decide(owner.as_ref(), me, rights), owner) {
            (Claim::Ours, _) => return Ok(None),
            (Claim::InUse, Some(owner)) => {
                let way_out = if rights.own_identity {
                    format!("annotate this one with {ADOPT_ANNOTATION}=true")
                } else {
                    format!(
                        "delete the object {OWNER_KEY} there (the annotation {ADOPT_ANNOTATION} needs credentials of the pipeline's own)"
                    )
                };
                let owner = Box::new(owner);
                return Err(OwnerError::InUse { place: bucket.describe(), owner, way_out });
            }
            (Claim::Take | Claim::InUse, owner) => {
                let body = serde_json::to_vec_pretty(me)?;
                if let Swap::Swapped(_) = bucket.swap(OWNER_KEY, tag.as_ref(), body.into()).await? {
                    return Ok(owner);
                }
            }
        }
    }
    Err(OwnerError::Busy)
}

#[cfg(test)]
mod tests {
    use spillway_model::settings::BucketSettings;

    use super::*;

    fn owner(uid: &str, name: &str) -> Owner {
        Owner { version: VERSION, uid: uid.into(), namespace: "ns".into(), name: name.into() }
    }

    #[test]
    fn a_prefix_is_shared_with_nobody() {
        let me = owner("me", "logs");
        let none = Rights { own_identity: true, ..Rights::default() };
        let adopt = Rights { adopt: true, ..none };
        for (what, recorded, rights, expected) in [
            ("nobody's", None, none, Claim::Take),
            ("ours", Some(owner("me", "logs")), Rights { has_pods: true, ..none }, Claim::Ours),
            ("another's", Some(owner("other", "second")), none, Claim::InUse),
            ("another's, which is said to give it up", Some(owner("other", "second")), adopt, Claim::Take),
            (
                "anybody could say so with the operator's credentials",
                Some(owner("other", "second")),
                Rights { own_identity: false, ..adopt },
                Claim::InUse,
            ),
            (
                "its own before it was made again",
                Some(owner("other", "logs")),
                Rights::default(),
                Claim::Take,
            ),
            (
                "of the same name in another cluster",
                Some(owner("other", "logs")),
                Rights { has_pods: true, ..none },
                Claim::InUse,
            ),
        ] {
            assert_eq!(decide(recorded.as_ref(), &me, rights), expected, "{what}");
        }
    }

    #[tokio::test]
    async fn the_second_pipeline_of_a_bucket_is_told_whose_it_is_and_how_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(&BucketSettings::directory(folder.path())).await.unwrap();
        let (first, second) = (owner("1", "first"), owner("2", "second"));
        assert_eq!(read(&bucket).await.unwrap(), None);
        assert_eq!(claim(&bucket, &first, Rights::default()).await.unwrap(), None);
        assert_eq!(claim(&bucket, &first, Rights::default()).await.unwrap(), None);
        let rights = Rights { own_identity: true, ..Rights::default() };
        let error = claim(&bucket, &second, rights).await.unwrap_err();
        assert_eq!(error.reason(), "InUse");
        let text = error.to_string();
        assert!(text.contains("ns/first") && text.contains("prefix of its own"), "{text}");
        assert!(text.contains("spillway.dev/adopt-bucket=true"), "{text}");
        assert_eq!(read(&bucket).await.unwrap(), Some(first.clone()));
        assert_eq!(claim(&bucket, &second, Rights { adopt: true, ..rights }).await.unwrap(), Some(first));
        assert_eq!(read(&bucket).await.unwrap(), Some(second));
    }

    #[test]
    fn a_record_that_is_not_understood_belongs_to_nobody_we_may_replace() {
        assert!(matches!(parse(b"{"), Err(OwnerError::Damaged(_))));
        assert!(matches!(parse(br#"{"version":2}"#), Err(OwnerError::TooNew(2))));
    }
}
