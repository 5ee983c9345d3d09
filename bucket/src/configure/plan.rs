//! What to change, decided from what is wanted and what is there.

use aws_sdk_s3::types::LifecycleRule;

use super::reach::{could_touch_staged, describe_action};
use super::rules::{Kind, all_same, is_ours, wanted};
use super::{Encryption, Note, NoteKind, Policy, Setting};

/// A bucket as it was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub exists: bool,
    /// What the store calls itself in its Server header.
    pub server: String,
    /// Whether all four kinds of public access are refused.
    pub public_access_blocked: Seen<bool>,
    pub encryption: Seen<Option<FoundEncryption>>,
    pub versioning: Seen<Versioning>,
    pub lifecycle: Seen<Vec<LifecycleRule>>,
}

/// An answer, or why there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Seen<T> {
    Known(T),
    Refused(Refusal),
    /// It didn't matter.
    #[default]
    NotAsked,
}

/// Why a setting can't be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// The store's words.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The store doesn't have it, or not in this form.
    NotSupported,
    Denied,
    /// It may pass.
    Failed,
    /// Writing would change rules that are not ours.
    WouldLose,
}

/// Default encryption that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundEncryption {
    Aes256,
    Kms,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    Never,
    Enabled,
    Suspended,
}

/// One thing to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Create,
    BlockPublicAccess,
    Encrypt(Encryption),
    EnableVersioning,
    Lifecycle(Rules),
}

/// The lifecycle rules that there should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Everybody else's, as they were found.
    pub foreign: Vec<LifecycleRule>,
    /// In the order in which they are given up if the store refuses them.
    pub ours: Vec<(Kind, LifecycleRule)>,
}

impl Change {
    #[must_use]
    pub fn setting(&self) -> Setting {
        match self {
            Self::Create => Setting::Bucket,
            Self::BlockPublicAccess => Setting::PublicAccessBlock,
            Self::Encrypt(_) => Setting::Encryption,
            Self::EnableVersioning => Setting::Versioning,
            Self::Lifecycle(_) => Setting::Lifecycle,
        }
    }
}

/// What to do and what to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub changes: Vec<Change>,
    pub notes: Vec<Note>,
}

/// Decides how `found` becomes what `policy` wants for a pipeline below `prefix`. Pure.
#[must_use]
pub fn plan(policy: &Policy, prefix: &str, found: &Observed) -> Plan {
    let mut plan = Plan::default();
    if !found.exists {
        // The rest is planned on what creation brings with it.
        plan.changes.extend(policy.create.then_some(Change::Create));
        return plan;
    }
    if policy.block_public_access == Some(true) {
        plan.unless_refused(Setting::PublicAccessBlock, &found.public_access_blocked, |blocked| {
            (!blocked).then_some(Change::BlockPublicAccess)
        });
    }
    if let Some(encryption) = policy.encryption {
        plan.unless_refused(Setting::Encryption, &found.encryption, |found| {
            (!satisfies(*found, encryption)).then_some(Change::Encrypt(encryption))
        });
    }
    plan.versioning(policy, &found.versioning);
    plan.lifecycle(policy, prefix, found);
    plan
}

impl Plan {
    /// Adds the change that a known setting needs, or the note on one that is not known.
    fn unless_refused<T>(
        &mut self,
        setting: Setting,
        seen: &Seen<T>,
        decide: impl FnOnce(&T) -> Option<Change>,
    ) {
        match seen {
            Seen::Known(found) => self.changes.extend(decide(found)),
            Seen::Refused(refusal) => self.notes.push(refusal.note(setting)),
            Seen::NotAsked => {}
        }
    }

    fn versioning(&mut self, policy: &Policy, seen: &Seen<Versioning>) {
        match policy.versioning {
            None => {}
            Some(true) => self.unless_refused(Setting::Versioning, seen, |found| {
                (*found != Versioning::Enabled).then_some(Change::EnableVersioning)
            }),
            Some(false) if *seen == Seen::Known(Versioning::Enabled) => self.notes.push(Note {
                setting: Setting::Versioning,
                kind: NoteKind::Left,
                message: "versioning is on and was left on, because others may count on it; to suspend it, \
                          run: aws s3api put-bucket-versioning --versioning-configuration Status=Suspended --bucket <bucket>"
                    .to_owned(),
            }),
            Some(false) => {}
        }
    }

