//! Handshakes: in bounded time and number, so that a client that does not finish its own costs nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Under way at once. Each holds the longest handshake message, 64 KiB, at most.
const MOST: usize = 512;
/// The first byte of each TLS connection (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// Not a failure: how load balancers look whether a port is open.
    #[error("closed before it began")]
    Closed,
    #[error("took longer than {} s", TIMEOUT.as_secs())]
    TooSlow,
    #[error("made room for newer ones, of which there were more than {MOST}")]
    Crowded,
    #[error("speaks HTTP in clear text")]
    ClearText(TcpStream, UnderWay),
    #[error("the client refused: {0}")]
    Refused(std::io::Error),
    #[error("{0}")]
    Failed(std::io::Error),
}

impl HandshakeError {
    /// A metric's label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::TooSlow => "too_slow",
            Self::Crowded => "crowded",
            Self::ClearText(..) => "clear_text",
            Self::Refused(_) => "refused_by_client",
            Self::Failed(_) => "failed",
        }
    }
}

/// The handshakes of one port.
pub(crate) struct Handshakes {
    acceptor: TlsAcceptor,
    room: Arc<Room>,
}

impl Handshakes {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        Self { acceptor: config.into(), room: Arc::new(Room::new(MOST)) }
    }

    /// Shakes hands with a new connection.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let place = Room::enter(&self.room);
        let gave_way = place.gave_way.clone();
        tokio::select! {
            done = tokio::time::timeout(TIMEOUT, self.shake(stream, place)) => {
                done.unwrap_or(Err(HandshakeError::TooSlow))
            }
            () = gave_way.cancelled() => Err(HandshakeError::Crowded),
        }
    }

    async fn shake(
        &self,
        stream: TcpStream,
        place: UnderWay,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return Err(HandshakeError::Closed),
            Ok(_) if first[0] == HANDSHAKE_RECORD => {}
            // Every method of HTTP is letters, and so is the preface of HTTP/2.
            Ok(_) if first[0].is_ascii_uppercase() => return Err(HandshakeError::ClearText(stream, place)),
            Ok(_) => {}
        }
        self.acceptor.accept(stream).await.map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            match cause {
                Some(rustls::Error::AlertReceived(_)) => HandshakeError::Refused(error),
                _ => HandshakeError::Failed(error),
            }
        })
    }
}

/// Who is under way, oldest first.
#[derive(Debug)]
struct Room {
    most: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    oldest_first: BTreeMap<u64, CancellationToken>,
}

/// A place among those under way, until dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    number: u64,
    gave_way: CancellationToken,
    room: Arc<Room>,
}

impl Room {
    fn new(most: usize) -> Self {
        Self { most, inside: Mutex::default() }
    }

    /// Takes a place; the oldest gives way when there is none. An honest handshake takes two round trips, so
    /// the oldest is the one that is least likely to end.
    fn enter(room: &Arc<Self>) -> UnderWay {
        let gave_way = CancellationToken::new();
        let mut inside = room.inside.lock();
        let number = inside.next;
        inside.next += 1;
        if inside.oldest_first.len() >= room.most
            && let Some((_, oldest)) = inside.oldest_first.pop_first()
        {
            oldest.cancel();
        }
        inside.oldest_first.insert(number, gave_way.clone());
        drop(inside);
        UnderWay { number, gave_way, room: Arc::clone(room) }
    }
}

impl UnderWay {
    /// Until its place was needed.
    pub(crate) async fn gave_way(&self) {
        self.gave_way.cancelled().await;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.room.inside.lock().oldest_first.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_who_leaves_makes_room() {
        let room = Arc::new(Room::new(2));
        let (first, second) = (Room::enter(&room), Room::enter(&room));
        assert!(!first.gave_way.is_cancelled());
        let third = Room::enter(&room);
        assert!(first.gave_way.is_cancelled() && !second.gave_way.is_cancelled());
        drop((first, second));
        let fourth = Room::enter(&room);
        assert!(!third.gave_way.is_cancelled() && !fourth.gave_way.is_cancelled());
        drop((third, fourth));
        assert!(room.inside.lock().oldest_first.is_empty());
    }
}
