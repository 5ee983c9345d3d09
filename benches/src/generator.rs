//! Made-up logs: the same ones on every machine, of 543 bytes each on average.
//!
//! The figure is the size of an AstraLog record with the metadata of a web service (trace, span, user, route,
//! region); every benchmark counts records of this generator.

use std::fmt::Write as _;

/// Mean bytes of a record in a request body, without the comma after it.
pub const RECORD_BYTES: usize = 543;

const LEVELS: [(&str, u64); 5] = [("debug", 20), ("info", 85), ("warn", 94), ("error", 99), ("fatal", 100)];
const ROUTES: [&str; 8] = [
    "/v1/orders/{id}",
    "/v1/orders/{id}/items",
    "/v1/carts/{id}/checkout",
    "/v1/payments/{id}/capture",
    "/v1/customers/{id}/addresses",
    "/v1/search",
    "/v1/catalog/products/{id}",
    "/healthz",
];
const MESSAGES: [&str; 8] = [
    "request completed",
    "upstream answered slowly, retrying once",
    "cache miss, loading from the primary",
    "payment provider declined the card",
    "order state changed from reserved to paid",
    "connection pool exhausted, waiting for a free connection",
    "published event to topic order-events",
    "feature flag evaluated",
];
const REGIONS: [&str; 3] = ["eu-central-1", "us-east-1", "ap-southeast-2"];
/// What the free text of a record is made of, one value each: the names of the usual key=value pairs.
const FACTS: [&str; 24] = [
    "elapsed_us",
    "attempt",
    "upstream",
    "peer",
    "shard",
    "cart",
    "sku",
    "warehouse",
    "amount_cents",
    "coupon",
    "session",
    "etag",
    "partition",
    "offset",
    "lag",
    "pool",
    "queue",
    "worker",
    "retry_in_ms",
    "bytes_out",
    "cache",
    "tenant_shard",
    "build",
    "correlation",
];

/// Which projects and services the records are spread over.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Projects, named `project-0`, `project-1`, ...
    pub projects: u64,
    /// Services of each, named `service-0`, ...
    pub services: u64,
}

/// A few projects of a few services, as one team has them.
pub const USUAL: Spread = Spread { projects: 4, services: 5 };

/// Makes the records of one project, its services taking turns.
#[derive(Debug, Clone)]
pub struct Generator {
    project: u64,
    services: u64,
    number: u64,
    random: u64,
    time_ms: i64,
}

impl Generator {
    /// The records that follow from a seed, with times from `time_ms` (Unix) on, one per millisecond.
    #[must_use]
    pub fn new(project: u64, services: u64, seed: u64, time_ms: i64) -> Self {
        Self { project, services, number: 0, random: seed, time_ms }
    }

    /// SplitMix64: small, fixed for all time, good enough for logs.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = self.random() % from.len() as u64;
        from[usize::try_from(index).unwrap_or(0)]
    }

    /// Appends the next record as a JSON object of the AstraLog drain.
    pub fn record(&mut self, out: &mut String) {
        let start = out.len();
        let (project, service) = (self.project, self.number % self.services);
        let roll = self.random() % 100;
        let level = LEVELS.iter().find(|(_, below)| roll < *below).map_or("info", |(name, _)| name);
        let time = jiff::Timestamp::from_millisecond(self.time_ms).unwrap_or_default();
        let (message, route, region) = (self.pick(&MESSAGES), self.pick(&ROUTES), self.pick(&REGIONS));
        let (trace, trace_low, span, user) =
            (self.random(), self.random(), self.random(), self.random() % 50_000);
        let (order, status) =
            (self.random() % 1_000_000, self.pick(&[200_u16, 200, 200, 201, 204, 304, 404, 500]));
        let duration = (self.random() % 400_000) as f64 / 1000.0;
        let _ = write!(
            out,
            "{{\"project_id\":\"project-{project}\",\"timestamp\":\"{time:.3}\",\"level\":\"{level}\",\
             \"service\":\"service-{service}\",\"message\":\"{message} for order {order}\",\"metadata\":{{\
             \"trace_id\":\"{trace:016x}{trace_low:016x}\",\"span_id\":\"{span:016x}\",\"user_id\":\"user-{user}\",\
             \"http_route\":\"{route}\",\"http_status\":{status},\"duration_ms\":{duration:.3},\"region\":\"{region}\",\
             \"pod\":\"service-{service}-7d9c{:04x}-{}\",\"detail\":\"",
            trace & 0xffff,
            span % 10
        );
        // Evenly from 120 bytes below the mean to 120 above.
        let end = "\"}}";
        let length = RECORD_BYTES - 120 + usize::try_from(self.random() % 241).unwrap_or(0);
        while out.len() - start + end.len() < length {
            let (fact, value) = (self.pick(&FACTS), self.random());
            let room = length - end.len() - (out.len() - start);
            let text = match value % 4 {
                0 => format!("{fact}={:x} ", value >> 16),
                1 => format!("{fact}={} ", value % 100_000),
                2 => format!(
                    "{fact}=10.{}.{}.{}:{} ",
                    value >> 8 & 31,
                    value >> 16 & 255,
                    value >> 24 & 255,
                    30_000 + (value >> 32) % 9_999
                ),
                _ => format!("{fact}={}-{} ", self.pick(&REGIONS), value % 64),
            };
            out.push_str(&text[..text.len().min(room)]);
        }
        out.push_str(end);
        self.number += 1;
        self.time_ms += 1;
    }

    /// A request body of `records` records.
    pub fn request(&mut self, records: usize) -> String {
        let mut body = String::with_capacity(records * (RECORD_BYTES + 1) + 16);
        body.push_str("{\"logs\":[");
        for i in 0..records {
            if i > 0 {
                body.push(',');
            }
            self.record(&mut body);
        }
        body.push_str("]}");
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator() -> Generator {
        Generator::new(0, 5, 1, 1_700_000_000_000)
    }

    #[test]
    fn records_have_543_bytes_on_average() {
        let mut out = String::new();
        let mut generator = generator();
        for _ in 0..20_000 {
            generator.record(&mut out);
        }
        let mean = out.len() as f64 / 20_000.0;
        assert!((mean - RECORD_BYTES as f64).abs() < 2.0, "{mean}");
    }

    #[test]
    fn records_compress_like_logs_and_not_like_a_repeated_sentence() {
        let body = generator().request(2_000);
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(1).unwrap());
        let mut out = vec![0; compressor.gzip_compress_bound(body.len())];
        let size = compressor.gzip_compress(body.as_bytes(), &mut out).unwrap();
        let ratio = body.len() as f64 / size as f64;
        assert!((3.0..5.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_same_seed_makes_the_same_bytes_and_another_one_others() {
        assert_eq!(generator().request(10), generator().request(10));
        assert_ne!(generator().request(10), Generator::new(0, 5, 2, 1_700_000_000_000).request(10));
    }

    #[test]
    fn requests_are_json_of_one_project_and_all_its_services() {
        let body: serde_json::Value = serde_json::from_str(&generator().request(100)).unwrap();
        let homes: std::collections::BTreeSet<_> = body["logs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|log| (log["project_id"].to_string(), log["service"].to_string()))
            .collect();
        assert_eq!(homes.len(), 5);
    }
}
