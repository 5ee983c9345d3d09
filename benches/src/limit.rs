//! What one core of this machine can do at most: reading the JSON and compressing the same bytes, nothing else.

use std::time::Duration;

use libdeflater::{CompressionLvl, Compressor};
use sonic_rs::Value;

use crate::cpu;
use crate::load::Body;

/// Records per CPU-second of parsing each body with sonic-rs and compressing it with libdeflate at level 1.
#[must_use]
pub fn parse_and_gzip(bodies: &[Body]) -> f64 {
    let mut compressor = Compressor::new(CompressionLvl::new(1).expect("level 1"));
    let longest = bodies.iter().map(|body| body.bytes.len()).max().unwrap_or(0);
    let mut out = vec![0; compressor.gzip_compress_bound(longest)];
    let (mut records, start) = (0_u64, cpu::of_this_thread());
    let mut used = Duration::ZERO;
    while used < Duration::from_secs(2) {
        for body in bodies {
            let value: Value = sonic_rs::from_slice(&body.bytes).expect("the generator makes JSON");
            std::hint::black_box(&value);
            let size = compressor.gzip_compress(&body.bytes, &mut out).expect("there is room");
            std::hint::black_box(&out[..size]);
            records += body.records;
        }
        used = cpu::of_this_thread() - start;
    }
    records as f64 / used.as_secs_f64()
}
