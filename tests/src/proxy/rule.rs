//! Which requests are tampered with, and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use tokio::sync::watch;

use super::PATIENCE;
use crate::wait::until;

/// What happens to a request instead of being passed on.
#[derive(Clone, Debug)]
pub enum Action {
    /// Answers without passing it on.
    AnswerBefore(Reply),
    /// Passes it on, but answers otherwise.
    AnswerAfter(Reply),
    /// Closes the connection; nothing was passed on.
    CutBefore,
    /// Passes it on and closes the connection instead of answering.
    CutAfter,
    /// Never answers; nothing was passed on.
    HangBefore,
    /// Passes it on and never answers.
    HangAfter,
    /// Passes it on when the gate opens, even if the client has gone.
    HoldRequest(Gate),
    /// Passes it on and answers when the gate opens.
    HoldAnswer(Gate),
    /// Passes on half of the body, and the rest when the gate opens, even if the client has gone.
    HoldHalf(Gate),
    Delay(Duration),
    /// Passes it on and answers with one header changed.
    ReplaceHeader(&'static str, String),
}

impl Action {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::AnswerBefore(_) => "answer before",
            Self::AnswerAfter(_) => "answer after",
            Self::CutBefore => "cut before",
            Self::CutAfter => "cut after",
            Self::HangBefore => "hang before",
            Self::HangAfter => "hang after",
            Self::HoldRequest(_) => "hold request",
            Self::HoldAnswer(_) => "hold answer",
            Self::HoldHalf(_) => "hold half",
            Self::Delay(_) => "delay",
            Self::ReplaceHeader(..) => "replace header",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    /// As S3 refuses.
    pub fn s3(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>on command</Message></Error>"
        );
        Self { status, headers: vec![("content-type", "application/xml".to_owned())], body }
    }

    /// As ClickHouse reports an exception after it has begun to answer: status 200, the code in a header.
    pub fn clickhouse_200_with_exception(code: i32) -> Self {
        Self { status: 200, ..Self::clickhouse_exception(code) }
    }

    pub fn clickhouse_exception(code: i32) -> Self {
        Self {
            status: 500,
            headers: vec![("x-clickhouse-exception-code", code.to_string())],
            body: format!("Code: {code}. DB::Exception: on command. (ON_COMMAND)\n"),
        }
    }
}

/// Holds requests until it is opened.
#[derive(Clone, Debug)]
pub struct Gate {
    arrived: Arc<AtomicUsize>,
    open: Arc<watch::Sender<bool>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { arrived: Arc::default(), open: Arc::new(watch::Sender::new(false)) }
    }
}

impl Gate {
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until a request stands at the gate.
    pub async fn reached(&self) {
        until("a request at the gate", PATIENCE, async || {
            (self.arrived.load(Ordering::SeqCst) > 0).then_some(())
        })
        .await;
    }

    pub(super) async fn arrive(&self) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.open.subscribe().wait_for(|open| *open).await.ok();
    }
}

/// An action and the requests it is for.
#[derive(Debug)]
pub struct Rule {
    method: Option<Method>,
    target_has: Vec<String>,
    target_lacks: Vec<String>,
    body_has: Option<String>,
    skip: usize,
    times: usize,
    matched: AtomicUsize,
    pub(super) action: Action,
}

impl Rule {
    /// For every request, until narrowed.
    pub fn new(action: Action) -> Self {
        Self {
            method: None,
            target_has: Vec::new(),
            target_lacks: Vec::new(),
            body_has: None,
            skip: 0,
            times: usize::MAX,
            matched: AtomicUsize::new(0),
            action,
        }
    }

    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Path and query, as sent (percent-encoded), hold this text.
    #[must_use]
    pub fn target_has(mut self, text: &str) -> Self {
        self.target_has.push(text.to_owned());
        self
    }

    #[must_use]
    pub fn target_lacks(mut self, text: &str) -> Self {
        self.target_lacks.push(text.to_owned());
        self
    }

    #[must_use]
    pub fn body_has(mut self, text: &str) -> Self {
        self.body_has = Some(text.to_owned());
        self
    }

    /// Lets the first ones pass.
    #[must_use]
    pub fn skip(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// Only so many.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// How many requests the action was taken for.
    pub fn taken(&self) -> usize {
        self.matched.load(Ordering::SeqCst).saturating_sub(self.skip).min(self.times)
    }

    /// Waits until the action was taken so often.
    pub async fn was_taken(&self, times: usize) {
        until("a rule to be used", PATIENCE, async || (self.taken() >= times).then_some(())).await;
    }

    pub(super) fn fits(&self, method: &Method, target: &str, body: &Bytes) -> bool {
        let has_body = |text: &String| body.windows(text.len()).any(|part| part == text.as_bytes());
        let fits = self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.target_has.iter().all(|text| target.contains(text.as_str()))
            && !self.target_lacks.iter().any(|text| target.contains(text.as_str()))
            && self.body_has.as_ref().is_none_or(has_body);
        if !fits {
            return false;
        }
        let number = self.matched.fetch_add(1, Ordering::SeqCst);
        (self.skip..self.skip.saturating_add(self.times)).contains(&number)
    }
}
