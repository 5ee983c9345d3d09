//! What a pod says of itself on its admin port.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::forward::Forward;
use crate::space::Space;

/// Admin ports.
pub const INGEST: u16 = 9090;
pub const SYNCER: u16 = 9091;

/// A pod's `/metrics`.
pub struct Metrics(String);

impl Metrics {
    /// Reads them from the pod itself.
    pub async fn of(space: &Space, pod: &Pod, port: u16) -> Self {
        Self::try_of(space, pod, port).await.unwrap_or_else(|error| panic!("{}: {error}", pod.name_any()))
    }

    /// # Errors
    /// When the pod doesn't answer.
    pub async fn try_of(space: &Space, pod: &Pod, port: u16) -> Result<Self, String> {
        let forward = Forward::open(space, &format!("pod/{}", pod.name_any()), port).await;
        let request = spillway_tests::http::client().get(format!("{}/metrics", forward.url()));
        let answer = request.send().await.map_err(|error| error.to_string())?;
        answer.text().await.map(Self).map_err(|error| error.to_string())
    }

    /// A metric without labels.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.samples(name).next().map(|(_, value)| value)
    }

    /// The sum of a metric over all labels; 0 when there is none of that name.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, "")
    }

    /// The same over those whose labels contain a text such as `code="200"`.
    #[must_use]
    pub fn sum_where(&self, name: &str, label: &str) -> f64 {
        self.samples(name).filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }

    fn samples(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            Some((labels, value.parse().ok()?)).filter(|_| is_it)
        })
    }
}
