//! How deep JSON is nested, found without recursion.
//!
//! The parser skips values that nobody asked for by calling itself per level, without a limit: a body of a
//! million '[' would end the process. So whatever it is to skip is looked at here first.

/// Levels that are read. What people nest on purpose is far below.
pub(crate) const MAX_DEPTH: usize = 100;

/// Whether the first JSON value of the text is nested at most [`MAX_DEPTH`] deep. Sees strings as the parser
/// sees them up to the first error, where the parser stops as well.
pub(crate) fn is_shallow(text: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut bytes = text.iter();
    while let Some(b) = bytes.next() {
        match b {
            b'"' => {
                while let Some(b) = bytes.next() {
                    match b {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return true;
                }
            }
            _ => {}
        }
    }
    true
}

/// The text of the value that follows a key, from the key's place in the text. None when the key does not
/// lie in the text: it had escapes and was copied.
pub(crate) fn value_after<'t>(text: &'t str, key: &str) -> Option<&'t [u8]> {
    let end = key.as_ptr().addr().checked_sub(text.as_ptr().addr())?.checked_add(key.len())?;
    let rest = text.as_bytes().get(end..)?.strip_prefix(b"\"")?.trim_ascii_start();
    Some(rest.strip_prefix(b":")?.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(is_shallow(nested(MAX_DEPTH).as_bytes()));
        assert!(!is_shallow(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(is_shallow(format!("[{:?}]", nested(1000)).as_bytes()));
        let hidden = r#"{"a":"]\"]","b":"#.repeat(MAX_DEPTH + 1);
        assert!(!is_shallow(hidden.as_bytes()));
    }

    #[test]
    fn only_the_first_value_counts() {
        assert!(is_shallow(format!("[],{}", "[".repeat(1000)).as_bytes()));
    }

    #[test]
    fn a_value_is_found_by_its_key() {
        let text = r#"{"a" : [1]}"#;
        assert_eq!(value_after(text, &text[2..3]), Some(&b"[1]}"[..]));
        assert_eq!(value_after(text, &String::from("a")), None);
    }
}
