//! What is decided, over all that can be found in a bucket.

use aws_sdk_s3::types::{
    ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleAndOperator, LifecycleRuleFilter, Tag,
    Transition, TransitionStorageClass,
};
use proptest::prelude::*;

use super::plan::{FoundEncryption, Versioning};
use super::reach::{acts_on_current, could_touch_staged, matches};
use super::rules::{Kind, is_our_id, wanted};
use super::*;

fn everything() -> Policy {
    Policy {
        create: true,
        encryption: Some(Encryption::Aes256),
        versioning: Some(true),
        block_public_access: Some(true),
        dead_letter_expiry_days: Some(30),
        housekeeping: true,
    }
}

fn bare() -> Observed {
    Observed {
        exists: true,
        server: "AmazonS3".to_owned(),
        public_access_blocked: Seen::Known(false),
        encryption: Seen::Known(None),
        versioning: Seen::Known(Versioning::Never),
        lifecycle: Seen::Known(Vec::new()),
    }
}

/// What is found after everything that was planned was written.
fn after(mut found: Observed, changes: &[Change]) -> Observed {
    for change in changes {
        match change {
            Change::Create => found = bare(),
            Change::BlockPublicAccess => found.public_access_blocked = Seen::Known(true),
            Change::Encrypt(Encryption::Aes256) => {
                found.encryption = Seen::Known(Some(FoundEncryption::Aes256))
            }
            Change::Encrypt(Encryption::AwsKms) => found.encryption = Seen::Known(Some(FoundEncryption::Kms)),
            Change::EnableVersioning => found.versioning = Seen::Known(Versioning::Enabled),
            Change::Lifecycle(rules) => {
                let ours = rules.ours.iter().map(|(_, rule)| rule.clone());
                found.lifecycle = Seen::Known(rules.foreign.iter().cloned().chain(ours).collect());
            }
        }
    }
    found
}

fn settings(plan: &Plan) -> Vec<Setting> {
    plan.changes.iter().map(Change::setting).collect()
}

fn ids(found: &Observed) -> Vec<String> {
    let Seen::Known(rules) = &found.lifecycle else { panic!("{found:?}") };
    rules.iter().map(|rule| rule.id().unwrap_or_default().to_owned()).collect()
}

fn refused(kind: RefusalKind) -> Refusal {
    Refusal { kind, detail: "AccessDenied: no".to_owned() }
}

fn foreign(id: &str, filter: LifecycleRuleFilter) -> LifecycleRule {
    let expiration = LifecycleExpiration::builder().days(30).build();
    LifecycleRule::builder()
        .id(id)
        .filter(filter)
        .expiration(expiration)
        .status(ExpirationStatus::Enabled)
        .build()
        .unwrap()
}

fn by_prefix(prefix: &str) -> LifecycleRuleFilter {
    LifecycleRuleFilter::builder().prefix(prefix).build()
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build().unwrap()
}

#[test]
fn a_bare_bucket_gets_all_that_is_wanted_and_then_nothing_more() {
    let first = plan(&everything(), "logs/", &bare());
    assert_eq!(
        settings(&first),
        [Setting::PublicAccessBlock, Setting::Encryption, Setting::Versioning, Setting::Lifecycle]
    );
    assert_eq!(first.notes, []);
    let found = after(bare(), &first.changes);
    assert_eq!(
        ids(&found),
        [
            "spillway:logs/:incomplete-uploads",
            "spillway:logs/:dead-letter-versions",
            "spillway:logs/:control-versions",
            "spillway:logs/:dead-letters"
        ]
    );
    assert_eq!(plan(&everything(), "logs/", &found), Plan::default());
}

#[test]
fn a_missing_bucket_is_made_only_if_asked() {
    let missing = Observed::default();
    assert_eq!(plan(&everything(), "", &missing).changes, [Change::Create]);
    assert_eq!(plan(&Policy { create: false, ..everything() }, "", &missing), Plan::default());
}

#[test]
fn nothing_wanted_means_nothing_changed() {
    let mut found = bare();
    found.lifecycle = Seen::Known(vec![foreign("theirs", by_prefix("backups/2026/x/y/"))]);
    assert_eq!(plan(&Policy::default(), "logs/", &found), Plan::default());
    assert_eq!(
        plan(&Policy { block_public_access: Some(false), ..Policy::default() }, "logs/", &found),
        Plan::default()
    );
}

