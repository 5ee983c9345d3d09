//! What [`super::configure`] would change, in words. Nothing is written.

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule};

use super::plan::{FoundEncryption, Seen, Versioning};
use super::rules::{Kind, is_ours, same};
use super::{Change, ConfigureError, Encryption, Note, Observed, Plan, Policy, observe, plan};
use crate::{Backend, Bucket};

/// What would change, one setting or rule a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// As it is.
    pub now: Vec<String>,
    /// As it would be. Empty like [`Preview::now`] when nothing would change.
    pub then: Vec<String>,
    pub notes: Vec<Note>,
}

/// Looks at the bucket and says what [`super::configure`] would make of it. A rule that a store refuses when it is
/// written shows as a change each time.
///
/// # Errors
/// As [`super::configure`], but for what fails in writing.
pub async fn preview(bucket: &Bucket, policy: &Policy) -> Result<Preview, ConfigureError> {
    let Backend::S3(s3) = &*bucket.0 else { return Ok(Preview::default()) };
    let observed = observe(s3, policy).await?;
    if !observed.exists && !policy.create {
        return Err(ConfigureError::Missing { bucket: s3.name().to_owned() });
    }
    Ok(of(policy, s3.prefix(), &observed))
}

fn of(policy: &Policy, prefix: &str, found: &Observed) -> Preview {
    let Plan { changes, notes } = plan(policy, prefix, found);
    let mut preview = Preview { notes, ..Preview::default() };
    for change in &changes {
        let (now, then) = words(change, prefix, found);
        preview.now.extend(now);
        preview.then.extend(then);
    }
    if changes.contains(&Change::Create) {
        // What follows is planned on what creation brings, which differs from store to store: here on nothing.
        let after = plan(policy, prefix, &bare());
        preview.then.extend(after.changes.iter().flat_map(|change| words(change, prefix, &bare()).1));
    }
    preview
}

fn bare() -> Observed {
    Observed {
        exists: true,
        server: String::new(),
        public_access_blocked: Seen::Known(false),
        encryption: Seen::Known(None),
        versioning: Seen::Known(Versioning::Never),
        lifecycle: Seen::Known(Vec::new()),
    }
}

/// As it is and as it would be.
fn words(change: &Change, prefix: &str, found: &Observed) -> (Vec<String>, Vec<String>) {
    let one = |now: &str, then: &str| (vec![now.to_owned()], vec![then.to_owned()]);
    match change {
        Change::Create => one("there is no such bucket", "the bucket is created"),
        Change::BlockPublicAccess => one("public access: not blocked", "public access: blocked"),
        Change::Encrypt(wanted) => {
            let now = match found.encryption {
                Seen::Known(Some(FoundEncryption::Aes256)) => "AES256",
                Seen::Known(Some(FoundEncryption::Kms)) => "aws:kms",
                Seen::Known(Some(FoundEncryption::Other)) => "another",
                Seen::Known(None) | Seen::Refused(_) | Seen::NotAsked => "none",
            };
            let then = match wanted {
                Encryption::Aes256 => "AES256",
                Encryption::AwsKms => "aws:kms",
            };
            one(&format!("default encryption: {now}"), &format!("default encryption: {then}"))
        }
        Change::EnableVersioning => {
            let suspended = found.versioning == Seen::Known(Versioning::Suspended);
            one(if suspended { "versioning: suspended" } else { "versioning: off" }, "versioning: on")
        }
        Change::Lifecycle(rules) => {
            let Seen::Known(all) = &found.lifecycle else { return (Vec::new(), Vec::new()) };
            let present: Vec<_> = all.iter().filter(|rule| is_ours(rule, prefix)).collect();
            let wanted = || rules.ours.iter().map(|(_, rule)| rule);
            let then: Vec<_> = wanted()
                .filter(|rule| !present.iter().any(|there| same(there, rule)))
                .map(|rule| rule_words(rule, prefix))
                .collect();
            let gone = present.into_iter().filter(|there| !wanted().any(|rule| same(there, rule)));
            let now = gone.map(|rule| {
                let words = rule_words(rule, prefix);
                // It differs in what the words don't say.
                if then.contains(&words) { format!("{words}, altered") } else { words }
            });
            (now.collect(), then)
        }
    }
}

