//! Decides which streams become objects now, and which of them share one. Pure.

use std::time::Duration;

use spillway_model::settings::{FlushSettings, Objects};

/// A stream that holds rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting<K> {
    pub stream: K,
    pub bytes: u64,
    pub records: u64,
    /// Of its oldest record.
    pub age: Duration,
}

/// One object to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object<K> {
    One(K),
    Packed(Vec<K>),
}

/// Whether a stream is to be flushed now.
#[must_use]
pub fn is_due<K>(stream: &Waiting<K>, settings: &FlushSettings, at_once: bool) -> bool {
    at_once
        || stream.bytes >= settings.max_bytes.0
        || stream.records >= settings.max_records
        || stream.age >= settings.max_age.get()
}

/// Streams to be flushed before they are due, because together they hold more than `limit` bytes: the
/// largest, until what stays is half of it. Waiting for age with full buffers would refuse requests for
/// nothing.
pub fn relieve<K>(mut waiting: Vec<Waiting<K>>, limit: u64) -> Vec<Waiting<K>> {
    let mut bytes: u64 = waiting.iter().map(|s| s.bytes).sum();
    if bytes <= limit {
        return Vec::new();
    }
    waiting.sort_by_key(|s| std::cmp::Reverse(s.bytes));
    let mut count = 0;
    for stream in &waiting {
        if bytes <= limit / 2 {
            break;
        }
        bytes -= stream.bytes;
        count += 1;
    }
    waiting.truncate(count);
    waiting
}

/// Divides the streams that are due among at most `puts` objects. Within the budget each stream has its own.
/// Beyond it the largest keep their own and the small ones share (`Adaptive`), each shared object at most
/// about `max_bytes`; or the oldest go first and the others wait (`PerService`).
#[must_use]
pub fn plan<K: Clone>(
    mut due: Vec<Waiting<K>>,
    puts: usize,
    objects: Objects,
    max_bytes: u64,
) -> Vec<Object<K>> {
    if due.len() <= puts || objects == Objects::PerService || puts == 0 {
        due.sort_by_key(|s| std::cmp::Reverse(s.age));
        return due.into_iter().take(puts).map(|s| Object::One(s.stream)).collect();
    }
    due.sort_by_key(|s| std::cmp::Reverse(s.bytes));
    // The fewer streams have an object of their own, the more the others fill: the first split that fits.
    let mut plan = Vec::with_capacity(puts);
    let mut own = puts - 1;
    let mut packs = pack(&due[own..], max_bytes);
    while own > 0 && own + packs.len() > puts {
        own -= 1;
        packs = pack(&due[own..], max_bytes);
    }
    plan.extend(due[..own].iter().map(|s| Object::One(s.stream.clone())));
    // What still does not fit waits: the packs hold the oldest streams first.
    plan.extend(packs.into_iter().take(puts - own));
    plan
}

fn pack<K: Clone>(streams: &[Waiting<K>], max_bytes: u64) -> Vec<Object<K>> {
    let mut streams: Vec<_> = streams.iter().collect();
    streams.sort_by_key(|s| std::cmp::Reverse(s.age));
    let mut packs: Vec<(u64, Vec<K>)> = Vec::new();
    for stream in streams {
        match packs.last_mut() {
            Some((bytes, pack)) if *bytes + stream.bytes <= max_bytes => {
                *bytes += stream.bytes;
                pack.push(stream.stream.clone());
            }
            _ => packs.push((stream.bytes, vec![stream.stream.clone()])),
        }
    }
    let object = |(_, mut pack): (u64, Vec<K>)| match pack.pop() {
        Some(only) if pack.is_empty() => Object::One(only),
        Some(last) => {
            pack.push(last);
            Object::Packed(pack)
        }
        None => Object::Packed(pack),
    };
    packs.into_iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spillway_model::settings::{ByteSize, Span};

    fn stream(stream: u32, bytes: u64, age_ms: u64) -> Waiting<u32> {
        Waiting { stream, bytes, records: 1, age: Duration::from_millis(age_ms) }
    }

    #[test]
    fn a_stream_is_due_at_bytes_records_or_age() {
        let settings = FlushSettings { max_bytes: ByteSize(1000), max_records: 100, max_age: Span::ms(500) };
        let base = Waiting { stream: (), bytes: 999, records: 99, age: Duration::from_millis(499) };
        assert!(!is_due(&base, &settings, false));
        assert!(is_due(&base, &settings, true));
        assert!(is_due(&Waiting { bytes: 1000, ..base }, &settings, false));
        assert!(is_due(&Waiting { records: 100, ..base }, &settings, false));
        assert!(is_due(&Waiting { age: Duration::from_millis(500), ..base }, &settings, false));
    }

    #[test]
    fn full_buffers_are_relieved_of_their_largest_streams() {
        let waiting = || vec![stream(1, 10, 5), stream(2, 60, 5), stream(3, 30, 9)];
        assert_eq!(relieve(waiting(), 100), []);
        assert_eq!(relieve(waiting(), 99), [stream(2, 60, 5)]);
        assert_eq!(relieve(waiting(), 70), [stream(2, 60, 5), stream(3, 30, 9)]);
        assert_eq!(relieve(waiting(), 0).len(), 3);
    }

    #[test]
    fn within_the_budget_each_stream_has_its_object() {
        let due = vec![stream(1, 10, 5), stream(2, 20, 9)];
        assert_eq!(plan(due, 2, Objects::Adaptive, 100), [Object::One(2), Object::One(1)]);
    }

    #[test]
    fn beyond_it_the_small_ones_share() {
        let due = vec![stream(1, 10, 5), stream(2, 90, 5), stream(3, 20, 9), stream(4, 5, 7)];
        let planned = plan(due, 2, Objects::Adaptive, 100);
        assert_eq!(planned, [Object::One(2), Object::Packed(vec![3, 4, 1])]);
    }

    #[test]
    fn without_sharing_the_oldest_go_first() {
        let due = vec![stream(1, 10, 5), stream(2, 90, 6), stream(3, 20, 9)];
        assert_eq!(plan(due, 2, Objects::PerService, 100), [Object::One(3), Object::One(2)]);
    }

    proptest! {
        #[test]
        fn a_plan_keeps_to_the_budget_and_takes_no_stream_twice(
            sizes in prop::collection::vec((1u64..200, 0u64..1000), 0..60),
            puts in 0usize..20,
            mixed: bool,
        ) {
            let due: Vec<_> = sizes.iter().zip(0..).map(|((b, a), k)| stream(k, *b, *a)).collect();
            let objects = if mixed { Objects::Adaptive } else { Objects::PerService };
            let planned = plan(due.clone(), puts, objects, 200);
            prop_assert!(planned.len() <= puts);
            let mut taken = Vec::new();
            for object in &planned {
                let streams = match object { Object::One(k) => vec![*k], Object::Packed(k) => k.clone() };
                let bytes: u64 = streams.iter().map(|k| due[*k as usize].bytes).sum();
                prop_assert!(!streams.is_empty() && bytes <= 200);
                prop_assert!(mixed || streams.len() == 1);
                taken.extend(streams);
            }
            let count = taken.len();
            taken.sort_unstable();
            taken.dedup();
            prop_assert_eq!(taken.len(), count);
            // Nothing waits while there is room.
            prop_assert!(due.is_empty() || puts == 0 || !planned.is_empty());
            if due.len() <= puts { prop_assert_eq!(count, due.len()); }
        }
    }
}