    fn lifecycle(&mut self, policy: &Policy, prefix: &str, found: &Observed) {
        let rules = match &found.lifecycle {
            Seen::Known(rules) => rules,
            Seen::NotAsked => return,
            Seen::Refused(refusal) => {
                // A store without lifecycle rules expires nothing: there is nothing to say unless rules are wanted.
                let wants_rules = policy.housekeeping || policy.dead_letter_expiry_days.is_some();
                if wants_rules || refusal.kind != RefusalKind::NotSupported {
                    self.notes.push(refusal.note(Setting::Lifecycle));
                }
                return;
            }
        };
        let (present, foreign): (Vec<_>, Vec<_>) =
            rules.iter().cloned().partition(|rule| is_ours(rule, prefix));
        self.notes.extend(foreign.iter().filter_map(|rule| danger(rule, prefix)));
        let versioned = match found.versioning {
            Seen::Known(versioning) => versioning != Versioning::Never || policy.versioning == Some(true),
            // Not known: as it was.
            Seen::Refused(_) | Seen::NotAsked => {
                present.iter().any(|rule| rule.id() == Some(Kind::ControlVersions.id(prefix).as_str()))
            }
        };
        let mut ours = wanted(policy, prefix, versioned);
        // The one promise that no change of `wanted` may break.
        ours.retain(|(_, rule)| !could_touch_staged(rule, prefix));
        if found.server.starts_with("MinIO") && ours.iter().any(|(kind, _)| *kind == Kind::IncompleteUploads)
        {
            ours.retain(|(kind, _)| *kind != Kind::IncompleteUploads);
            self.notes.push(Note {
                setting: Setting::Lifecycle,
                kind: NoteKind::NotSupported,
                message:
                    "MinIO has no lifecycle rule for incomplete uploads; it removes them itself after a day \
                          (MINIO_API_STALE_UPLOADS_EXPIRY)"
                        .to_owned(),
            });
        }
        if !all_same(ours.iter().map(|(_, rule)| rule), &present) {
            self.changes.push(Change::Lifecycle(Rules { foreign, ours }));
        }
    }
}

/// A stronger encryption than wanted will do: weakening it would undo what somebody else in the bucket needs.
fn satisfies(found: Option<FoundEncryption>, wanted: Encryption) -> bool {
    match (found, wanted) {
        (None, _) | (Some(FoundEncryption::Aes256), Encryption::AwsKms) => false,
        (Some(_), Encryption::Aes256)
        | (Some(FoundEncryption::Kms | FoundEncryption::Other), Encryption::AwsKms) => true,
    }
}

fn danger(rule: &LifecycleRule, prefix: &str) -> Option<Note> {
    if !could_touch_staged(rule, prefix) {
        return None;
    }
    let name = rule.id().unwrap_or("without a name");
    Some(Note {
        setting: Setting::Lifecycle,
        kind: NoteKind::Danger,
        message: format!(
            "the bucket's lifecycle rule {name:?} {}: records that are not in ClickHouse by then would be lost, \
             and a manifest that rests as long; limit the rule to keys outside {prefix:?}, or to objects with a tag",
            describe_action(rule)
        ),
    })
}

impl Refusal {
    /// What the owner of the pipeline should know and do about it.
    #[must_use]
    pub fn note(&self, setting: Setting) -> Note {
        let (what, get, put) = match setting {
            Setting::Bucket => ("the bucket", "s3:ListBucket", "s3:CreateBucket"),
            Setting::PublicAccessBlock => {
                ("the public access block", "s3:GetBucketPublicAccessBlock", "s3:PutBucketPublicAccessBlock")
            }
            Setting::Encryption => {
                ("default encryption", "s3:GetEncryptionConfiguration", "s3:PutEncryptionConfiguration")
            }
            Setting::Versioning => ("versioning", "s3:GetBucketVersioning", "s3:PutBucketVersioning"),
            Setting::Lifecycle => {
                ("lifecycle rules", "s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration")
            }
        };
        let detail = &self.detail;
        let (kind, message) = match self.kind {
            RefusalKind::NotSupported => (
                NoteKind::NotSupported,
                format!(
                    "the store does not support {what} as asked for ({detail}); leave it out of storage.bucketPolicy or set it up by the store's own means"
                ),
            ),
            RefusalKind::Denied => (
                NoteKind::Denied,
                format!("{what} can't be looked after ({detail}); grant {get} and {put} on the bucket"),
            ),
            RefusalKind::Failed => (
                NoteKind::Failed,
                format!("{what} could not be looked after ({detail}); it will be tried again"),
            ),
            RefusalKind::WouldLose => (
                NoteKind::Left,
                format!(
                    "{what} were left as they are, because writing them would lose {detail} of a rule that is not Spillway's; add Spillway's rules by hand (docs/bucket.md)"
                ),
            ),
        };
        Note { setting, kind, message }
    }
}
