//! Reads single fields and remembers what was wrong with them.

use std::{fmt::Display, time::Duration};

use http::Uri;
use spillway_model::settings::{ByteSize, Span};

use super::{FieldError, Problem};
use crate::units::{SizeText, SpanText};

#[derive(Default)]
pub(super) struct Reader {
    errors: Vec<FieldError>,
}

impl Reader {
    pub(super) fn refuse(&mut self, path: impl Into<String>, problem: Problem) {
        self.errors.push(FieldError { path: path.into(), problem });
    }

    /// The value, unless anything was refused.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<FieldError>> {
        if self.errors.is_empty() { Ok(value) } else { Err(self.errors) }
    }

    pub(super) fn span(
        &mut self,
        path: &str,
        text: Option<&SpanText>,
        least: Duration,
        most: Duration,
    ) -> Option<Span> {
        let is_good = |span: Span| (least..=most).contains(&span.get());
        self.span_where(path, text, is_good, Span(least), most)
    }

    /// As [`Self::span`]; and 0 switches it off.
    pub(super) fn span_or_off(
        &mut self,
        path: &str,
        text: Option<&SpanText>,
        least: Duration,
        most: Duration,
    ) -> Option<Span> {
        let is_good = |span: Span| span.get().is_zero() || (least..=most).contains(&span.get());
        self.span_where(path, text, is_good, format_args!("0s, or {}", Span(least)), most)
    }

    fn span_where(
        &mut self,
        path: &str,
        text: Option<&SpanText>,
        is_good: impl Fn(Span) -> bool,
        least: impl Display,
        most: Duration,
    ) -> Option<Span> {
        let text = text?;
        match text.read() {
            None => self.refuse(path, Problem::NotASpan { text: text.to_string() }),
            Some(span) if is_good(span) => return Some(span),
            Some(_) => self.out_of_range(path, text, least, Span(most)),
        }
        None
    }

    pub(super) fn size(
        &mut self,
        path: &str,
        text: Option<&SizeText>,
        least: u64,
        most: u64,
    ) -> Option<ByteSize> {
        let text = text?;
        match text.read() {
            None => self.refuse(path, Problem::NotASize { text: text.to_string() }),
            Some(size) if size.0 < least || size.0 > most => {
                self.out_of_range(path, text, ByteSize(least), ByteSize(most));
            }
            Some(size) => return Some(size),
        }
        None
    }

    pub(super) fn range(&mut self, path: &str, value: u64, least: u64, most: u64) {
        if value < least || value > most {
            self.out_of_range(path, value, least, most);
        }
    }

    /// A name that may stand in SQL without quotes.
    pub(super) fn identifier(&mut self, path: &str, text: Option<&str>) -> Option<String> {
        let text = text?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let good = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(plain)
            && text.len() <= 128;
        if !good {
            self.refuse(path, Problem::BadIdentifier { text: text.to_owned() });
        }
        good.then(|| text.to_owned())
    }

    /// A name that an object of Kubernetes may have.
    pub(super) fn object_name(&mut self, path: &str, text: Option<&str>) -> Option<String> {
        let text = text?;
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = text.starts_with(ends)
            && text.ends_with(ends)
            && text.chars().all(|c| ends(c) || c == '-' || c == '.')
            && text.len() <= 253;
        if !good {
            let remedy =
                "use lower-case letters, digits, '-' and '.', and begin and end with a letter or digit";
            let why = "can't be the name of an object";
            self.refuse(path, Problem::Malformed { text: text.to_owned(), why, remedy });
        }
        good.then(|| text.to_owned())
    }

    /// An http or https URL without credentials or a query. The text of a refused one is not repeated: it may
    /// hold a password.
    pub(super) fn url(&mut self, path: &str, text: Option<&str>, example: &'static str) -> Option<String> {
        let text = text?;
        let why = match text.parse::<Uri>() {
            Err(_) => "is no URL",
            Ok(uri) if !matches!(uri.scheme_str(), Some("http" | "https")) => {
                "has neither http:// nor https://"
            }
            Ok(uri) if uri.authority().is_some_and(|host| host.as_str().contains('@')) => {
                "has a user or password in it, which belong in the Secret"
            }
            Ok(uri) if uri.query().is_some() => "has a query",
            Ok(_) => return Some(text.trim_end_matches('/').to_owned()),
        };
        self.refuse(path, Problem::BadUrl { why, example });
        None
    }

    fn out_of_range(&mut self, path: &str, value: impl Display, least: impl Display, most: impl Display) {
        let (value, least, most) = (value.to_string(), least.to_string(), most.to_string());
        self.refuse(path, Problem::OutOfRange { value, least, most });
    }
}
