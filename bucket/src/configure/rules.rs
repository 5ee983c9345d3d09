//! The lifecycle rules that a pipeline has in its bucket.
//!
//! Their ids begin with `spillway:<prefix>:`, so that pipelines in one bucket, and rules that others made, are
//! told apart.

use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, ExpirationStatus, LifecycleExpiration, LifecycleRule,
    LifecycleRuleAndOperator, LifecycleRuleFilter, NoncurrentVersionExpiration, Tag,
};
use spillway_model::object::{DEAD_LETTER_DIR, SPILLWAY_DIR};

use super::Policy;
use crate::DEAD_LETTER_TAG;
use crate::digest::sha256_hex;

/// Spillway uploads in one piece; what is incomplete after a week is some tool's that gave up.
const UPLOAD_DAYS: i32 = 7;
/// The manifest is swapped several times a second: a day of it is plenty.
const CONTROL_DAYS: i32 = 1;
const DEAD_LETTER_VERSION_DAYS: i32 = 7;
/// S3 takes 255 characters for an id.
const LONGEST_PREFIX_IN_ID: usize = 200;

/// What a rule is for, the most dispensable first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Aborts uploads in parts that were never completed.
    IncompleteUploads,
    /// Old versions of dead letters.
    DeadLetterVersions,
    /// Old versions of control objects, the manifest above all.
    ControlVersions,
    /// Dead letters, by tag.
    DeadLetters,
}

impl Kind {
    pub const ALL: [Self; 4] =
        [Self::IncompleteUploads, Self::DeadLetterVersions, Self::ControlVersions, Self::DeadLetters];

    fn suffix(self) -> &'static str {
        match self {
            Self::IncompleteUploads => "incomplete-uploads",
            Self::DeadLetterVersions => "dead-letter-versions",
            Self::ControlVersions => "control-versions",
            Self::DeadLetters => "dead-letters",
        }
    }

    /// The rule's id for a pipeline below `prefix`.
    #[must_use]
    pub fn id(self, prefix: &str) -> String {
        format!("{}{}", id_prefix(prefix), self.suffix())
    }
}

fn id_prefix(prefix: &str) -> String {
    if prefix.len() <= LONGEST_PREFIX_IN_ID {
        format!("spillway:{prefix}:")
    } else {
        format!("spillway:sha256-{}:", &sha256_hex(prefix.as_bytes())[..32])
    }
}

/// Whether an id is one that a pipeline below `prefix` gives, also in a version that knows other kinds.
#[must_use]
pub fn is_our_id(id: &str, prefix: &str) -> bool {
    // A kind has no '/', and every prefix but the empty one ends with it: so no prefix's ids begin with another's.
    id.strip_prefix(&id_prefix(prefix)).is_some_and(|kind| !kind.contains(['/', ':']))
}

pub(super) fn is_ours(rule: &LifecycleRule, prefix: &str) -> bool {
    rule.id().is_some_and(|id| is_our_id(id, prefix))
}

/// The rules that `policy` asks for, in the order of [`Kind`].
pub(super) fn wanted(policy: &Policy, prefix: &str, versioned: bool) -> Vec<(Kind, LifecycleRule)> {
    Kind::ALL.into_iter().filter_map(|kind| Some((kind, rule(kind, policy, prefix, versioned)?))).collect()
}

fn rule(kind: Kind, policy: &Policy, prefix: &str, versioned: bool) -> Option<LifecycleRule> {
    let rule = LifecycleRule::builder().id(kind.id(prefix)).status(ExpirationStatus::Enabled);
    let rule = match kind {
        // Without a prefix it would reach everybody's uploads.
        Kind::IncompleteUploads if policy.housekeeping && !prefix.is_empty() => {
            rule.filter(below(prefix.to_owned())).abort_incomplete_multipart_upload(
                AbortIncompleteMultipartUpload::builder().days_after_initiation(UPLOAD_DAYS).build(),
            )
        }
        Kind::DeadLetterVersions if versioned && policy.dead_letter_expiry_days.is_some() => rule
            .filter(dead_letters(prefix)?)
            .noncurrent_version_expiration(noncurrent(DEAD_LETTER_VERSION_DAYS)),
        Kind::ControlVersions if versioned && policy.housekeeping => rule
            .filter(below(format!("{prefix}{SPILLWAY_DIR}")))
            .noncurrent_version_expiration(noncurrent(CONTROL_DAYS))
            .expiration(LifecycleExpiration::builder().expired_object_delete_marker(true).build()),
        Kind::DeadLetters => {
            let days = policy.dead_letter_expiry_days?;
            rule.filter(dead_letters(prefix)?)
                .expiration(LifecycleExpiration::builder().days(i32::from(days)).build())
        }
        _ => return None,
    };
    rule.build().ok()
}

fn below(prefix: String) -> LifecycleRuleFilter {
    LifecycleRuleFilter::builder().prefix(prefix).build()
}

/// By tag, and by place as well: some stores drop a rule's tags and keep the rest.
fn dead_letters(prefix: &str) -> Option<LifecycleRuleFilter> {
    let (key, value) = DEAD_LETTER_TAG;
    let tag = Tag::builder().key(key).value(value).build().ok()?;
    let and =
        LifecycleRuleAndOperator::builder().prefix(format!("{prefix}{DEAD_LETTER_DIR}")).tags(tag).build();
    Some(LifecycleRuleFilter::builder().and(and).build())
}

fn noncurrent(days: i32) -> NoncurrentVersionExpiration {
    NoncurrentVersionExpiration::builder().noncurrent_days(days).build()
}

/// Whether `found` are the wanted rules, whatever a store adds in giving them back.
pub(super) fn all_same<'a>(
    mut wanted: impl ExactSizeIterator<Item = &'a LifecycleRule>,
    found: &[LifecycleRule],
) -> bool {
    wanted.len() == found.len() && wanted.all(|rule| found.iter().any(|there| same(there, rule)))
}

pub(super) fn same(one: &LifecycleRule, other: &LifecycleRule) -> bool {
    plain(one) == plain(other)
}

fn plain(rule: &LifecycleRule) -> LifecycleRule {
    let mut rule = rule.clone();
    rule.transitions = rule.transitions.filter(|list| !list.is_empty());
    rule.noncurrent_version_transitions = rule.noncurrent_version_transitions.filter(|list| !list.is_empty());
    #[allow(deprecated, reason = "a store may give it back empty")]
    if rule.prefix.as_deref() == Some("") {
        rule.prefix = None;
    }
    if let Some(expiration) = &mut rule.expiration {
        expiration.expired_object_delete_marker = expiration.expired_object_delete_marker.filter(|is| *is);
    }
    rule
}