#[test]
fn a_rule_of_ours_that_is_no_longer_wanted_goes_and_others_stay() {
    let theirs = foreign("theirs", by_prefix("backups/"));
    let mut found = bare();
    found.lifecycle = Seen::Known(vec![theirs.clone()]);
    let found = after(found.clone(), &plan(&everything(), "logs/", &found).changes);
    assert_eq!(ids(&found).len(), 5);
    let without = Policy { dead_letter_expiry_days: None, ..everything() };
    let fewer = after(found.clone(), &plan(&without, "logs/", &found).changes);
    assert!(!ids(&fewer).iter().any(|id| id.contains("dead-letter")), "{:?}", ids(&fewer));
    let none = after(fewer.clone(), &plan(&Policy::default(), "logs/", &fewer).changes);
    assert_eq!(none.lifecycle, Seen::Known(vec![theirs]));
}

#[test]
fn nothing_is_made_less_strict() {
    for (found_encryption, wanted, expected) in [
        (None, Encryption::Aes256, true),
        (None, Encryption::AwsKms, true),
        (Some(FoundEncryption::Aes256), Encryption::Aes256, false),
        (Some(FoundEncryption::Aes256), Encryption::AwsKms, true),
        (Some(FoundEncryption::Kms), Encryption::Aes256, false),
        (Some(FoundEncryption::Kms), Encryption::AwsKms, false),
        (Some(FoundEncryption::Other), Encryption::AwsKms, false),
    ] {
        let policy = Policy { encryption: Some(wanted), ..Policy::default() };
        let found = Observed { encryption: Seen::Known(found_encryption), ..bare() };
        let changes = plan(&policy, "", &found).changes;
        assert_eq!(!changes.is_empty(), expected, "{found_encryption:?} {wanted:?}");
    }
    let off = Policy { versioning: Some(false), ..Policy::default() };
    let on = Observed { versioning: Seen::Known(Versioning::Enabled), ..bare() };
    let plan = plan(&off, "", &on);
    assert_eq!((plan.changes.len(), plan.notes[0].kind), (0, NoteKind::Left));
}

#[test]
fn what_is_refused_is_said_with_what_to_grant_and_stops_nothing_else() {
    let found = Observed {
        public_access_blocked: Seen::Refused(refused(RefusalKind::NotSupported)),
        encryption: Seen::Refused(refused(RefusalKind::Denied)),
        lifecycle: Seen::Refused(refused(RefusalKind::Failed)),
        ..bare()
    };
    let plan = plan(&everything(), "logs/", &found);
    assert_eq!(settings(&plan), [Setting::Versioning]);
    let kinds: Vec<_> = plan.notes.iter().map(|note| (note.setting, note.kind)).collect();
    assert_eq!(
        kinds,
        [
            (Setting::PublicAccessBlock, NoteKind::NotSupported),
            (Setting::Encryption, NoteKind::Denied),
            (Setting::Lifecycle, NoteKind::Failed)
        ]
    );
    assert!(
        plan.notes[1]
            .message
            .contains("grant s3:GetEncryptionConfiguration and s3:PutEncryptionConfiguration")
    );
}

#[test]
fn rules_that_cannot_be_read_are_said_even_if_none_are_wanted() {
    let denied = Observed { lifecycle: Seen::Refused(refused(RefusalKind::Denied)), ..bare() };
    assert_eq!(plan(&Policy::default(), "", &denied).notes[0].kind, NoteKind::Denied);
    // A store without them expires nothing.
    let without = Observed { lifecycle: Seen::Refused(refused(RefusalKind::NotSupported)), ..bare() };
    assert_eq!(plan(&Policy::default(), "", &without).notes, []);
}

#[test]
fn versioning_that_cannot_be_read_leaves_its_rules_as_they_were() {
    let housekeeping = Policy { housekeeping: true, ..Policy::default() };
    let versioned = Observed { versioning: Seen::Known(Versioning::Enabled), ..bare() };
    let with = after(versioned.clone(), &plan(&housekeeping, "logs/", &versioned).changes);
    let unknown = Observed { versioning: Seen::Refused(refused(RefusalKind::Denied)), ..with };
    assert_eq!(plan(&housekeeping, "logs/", &unknown).changes, []);
    let never = Observed { versioning: Seen::Refused(refused(RefusalKind::Denied)), ..bare() };
    assert_eq!(ids(&after(never.clone(), &plan(&housekeeping, "logs/", &never).changes)).len(), 1);
}

