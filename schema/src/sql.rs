//! Quoting of names and values in SQL text.

use std::fmt;

/// A name in backticks.
#[must_use]
pub fn ident(name: &str) -> String {
    quoted(name, '`')
}

/// A string value in single quotes.
#[must_use]
pub fn literal(value: &str) -> String {
    quoted(value, '\'')
}

/// String values in single quotes, separated by commas.
pub fn literals<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    values.into_iter().map(literal).collect::<Vec<_>>().join(", ")
}

fn quoted(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\0' => out.push_str("\\0"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A table, view or dictionary with its database, written `` `database`.`name` ``.
///
/// Statements always name the database: a session's default database would be one more thing that has
/// to be the same for whoever runs a statement by hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Qualified {
    /// The database.
    pub database: String,
    /// The object in it.
    pub name: String,
}

impl Qualified {
    /// `database`.`name`.
    pub fn new(database: impl Into<String>, name: impl Into<String>) -> Self {
        Self { database: database.into(), name: name.into() }
    }
}

impl fmt::Display for Qualified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", ident(&self.database), ident(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_in_values_cannot_end_the_literal() {
        assert_eq!(literal(r"a'b\c"), r"'a\'b\\c'");
        assert_eq!(ident("a`b"), r"`a\`b`");
        assert_eq!(literals(["x", "y'"]), r"'x', 'y\''");
    }
}
