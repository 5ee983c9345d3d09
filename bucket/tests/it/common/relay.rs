//! Between a bucket and its store: writes down the requests, and answers some of them itself.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// An answer in the store's place.
pub(crate) struct Canned {
    pub(crate) method: &'static str,
    /// Part of the path and query.
    pub(crate) target: String,
    pub(crate) status: u16,
    pub(crate) body: String,
}

#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// Passes on to `127.0.0.1:<upstream>`; 0: there is nobody, every request is answered by `canned`.
    pub(crate) fn start(upstream: u16, canned: Vec<Canned>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), seen: Arc::default() };
        let (seen, canned) = (Arc::clone(&relay.seen), Arc::new(canned));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, canned) = (Arc::clone(&seen), Arc::clone(&canned));
                std::thread::spawn(move || serve(stream.unwrap(), upstream, &seen, &canned));
            }
        });
        relay
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What has come since the last time, as `METHOD target`.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn serve(mut client: TcpStream, upstream: u16, seen: &Mutex<Vec<String>>, canned: &[Canned]) {
    let Some((head, body)) = read_request(&mut client) else { return };
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let form = String::from_utf8_lossy(&body).into_owned();
    seen.lock().unwrap().push(format!("{method} {target}"));
    let fits = |canned: &&Canned| {
        canned.method == method && (target.contains(&canned.target) || form.contains(&canned.target))
    };
    if let Some(canned) = canned.iter().find(fits) {
        let answer = format!(
            "HTTP/1.1 {} Canned\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}",
            canned.status,
            canned.body.len(),
            canned.body
        );
        client.write_all(answer.as_bytes()).unwrap();
        return;
    }
    let mut store = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
    // One request per connection: the answer ends where the connection does.
    let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    store.write_all(head.as_bytes()).unwrap();
    store.write_all(&body).unwrap();
    let mut answer = Vec::new();
    store.read_to_end(&mut answer).unwrap();
    client.write_all(&answer).ok();
}

fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}
