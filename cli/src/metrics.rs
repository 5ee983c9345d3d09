//! Reads the Prometheus text of `/metrics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What a process answered.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    pub samples: Vec<Sample>,
    /// Names of the metrics that it offers, also of those without a sample so far. Counters without `_total`.
    pub families: BTreeSet<String>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Why metrics can't be read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error(
        "{url} does not answer: {source}; check that the process runs, or name its address with --metrics"
    )]
    Unreachable { url: String, source: reqwest::Error },
    #[error("{url} answered {status}; name the address of /metrics with --metrics")]
    Status { url: String, status: u16 },
}

/// Asks a process for its metrics. `url` may leave out `/metrics`.
///
/// # Errors
/// When it does not answer.
pub async fn fetch(url: &str) -> Result<Scrape, MetricsError> {
    let url = if url.ends_with("/metrics") {
        url.to_owned()
    } else {
        format!("{}/metrics", url.trim_end_matches('/'))
    };
    let unreachable = |source| MetricsError::Unreachable { url: url.clone(), source };
    let request = reqwest::Client::new().get(&url).timeout(Duration::from_secs(5));
    let answer = request.send().await.map_err(unreachable)?;
    if !answer.status().is_success() {
        return Err(MetricsError::Status { url, status: answer.status().as_u16() });
    }
    Ok(parse(&answer.text().await.map_err(unreachable)?))
}

/// Every line is a sample or a comment, and one kind of comment names a metric.
pub fn parse(text: &str) -> Scrape {
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families = types.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    Scrape { samples, families }
}

/// The sum of all samples of this name whose labels hold these.
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |sample: &&Sample| {
        sample.name == name
            && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
    };
    samples.iter().filter(fits).map(|sample| sample.value).sum()
}

fn sample(line: &str) -> Option<Sample> {
    let Some((name, rest)) = line.split_once('{') else {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next()?, words.next()?.parse().ok()?);
        return Some(Sample { name: name.to_owned(), labels: BTreeMap::new(), value });
    };
    let (labels, rest) = labels(rest)?;
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Labels up to the closing brace, and what follows it. A value may hold any character, quotes and backslashes
/// with a backslash before them.
fn labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches(',');
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        text = &rest[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_whatever_is_in_their_labels() {
        let text = "# HELP x y\nplain 3\nx_total{a=\"b,c}\",d=\"q\\\"\\\\\\n\"} 4.5 1700000000\nx_total{a=\"other\"} 1\n# TYPE none counter\n# EOF\n";
        let Scrape { samples, families } = parse(text);
        assert!(families.contains("none") && families.len() == 1);
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[0].value, 3.0);
        assert_eq!(samples[1].labels["a"], "b,c}");
        assert_eq!(samples[1].labels["d"], "q\"\\\n");
        assert_eq!(sum(&samples, "x_total", &[]), 5.5);
        assert_eq!(sum(&samples, "x_total", &[("a", "other")]), 1.0);
    }
}
