//! Making kubelet bring a changed Secret to running pods at once: it syncs a pod's volumes when the pod changes,
//! otherwise once in 60 to 90 s. The annotation goes on the pods and never on their template, so nothing restarts.

/// A running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    /// Value of [`crate::plan::names::TOUCHED`].
    pub(crate) told: Option<String>,
}

/// The pods to touch. `before` is the digest that this operator last knew; `None` right after it started. Then
/// only pods that were told of something else are touched: the rest began with what is there, or kubelet has
/// brought it since.
pub(crate) fn pods_to_touch<'a>(pods: &'a [Seen], before: Option<&str>, digest: &str) -> Vec<&'a str> {
    if before == Some(digest) {
        return Vec::new();
    }
    let behind = |pod: &&Seen| match &pod.told {
        Some(told) => told != digest,
        None => before.is_some(),
    };
    pods.iter().filter(behind).map(|pod| pod.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_touched_once_for_each_change() {
        let pods: Vec<_> = [("fresh", None), ("told", Some("new")), ("behind", Some("old"))]
            .map(|(name, told)| Seen { name: name.to_owned(), told: told.map(str::to_owned) })
            .into();
        for (before, touched) in [
            (Some("new"), vec![]),
            (Some("old"), vec!["fresh", "behind"]),
            // The operator has just started: a pod without the annotation is not behind.
            (None, vec!["behind"]),
        ] {
            assert_eq!(pods_to_touch(&pods, before, "new"), touched, "{before:?}");
        }
    }
}
