//! Objects side by side, as text.

use serde_json::Value;
use similar::TextDiff;
use spillway_operator::plan::render::yaml;

/// What the API server keeps and nobody asked for.
const KEPT: [&str; 5] = ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"];

/// The unified difference of two objects; none when they say the same. `None` is an object that is not there.
pub(crate) fn objects(what: &str, before: Option<&Value>, after: Option<&Value>) -> Option<String> {
    let (mut before, mut after) = (before.map(said), after.map(said));
    if what.starts_with("Secret ") {
        mask(before.as_mut(), after.as_mut());
    }
    let text = |value: &Option<Value>| value.as_ref().and_then(|value| yaml(value).ok()).unwrap_or_default();
    unified(what, before.is_some(), &text(&before), after.is_some(), &text(&after))
}

/// The unified difference of two texts.
pub(crate) fn unified(what: &str, old: bool, before: &str, new: bool, after: &str) -> Option<String> {
    if before == after {
        return None;
    }
    let header =
        |there: bool, side: &str| if there { format!("{side}/{what}") } else { "/dev/null".to_owned() };
    let (from, to) = (header(old, "now"), header(new, "then"));
    Some(TextDiff::from_lines(before, after).unified_diff().context_radius(3).header(&from, &to).to_string())
}

/// An object without what the API server keeps.
fn said(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(top) = object.as_object_mut() {
        top.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        KEPT.iter().for_each(|field| {
            metadata.remove(*field);
        });
    }
    object
}

/// Hides the values of Secrets, and shows which of them change.
fn mask(before: Option<&mut Value>, after: Option<&mut Value>) {
    let data = |object: &Option<&mut Value>| object.as_ref().and_then(|object| object.get("data").cloned());
    let (old, new) = (data(&before), data(&after));
    let cover = |object: Option<&mut Value>, other: &Option<Value>, when: &str| {
        let entries = object.and_then(|object| object.get_mut("data")).and_then(Value::as_object_mut);
        for (key, value) in entries.into_iter().flatten() {
            let other = other.as_ref().and_then(|other| other.get(key));
            let changed = other.is_some_and(|other| other != value);
            *value = Value::String(if changed { format!("*** ({when})") } else { "***".to_owned() });
        }
    };
    cover(before, &new, "before");
    cover(after, &old, "after");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_keeps_is_no_difference() {
        let now = json!({
            "metadata": {"name": "a", "uid": "1", "resourceVersion": "7", "generation": 2, "managedFields": [{}]},
            "spec": {"replicas": 2},
            "status": {"replicas": 2},
        });
        let then = json!({"metadata": {"name": "a", "resourceVersion": "8"}, "spec": {"replicas": 2}});
        assert_eq!(objects("Deployment a", Some(&now), Some(&then)), None);
        let changed = json!({"metadata": {"name": "a"}, "spec": {"replicas": 3}});
        let text = objects("Deployment a", Some(&now), Some(&changed)).unwrap();
        assert!(text.starts_with("--- now/Deployment a\n+++ then/Deployment a\n"), "{text}");
        assert!(text.contains("-  replicas: 2\n+  replicas: 3\n"), "{text}");
    }

    #[test]
    fn an_object_that_comes_or_goes_is_compared_with_nothing() {
        let object = json!({"metadata": {"name": "a"}});
        let comes = objects("Service a", None, Some(&object)).unwrap();
        assert!(comes.starts_with("--- /dev/null\n+++ then/Service a\n"), "{comes}");
        let goes = objects("Service a", Some(&object), None).unwrap();
        assert!(goes.starts_with("--- now/Service a\n+++ /dev/null\n"), "{goes}");
    }

    #[test]
    fn a_changed_secret_shows_that_and_never_what() {
        let secret =
            |first: &str| json!({"metadata": {"name": "s"}, "data": {"first": first, "same": "c2VjcmV0"}});
        let text = objects("Secret s", Some(&secret("b2xk")), Some(&secret("bmV3"))).unwrap();
        assert!(text.contains("*** (before)") && text.contains("*** (after)"), "{text}");
        for hidden in ["b2xk", "bmV3", "c2VjcmV0"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
}