#[test]
fn a_foreign_rule_that_would_take_staged_objects_is_named() {
    let tagged = |prefix: &str| {
        let and = LifecycleRuleAndOperator::builder().prefix(prefix).tags(tag("temp", "yes")).build();
        LifecycleRuleFilter::builder().and(and).build()
    };
    for (prefix, filter, is_danger) in [
        ("logs/", by_prefix(""), true),
        ("logs/", LifecycleRuleFilter::builder().build(), true),
        ("logs/", by_prefix("lo"), true),
        ("logs/", by_prefix("logs/"), true),
        ("logs/", by_prefix("logs/shop/"), true),
        ("logs/", by_prefix("logs/_"), true),
        ("logs/", by_prefix("logs/_spillway/manifest"), true),
        ("", by_prefix("backups/"), true),
        ("logs/", by_prefix("logs/_dead-letter/"), false),
        ("logs/", by_prefix("logs/_other/"), false),
        ("logs/", by_prefix("backups/"), false),
        ("logs/", by_prefix("logs-old/"), false),
        ("", by_prefix("a/b/c/d/"), false),
        ("logs/", tagged(""), false),
        ("logs/", LifecycleRuleFilter::builder().tag(tag("temp", "yes")).build(), false),
    ] {
        let found = Observed { lifecycle: Seen::Known(vec![foreign("theirs", filter.clone())]), ..bare() };
        let notes = plan(&Policy::default(), prefix, &found).notes;
        assert_eq!(!notes.is_empty(), is_danger, "{prefix:?} {filter:?}");
        for note in notes {
            assert_eq!(note.kind, NoteKind::Danger);
            assert!(note.message.contains("\"theirs\"") && note.message.contains("30 days"), "{note}");
        }
    }
}

#[test]
fn only_enabled_rules_that_take_what_is_current_are_a_danger() {
    let all = || LifecycleRule::builder().filter(by_prefix("")).status(ExpirationStatus::Enabled);
    let move_to = |class| all().transitions(Transition::builder().days(1).storage_class(class).build());
    let markers = LifecycleExpiration::builder().expired_object_delete_marker(true).build();
    for (rule, is_danger) in [
        (all().expiration(LifecycleExpiration::builder().days(1).build()), true),
        (all().expiration(LifecycleExpiration::builder().days(1).build()).status("Odd".into()), true),
        (
            all()
                .expiration(LifecycleExpiration::builder().days(1).build())
                .status(ExpirationStatus::Disabled),
            false,
        ),
        (all().expiration(markers), false),
        (move_to(TransitionStorageClass::DeepArchive), true),
        (move_to(TransitionStorageClass::StandardIa), false),
    ] {
        let rule = rule.build().unwrap();
        assert_eq!(could_touch_staged(&rule, "logs/"), is_danger, "{rule:?}");
    }
}

#[test]
fn minio_is_not_asked_for_the_rule_that_it_refuses() {
    let found = Observed { server: "MinIO".to_owned(), ..bare() };
    let plan = plan(&everything(), "logs/", &found);
    assert!(!ids(&after(found, &plan.changes)).iter().any(|id| id.contains("incomplete")));
    assert_eq!(plan.notes[0].kind, NoteKind::NotSupported);
}

#[test]
fn without_a_prefix_nobodys_uploads_are_aborted() {
    assert!(wanted(&everything(), "", true).iter().all(|(kind, _)| *kind != Kind::IncompleteUploads));
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_.:-]{1,6}",
        Just("_dead-letter".to_owned()),
        Just("_spillway".to_owned()),
        "[^/\\\\\\pC]{1,8}"
    ]
}

fn prefix() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        5 => prop::collection::vec(name(), 1..4).prop_map(|parts| format!("{}/", parts.join("/"))),
        1 => "[a-z/]{190,300}".prop_map(|text| format!("{text}/")),
    ]
}

