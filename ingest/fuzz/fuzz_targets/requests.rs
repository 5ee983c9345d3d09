//! Any bytes as a request body: read or refused, and what is taken is a row that reads back.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use spillway_ingest::admit::{Admission, Policy, Stamp};
use spillway_ingest::drain_json::{self, Format};
use spillway_model::{ProjectId, UnixNanos, read_row};

fuzz_target!(|body: &[u8]| {
    let projects = ["shop", "p"].iter().map(|p| ProjectId::parse(p).expect("a name")).collect();
    for format in [Format::Logs, Format::Lines] {
        let policy = Policy {
            projects: &projects,
            retention_days: u16::MAX,
            past: Duration::from_secs(100 * 365 * 86_400),
            future: Duration::from_secs(3600),
            max_record_bytes: 1 << 20,
            max_streams: 100,
        };
        let stamp = Stamp { now: UnixNanos(1_769_903_999_000_000_000), request_id: "r", random: 7 };
        let mut admission = Admission::new(policy, stamp, body.len());
        let parsed =
            drain_json::parse(body, format, 10_000, &mut |record, fault| admission.record(record, fault));
        let admitted = admission.finish();
        if parsed.is_err() {
            continue;
        }
        let mut rows = 0;
        for stream in &admitted.streams {
            for line in stream.rows.split_inclusive(|b| *b == b'\n') {
                let row = read_row(line).expect("what is written is read");
                assert_eq!(
                    (&*row.project_id, &*row.service),
                    (stream.project.as_str(), stream.service.as_str())
                );
                rows += 1;
            }
        }
        assert_eq!(rows, admitted.accepted);
        if admitted.foreign.is_none() {
            assert_eq!(admitted.received, admitted.accepted + admitted.refusals.total);
        }
    }
});