fn rule_words(rule: &LifecycleRule, prefix: &str) -> String {
    let id = rule.id().unwrap_or_default();
    let days = |days: Option<i32>| match days {
        None => "? days".to_owned(),
        Some(1) => "a day".to_owned(),
        Some(days) => format!("{days} days"),
    };
    let uploads = || rule.abort_incomplete_multipart_upload().and_then(|abort| abort.days_after_initiation());
    let old = || rule.noncurrent_version_expiration().and_then(|expiration| expiration.noncurrent_days());
    let does = match Kind::ALL.into_iter().find(|kind| kind.id(prefix) == id) {
        Some(Kind::IncompleteUploads) => {
            format!("uploads that were never completed are aborted after {}", days(uploads()))
        }
        Some(Kind::DeadLetterVersions) => format!("old versions of dead letters go after {}", days(old())),
        Some(Kind::ControlVersions) => format!("old versions of control objects go after {}", days(old())),
        Some(Kind::DeadLetters) => {
            let after = rule.expiration().and_then(|expiration| expiration.days());
            format!("dead letters expire after {}", days(after))
        }
        None => "of another version of Spillway".to_owned(),
    };
    let off = if *rule.status() == ExpirationStatus::Enabled { "" } else { ", disabled" };
    format!("lifecycle rule {id:?}: {does}{off}")
}

#[cfg(test)]
mod tests {
    use super::super::{NoteKind, Refusal, RefusalKind, Setting};
    use super::*;

    fn policy() -> Policy {
        Policy {
            create: true,
            encryption: Some(Encryption::AwsKms),
            versioning: Some(true),
            block_public_access: Some(true),
            dead_letter_expiry_days: Some(30),
            housekeeping: true,
        }
    }

    const RULES: [&str; 4] = [
        "lifecycle rule \"spillway:logs/:incomplete-uploads\": uploads that were never completed are aborted after 7 days",
        "lifecycle rule \"spillway:logs/:dead-letter-versions\": old versions of dead letters go after 7 days",
        "lifecycle rule \"spillway:logs/:control-versions\": old versions of control objects go after a day",
        "lifecycle rule \"spillway:logs/:dead-letters\": dead letters expire after 30 days",
    ];

    fn lines(first: &[&str], rest: &[&str]) -> Vec<String> {
        first.iter().chain(rest).map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_bucket_that_is_to_be_made_shows_all_that_it_is_to_have() {
        let preview = of(&policy(), "logs/", &Observed::default());
        assert_eq!(preview.now, ["there is no such bucket"]);
        let first = [
            "the bucket is created",
            "public access: blocked",
            "default encryption: aws:kms",
            "versioning: on",
        ];
        assert_eq!(preview.then, lines(&first, &RULES));
    }

    #[test]
    fn what_differs_shows_as_it_is_and_as_it_would_be_and_nothing_else_does() {
        let mut found = bare();
        found.encryption = Seen::Known(Some(FoundEncryption::Aes256));
        found.versioning = Seen::Known(Versioning::Suspended);
        found.public_access_blocked = Seen::Known(true);
        let preview = of(&policy(), "logs/", &found);
        assert_eq!(preview.now, ["default encryption: AES256", "versioning: suspended"]);
        assert_eq!(preview.then, lines(&["default encryption: aws:kms", "versioning: on"], &RULES));

        let Change::Lifecycle(rules) = plan(&policy(), "logs/", &found).changes.remove(2) else { panic!() };
        let mut all: Vec<_> = rules.ours.into_iter().map(|(_, rule)| rule).collect();
        found.encryption = Seen::Known(Some(FoundEncryption::Kms));
        found.versioning = Seen::Known(Versioning::Enabled);
        found.lifecycle = Seen::Known(all.clone());
        assert_eq!(of(&policy(), "logs/", &found), Preview::default());

        let week = Policy { dead_letter_expiry_days: Some(7), ..policy() };
        let shorter = of(&week, "logs/", &found);
        assert_eq!(shorter.now, [RULES[3]]);
        assert_eq!(shorter.then, [RULES[3].replace("30", "7")]);

        // Somebody has altered one in what the words don't say.
        all[3].filter = None;
        found.lifecycle = Seen::Known(all);
        let altered = of(&policy(), "logs/", &found);
        assert_eq!(altered.now, [format!("{}, altered", RULES[3])]);
        assert_eq!(altered.then, [RULES[3]]);
    }

    #[test]
    fn what_can_not_be_looked_at_is_a_note_and_no_change() {
        let refusal = Refusal { kind: RefusalKind::Denied, detail: "no".to_owned() };
        let found = Observed { encryption: Seen::Refused(refusal), ..bare() };
        let only = Policy { encryption: Some(Encryption::Aes256), ..Policy::default() };
        let preview = of(&only, "", &found);
        assert_eq!((preview.now.len(), preview.then.len()), (0, 0));
        let notes: Vec<_> = preview.notes.iter().map(|note| (note.setting, note.kind)).collect();
        assert_eq!(notes, [(Setting::Encryption, NoteKind::Denied)]);
    }
}
