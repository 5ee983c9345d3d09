//! The HTTP client of probes and producers.

use crate::child::free_port;

/// A URL at which nobody listens.
pub fn nobody() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

/// Never repeats a request by itself.
pub fn client() -> reqwest::Client {
    // Fails when it was done before, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().retry(reqwest::retry::never()).build().expect("a client")
}
