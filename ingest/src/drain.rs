//! `spillway-ingest drain`: what a preStop hook runs, in an image that has no shell and no curl.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a process that lives may take to say so. One that is stuck must be left to SIGTERM: a hook that
/// waits for it would use up the time in which it is told to stop.
const ALIVE: Duration = Duration::from_secs(5);
const SHOWN_BYTES: usize = 300;

/// How a drain ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// No new connections come any more.
    Yes,
    /// There is no process, or it ended meanwhile.
    Gone,
}

/// Why a drain came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrainError {
    #[error("{address} can't be reached: {source}; name the admin address with --admin")]
    Unreachable { address: SocketAddr, source: std::io::Error },
    #[error("{address} did not answer within {} s: the process is stuck", ALIVE.as_secs())]
    Stuck { address: SocketAddr },
    #[error("{address} answered {status}: {body}")]
    Refused { address: SocketAddr, status: StatusCode, body: String },
}

impl DrainError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Stuck { .. } => "stuck",
            Self::Refused { .. } => "refused",
        }
    }
}

/// Takes the process behind an admin port out of the load balancers, and waits until they have noticed.
pub(crate) async fn drain(address: SocketAddr) -> Result<Drained, DrainError> {
    let stream = match timeout(ALIVE, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Drained::Gone),
        Ok(Err(source)) => return Err(DrainError::Unreachable { address, source }),
        Err(_) => return Err(DrainError::Stuck { address }),
    };
    // From here on a connection that breaks is a process that ended.
    let Ok((mut sender, connection)) = handshake(TokioIo::new(stream)).await else {
        return Ok(Drained::Gone);
    };
    tokio::spawn(connection);
    match timeout(ALIVE, ask(&mut sender, address, Method::GET, "/livez")).await {
        // Whether it is well does not matter, as long as it answers.
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Ok(Drained::Gone),
        Err(_) => return Err(DrainError::Stuck { address }),
    }
    match ask(&mut sender, address, Method::POST, "/drain").await {
        Ok((StatusCode::OK, _)) => Ok(Drained::Yes),
        Ok((status, body)) => Err(DrainError::Refused { address, status, body }),
        Err(_) => Ok(Drained::Gone),
    }
}

async fn ask(
    sender: &mut SendRequest<Body>,
    address: SocketAddr,
    method: Method,
    path: &str,
) -> Result<(StatusCode, String), hyper::Error> {
    sender.ready().await?;
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_default();
    if let Ok(host) = address.to_string().parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    let (head, body): (_, Incoming) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    let body = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]).trim().to_owned();
    Ok((head.status, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Answers one request after the other on one connection, then closes it; None: never answers.
    async fn server(answers: Vec<Option<&'static str>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let Some(answer) = answer else { return std::future::pending().await };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    const ALIVE_ANSWER: Option<&str> = Some("HTTP/1.1 503 Unavailable\r\ncontent-length: 2\r\n\r\nno");

    #[tokio::test]
    async fn it_ends_well_when_the_process_drained_or_is_gone() {
        let ok = Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        assert_eq!(drain(server(vec![ALIVE_ANSWER, ok]).await).await.unwrap(), Drained::Yes);
        assert_eq!(drain(server(vec![]).await).await.unwrap(), Drained::Gone);
        assert_eq!(drain(server(vec![ALIVE_ANSWER]).await).await.unwrap(), Drained::Gone);
        let half = Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
        assert_eq!(drain(server(vec![ALIVE_ANSWER, half]).await).await.unwrap(), Drained::Gone);
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(drain(nobody).await.unwrap(), Drained::Gone);
    }

    #[tokio::test]
    async fn it_neither_waits_for_a_stuck_process_nor_believes_a_refusal() {
        let stuck = drain(server(vec![None]).await).await.unwrap_err();
        assert_eq!(stuck.reason(), "stuck");
        let no = Some("HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nelse");
        let refused = drain(server(vec![ALIVE_ANSWER, no]).await).await.unwrap_err().to_string();
        assert!(refused.contains("403") && refused.contains("else"), "{refused}");
    }
}
