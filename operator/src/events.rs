//! What people should hear of, as events of the pipeline.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};

use crate::{
    conditions::{Change, Truth, Type},
    ctx::Ctx,
    errors,
};

/// Longest note that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1_000;

/// Reasons of events other than those of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    BucketChanged,
    SchemaChanged,
    /// The manifest was lost, and what is left of the batches was put into a new one.
    ManifestRebuilt,
    /// Deleted with `Retain`: bucket and tables are left.
    Kept,
    CleaningUp,
    CleanedUp,
    CleanupFailed,
    CleanupGivenUp,
    /// By the API server, because the resource doesn't allow it.
    StatusRefused,
}

impl Reason {
    fn type_(self) -> EventType {
        match self {
            Self::BucketChanged
            | Self::SchemaChanged
            | Self::ManifestRebuilt
            | Self::Kept
            | Self::CleaningUp
            | Self::CleanedUp => EventType::Normal,
            Self::CleanupFailed | Self::CleanupGivenUp | Self::StatusRefused => EventType::Warning,
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::BucketChanged => "ConfigureBucket",
            Self::SchemaChanged => "ApplySchema",
            Self::ManifestRebuilt => "RebuildManifest",
            Self::StatusRefused => "Reconcile",
            Self::Kept | Self::CleaningUp | Self::CleanedUp | Self::CleanupFailed | Self::CleanupGivenUp => {
                "Delete"
            }
        }
    }
}

/// Tells people. What can't be told is logged and stops nothing.
pub(crate) async fn publish(ctx: &Ctx, pipeline: &ObjectReference, reason: Reason, note: impl Into<String>) {
    let event = Event {
        type_: reason.type_(),
        reason: format!("{reason:?}"),
        note: Some(cut(note.into())),
        action: reason.action().to_owned(),
        secondary: None,
    };
    send(ctx, pipeline, event).await;
}

/// Tells of conditions that changed.
pub(crate) async fn publish_changes(ctx: &Ctx, pipeline: &ObjectReference, changes: &[Change]) {
    for change in changes {
        if let Some(event) = of_change(change) {
            send(ctx, pipeline, event).await;
        }
    }
}

async fn send(ctx: &Ctx, pipeline: &ObjectReference, event: Event) {
    let publishing = ctx.recorder.publish(&event, pipeline);
    let limit = std::time::Duration::from_secs(10);
    let problem = match tokio::time::timeout(limit, publishing).await {
        Ok(Ok(())) => return,
        Ok(Err(kube::Error::Api(status))) => status.message.clone(),
        Ok(Err(error)) => errors::chain(&error),
        Err(_) => "no answer within 10 s".to_owned(),
    };
    tracing::warn!(reason = event.reason, note = event.note, "an event could not be published: {problem}");
}

/// A condition's turn for the worse is an event, and so is becoming ready. What only takes its time is none.
fn of_change(change: &Change) -> Option<Event> {
    let Change { type_, to, reason, message } = change;
    let waiting = matches!(
        reason.as_str(),
        "RollingOut"
            | "WaitingForBucket"
            | "WaitingForSchema"
            | "NoPodsReady"
            | "NoLeader"
            | "NotLookedAt"
            | "Deleting"
            | "SpecInvalid"
    );
    let event_type = match (type_, to) {
        (Type::Ready, Truth::True) => EventType::Normal,
        // Its cause has an event of its own.
        (Type::Ready, _) => match reason.as_str() {
            "Paused" | "Suspending" | "Suspended" => EventType::Normal,
            _ => return None,
        },
        (_, Truth::False) if !waiting && !matches!(reason.as_str(), "Suspended" | "ScaledToZero") => {
            EventType::Warning
        }
        _ => return None,
    };
    Some(Event {
        type_: event_type,
        reason: reason.clone(),
        note: Some(cut(format!("{type_}: {message}"))),
        action: "Reconcile".to_owned(),
        secondary: None,
    })
}

/// How many there are and the first few of them, in a line: notes are cut, and people read lists of them.
pub(crate) fn few(what: &str, all: &[&str]) -> String {
    const SHOWN: usize = 3;
    const LONGEST: usize = 80;
    let mut shown: Vec<String> = all
        .iter()
        .take(SHOWN)
        .map(|text| match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
            None => (*text).to_owned(),
        })
        .collect();
    if all.len() > SHOWN {
        shown.push(format!("{} more", all.len() - SHOWN));
    }
    let plural = if all.len() == 1 { "" } else { "s" };
    format!("{} {what}{plural}: {}", all.len(), shown.join("; "))
}

fn cut(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        note.truncate(note.floor_char_boundary(LONGEST_NOTE - 3));
        note.push_str("...");
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_for_the_worse_is_an_event_and_waiting_is_none() {
        for (type_, to, reason, expected) in [
            (Type::BucketReady, Truth::False, "Denied", Some(EventType::Warning)),
            (Type::BucketReady, Truth::True, "Configured", None),
            (Type::IngestAvailable, Truth::False, "NoPodsReady", None),
            (Type::IngestAvailable, Truth::False, "NotOurs", Some(EventType::Warning)),
            (Type::SchemaReady, Truth::Unknown, "NotLookedAt", None),
            (Type::Ready, Truth::True, "Ready", Some(EventType::Normal)),
            (Type::Ready, Truth::False, "Denied", None),
            // What becomes of it has events of its own.
            (Type::Ready, Truth::False, "Deleting", None),
            (Type::IngestAvailable, Truth::False, "Deleting", None),
            (Type::Ready, Truth::False, "Suspended", Some(EventType::Normal)),
        ] {
            let change = Change { type_, to, reason: reason.to_owned(), message: String::new() };
            assert_eq!(of_change(&change).map(|event| event.type_), expected, "{change:?}");
        }
    }

    #[test]
    fn a_long_list_is_told_by_its_number_and_its_first() {
        assert_eq!(few("statement", &["create a"]), "1 statement: create a");
        let long = "x".repeat(500);
        let all = ["create a", &long, "create c", "create d", "create e"];
        let line = few("statement", &all);
        assert!(
            line.starts_with("5 statements: create a; xxx") && line.ends_with("...; create c; 2 more"),
            "{line}"
        );
        assert!(line.len() < 200, "{}", line.len());
    }

    #[test]
    fn a_note_fits_whatever_its_letters() {
        let note = cut("é".repeat(900));
        assert!(note.len() <= LONGEST_NOTE && note.ends_with("..."));
        assert_eq!(cut("short".to_owned()), "short");
    }
}