/// A key that the pipeline writes without a tag.
fn untagged_key() -> impl Strategy<Value = String> {
    let project = "[a-zA-Z0-9.:-][^/\\\\\\pC]{0,8}";
    prop_oneof![
        (project, name())
            .prop_map(|(project, service)| format!("{project}/{service}/20260131T235959042Z-a.json.gz")),
        Just("_packed/20260131T235959042Z-a-0000000007-v1-100-54300.json.gz".to_owned()),
        Just("_spillway/manifest.json".to_owned()),
        Just("_spillway/batches/1-00000001.json".to_owned()),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    (prop::option::of(1_u16..3650), any::<bool>()).prop_map(|(dead_letter_expiry_days, housekeeping)| {
        Policy { dead_letter_expiry_days, housekeeping, ..Policy::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_rule_of_ours_acts_on_anything_but_dead_letters(
        policy in policy(), ours in prefix(), versioned: bool, key in untagged_key(), nested in prefix(),
    ) {
        for (kind, rule) in wanted(&policy, &ours, versioned) {
            prop_assert!(!could_touch_staged(&rule, &ours));
            // Nor of a pipeline whose prefix is anywhere else.
            for full in [format!("{ours}{key}"), format!("{nested}{key}"), format!("{ours}{nested}{key}")] {
                prop_assert!(!(acts_on_current(&rule) && matches(&rule, &full, &[])), "{kind:?} {full}");
            }
            if kind == Kind::DeadLetters {
                let letter = format!("{ours}_dead-letter/2026-11-22/1-00000001.json.gz");
                prop_assert!(matches(&rule, &letter, &[crate::DEAD_LETTER_TAG]));
                prop_assert!(!matches(&rule, &letter, &[]));
            }
        }
    }

    #[test]
    fn a_rule_that_takes_a_staged_object_is_always_noticed(
        ours in prefix(), key in untagged_key(), cut in any::<prop::sample::Index>(), other in prefix(),
    ) {
        let full = format!("{ours}{key}");
        let ends: Vec<usize> = full.char_indices().map(|(at, _)| at).chain([full.len()]).collect();
        let part = &full[..ends[cut.index(ends.len())]];
        for of_rule in [part, other.as_str()] {
            let rule = foreign("theirs", by_prefix(of_rule));
            if matches(&rule, &full, &[]) {
                prop_assert!(could_touch_staged(&rule, &ours), "{of_rule:?} {full:?}");
            }
        }
    }

    #[test]
    fn pipelines_with_different_prefixes_leave_each_others_rules(
        one in (policy(), prefix()), two in (policy(), prefix()), versioned: bool,
    ) {
        prop_assume!(one.1 != two.1);
        let mut found = bare();
        found.versioning = Seen::Known(if versioned { Versioning::Enabled } else { Versioning::Never });
        for (policy, prefix) in [&one, &two] {
            found = after(found.clone(), &plan(policy, prefix, &found).changes);
        }
        for (policy, prefix) in [&one, &two] {
            prop_assert_eq!(plan(policy, prefix, &found).changes, []);
        }
        for id in ids(&found) {
            prop_assert!(id.len() <= 255);
            prop_assert_eq!([&one, &two].iter().filter(|(_, prefix)| is_our_id(&id, prefix)).count(), 1);
        }
    }
}

mod on_the_wire {
    use super::super::wire::lost;

    const RECEIVED: &str = r#"<?xml version="1.0"?><LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
        <Rule><ID>a &amp; b</ID><Filter><Prefix>x/</Prefix></Filter><Status>Enabled</Status>
            <Expiration><Date>2030-01-01T00:00:00.000Z</Date></Expiration></Rule>
        <Rule><ID>spillway::x</ID><Status>Enabled</Status></Rule></LifecycleConfiguration>"#;

    fn ours(id: &str) -> bool {
        id.starts_with("spillway:")
    }

    fn rule(inner: &str) -> String {
        format!("<LifecycleConfiguration><Rule>{inner}</Rule></LifecycleConfiguration>")
    }

    #[test]
    fn order_spaces_and_the_form_of_a_date_do_not_matter() {
        let sent = rule(
            "<Expiration><Date>2030-01-01T00:00:00Z</Date></Expiration><ID>a &#38; b</ID><Status>Enabled</Status>\
             <Filter><Prefix>x/</Prefix></Filter>",
        );
        assert_eq!(lost(RECEIVED.as_bytes(), sent.as_bytes(), &ours), Ok(None));
    }

    #[test]
    fn what_would_be_lost_is_named() {
        let sent = rule(
            "<ID>a &amp; b</ID><Status>Enabled</Status><Filter><Prefix>x/</Prefix></Filter><Expiration/>",
        );
        let loss = lost(RECEIVED.as_bytes(), sent.as_bytes(), &ours).unwrap().unwrap();
        assert_eq!(loss, "Expiration/Date of \"a & b\"");
        let loss = lost(RECEIVED.as_bytes(), b"<LifecycleConfiguration/>", &ours).unwrap().unwrap();
        assert_eq!(loss, "all of \"a & b\"");
        assert!(lost(b"no xml", b"<a/>", &ours).is_err());
    }
}
