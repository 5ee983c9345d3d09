//! The ports that `up` serves on. Each is taken before anything else is started, so that a taken one is a clear
//! error and not a half-started system.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

/// A port can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("{address} is taken (for {what}); stop what listens there, or choose another port with {flag}")]
    Taken { address: SocketAddr, what: &'static str, flag: &'static str },
    #[error("can't listen on {address} (for {what}): {source}; choose another address with {flag}")]
    Refused { address: SocketAddr, what: &'static str, flag: &'static str, source: io::Error },
}

/// Takes a port.
///
/// # Errors
/// Naming the flag that changes it.
pub async fn bind(
    address: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<TcpListener, PortError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => PortError::Taken { address, what, flag },
        _ => PortError::Refused { address, what, flag, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_flag_that_changes_it() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "requests", "--http").await.unwrap();
        let error = bind(first.local_addr().unwrap(), "requests", "--http").await.unwrap_err().to_string();
        assert!(
            error.contains(&first.local_addr().unwrap().to_string()) && error.contains("--http"),
            "{error}"
        );
    }
}
