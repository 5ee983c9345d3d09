//! Who says how many pods there are.
//!
//! With server-side apply a field that its only manager leaves out is reset to its default: one pod. So while a
//! HorizontalPodAutoscaler decides, the operator must neither apply `spec.replicas` nor be the last to have done so.

use spillway_crds::validate::Scale;

use super::observed::Workload;

/// Who says how many ingest pods there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// The operator: the number is applied with everything else.
    Fixed(i32),
    /// The autoscaler from now on. First [`super::names::REPLICAS_MANAGER`] applies this number (with the
    /// resourceVersion it was read at, so that a change in between is not undone), then everything else is applied without it.
    HandOver(i32),
    /// The autoscaler: the field is left alone.
    Autoscaled,
}

impl Replicas {
    /// The value of `spec.replicas` in the applied object.
    #[must_use]
    pub fn applied(self) -> Option<i32> {
        match self {
            Self::Fixed(replicas) => Some(replicas),
            Self::HandOver(_) | Self::Autoscaled => None,
        }
    }
}

/// Who says how many ingest pods there are.
#[must_use]
pub fn of_ingest(scale: &Scale, suspend: bool, observed: Option<&Workload>) -> Replicas {
    match (scale, suspend, observed) {
        (_, true, _) => Replicas::Fixed(0),
        (Scale::Fixed(replicas), false, _) => Replicas::Fixed(*replicas),
        // Without a number it would be created with one pod. The field is handed over next time.
        (Scale::Auto { min, .. }, false, None) => Replicas::Fixed(*min),
        // The number that is there, so that nothing dips, but never none: an autoscaler leaves 0 pods at 0.
        (Scale::Auto { min, .. }, false, Some(there)) if there.replicas_are_ours => {
            Replicas::HandOver(there.replicas.max(*min))
        }
        (Scale::Auto { .. }, false, Some(_)) => Replicas::Autoscaled,
    }
}

/// How many syncers there are; none once a suspended pipeline has loaded everything.
#[must_use]
pub fn of_syncer(replicas: i32, suspend: bool, drained: bool) -> i32 {
    if suspend && drained { 0 } else { replicas }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: Scale = Scale::Auto { min: 3, max: 10, target_cpu_utilization: 70, behavior: None };

    fn there(replicas: i32, replicas_are_ours: bool) -> Option<Workload> {
        Some(Workload { replicas, replicas_are_ours, ..Workload::default() })
    }

    #[test]
    fn nobody_takes_the_number_of_pods_from_the_autoscaler_and_it_never_dips() {
        use Replicas::{Autoscaled, Fixed, HandOver};
        let (run, suspend) = (false, true);
        for (what, scale, suspended, observed, expected) in [
            ("created with a number", Scale::Fixed(2), run, None, Fixed(2)),
            ("the user's number is put right", Scale::Fixed(2), run, there(9, false), Fixed(2)),
            ("created under an autoscaler", AUTO, run, None, Fixed(3)),
            ("the first time after that", AUTO, run, there(3, true), HandOver(3)),
            ("autoscaling switched on", AUTO, run, there(8, true), HandOver(8)),
            ("switched on below its minimum", AUTO, run, there(2, true), HandOver(3)),
            ("killed while handing over", AUTO, run, there(8, true), HandOver(8)),
            ("handed over", AUTO, run, there(8, false), Autoscaled),
            ("scaled to nothing by hand, which stops an autoscaler", AUTO, run, there(0, false), Autoscaled),
            ("autoscaling switched off", Scale::Fixed(4), run, there(8, false), Fixed(4)),
            ("suspended", Scale::Fixed(2), suspend, there(2, true), Fixed(0)),
            ("suspended under an autoscaler", AUTO, suspend, there(8, false), Fixed(0)),
            ("suspended from the beginning", AUTO, suspend, None, Fixed(0)),
            ("resumed under an autoscaler", AUTO, run, there(0, true), HandOver(3)),
            ("resumed", Scale::Fixed(2), run, there(0, true), Fixed(2)),
        ] {
            assert_eq!(of_ingest(&scale, suspended, observed.as_ref()), expected, "{what}");
        }
    }

    #[test]
    fn a_suspended_syncer_goes_on_until_everything_is_loaded() {
        assert_eq!(of_syncer(2, false, false), 2);
        assert_eq!(of_syncer(2, false, true), 2);
        assert_eq!(of_syncer(2, true, false), 2);
        assert_eq!(of_syncer(2, true, true), 0);
    }
}
