//! Which objects a lifecycle rule acts on: whether it could take a staged object, or a control object, away.

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, Tag, TransitionStorageClass};
use spillway_model::object::{DEAD_LETTER_DIR, PACKED_DIR, SPILLWAY_DIR};

/// Whether a rule's filter fits an object. Sizes are not looked at: an object can have any.
#[must_use]
pub fn matches(rule: &LifecycleRule, key: &str, tags: &[(&str, &str)]) -> bool {
    key.starts_with(prefix_of(rule))
        && tags_of(rule).all(|tag| tags.iter().any(|(key, value)| tag.key() == *key && tag.value() == *value))
}

/// Whether a rule can remove an object that is current, or move it to where reading it takes hours.
#[must_use]
pub fn acts_on_current(rule: &LifecycleRule) -> bool {
    // A status that this version doesn't know may mean anything.
    *rule.status() != ExpirationStatus::Disabled && (expires(rule) || archives(rule).is_some())
}

/// Whether some staged or control object below `prefix` could fall to this rule. They have no tags. Rather yes
/// than no: which projects there will be is not known here.
#[must_use]
pub fn could_touch_staged(rule: &LifecycleRule, prefix: &str) -> bool {
    acts_on_current(rule) && tags_of(rule).next().is_none() && overlaps(prefix_of(rule), prefix)
}

fn expires(rule: &LifecycleRule) -> bool {
    rule.expiration().is_some_and(|expiration| expiration.days().is_some() || expiration.date().is_some())
}

fn archives(rule: &LifecycleRule) -> Option<&str> {
    rule.transitions().iter().filter_map(|transition| transition.storage_class()).find_map(
        |class| match class {
            TransitionStorageClass::Glacier | TransitionStorageClass::DeepArchive => Some(class.as_str()),
            _ => None,
        },
    )
}

/// For messages: `expires objects under "logs/" after 30 days`.
pub(super) fn describe_action(rule: &LifecycleRule) -> String {
    let scope = match prefix_of(rule) {
        "" => "objects everywhere in it".to_owned(),
        prefix => format!("objects under {prefix:?}"),
    };
    if let Some(class) = archives(rule).filter(|_| !expires(rule)) {
        return format!("moves {scope} to {class}, where they can't be read at once");
    }
    match rule.expiration().and_then(|expiration| expiration.days()) {
        Some(days) => format!("expires {scope} after {days} days"),
        None => format!("expires {scope} at a date"),
    }
}

fn prefix_of(rule: &LifecycleRule) -> &str {
    let of_filter = rule.filter().and_then(|filter| {
        let of_and = filter.and().and_then(|and| and.prefix());
        of_and.or(filter.prefix())
    });
    #[allow(deprecated, reason = "rules written before filters came still have it")]
    let of_rule = rule.prefix();
    of_filter.or(of_rule).unwrap_or_default()
}

fn tags_of(rule: &LifecycleRule) -> impl Iterator<Item = &Tag> {
    let filter = rule.filter();
    let of_and = filter.and_then(|filter| filter.and()).map(|and| and.tags()).unwrap_or_default();
    filter.and_then(|filter| filter.tag()).into_iter().chain(of_and)
}

/// Whether a key that a pipeline stages or keeps below `prefix` could begin with `rule_prefix`.
fn overlaps(rule_prefix: &str, prefix: &str) -> bool {
    if prefix.starts_with(rule_prefix) {
        return true;
    }
    let Some(rest) = rule_prefix.strip_prefix(prefix) else { return false };
    if rest.starts_with('_') {
        // Folders of our own; no project begins so. Dead letters are their owner's to expire.
        return [PACKED_DIR, SPILLWAY_DIR].iter().any(|dir| dir.starts_with(rest) || rest.starts_with(dir))
            && !rest.starts_with(DEAD_LETTER_DIR);
    }
    // <project>/<service>/<file> has no fourth part.
    rest.split('/').count() <= 3
}
