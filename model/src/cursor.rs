//! Reads the JSON that Spillway itself writes, without building anything: columns in order, no spaces.
//! Whatever is written differently makes it give up (None), and the general reader decides.

use std::borrow::Cow;

pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn eat(&mut self, token: &[u8]) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// The comma, name and colon before a value; the object's first column has no comma.
    #[inline]
    pub(crate) fn column(&mut self, token: &[u8]) -> bool {
        if self.at == 1 { self.eat(token.get(1..).unwrap_or_default()) } else { self.eat(token) }
    }

    pub(crate) fn at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// A string; borrowed when it has no escapes.
    #[inline]
    pub(crate) fn string(&mut self) -> Option<Cow<'a, str>> {
        if !self.eat(b"\"") {
            return None;
        }
        let from = self.at;
        self.at += first_special(self.rest());
        match self.rest().first()? {
            b'"' => {
                let text = self.text.get(from..self.at)?;
                self.at += 1;
                Some(Cow::Borrowed(text))
            }
            b'\\' => self.escaped(from).map(Cow::Owned),
            _ => None,
        }
    }

    #[cold]
    fn escaped(&mut self, from: usize) -> Option<String> {
        let mut out = String::with_capacity(self.at - from + 64);
        out.push_str(self.text.get(from..self.at)?);
        loop {
            match self.rest().first()? {
                b'"' => {
                    self.at += 1;
                    return Some(out);
                }
                b'\\' => {
                    let escape = *self.rest().get(1)?;
                    self.at += 2;
                    out.push(match escape {
                        b'n' => '\n',
                        b't' => '\t',
                        b'r' => '\r',
                        b'"' => '"',
                        b'\\' => '\\',
                        b'/' => '/',
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        // A surrogate is no char: the general reader joins pairs.
                        b'u' => {
                            let hex = self.text.get(self.at..self.at + 4)?;
                            if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                                return None;
                            }
                            self.at += 4;
                            char::from_u32(u32::from_str_radix(hex, 16).ok()?)?
                        }
                        _ => return None,
                    });
                }
                _ => return None,
            }
            let start = self.at;
            self.at += first_special(self.rest());
            out.push_str(self.text.get(start..self.at)?);
        }
    }

    /// A whole number without sign, point or exponent.
    #[inline]
    pub(crate) fn unsigned(&mut self) -> Option<u64> {
        let text = self.number()?;
        // "01" is no JSON, "-0" and "1.0" are: both are left to the general reader.
        if !text.bytes().all(|b| b.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0')) {
            return None;
        }
        text.parse().ok()
    }

    /// The longest run of characters that a number may have.
    pub(crate) fn number(&mut self) -> Option<&'a str> {
        let len = self.rest().iter().take_while(|b| b.is_ascii_digit() || b"+-.eE".contains(b)).count();
        let text = self.text.get(self.at..self.at + len)?;
        self.at += len;
        Some(text)
    }
}

/// The index of the first byte that a JSON string can't hold as it is (a quote, a backslash, a control
/// character), or the length. Eight bytes at a time.
#[inline]
pub(crate) fn first_special(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let x = u64::from_le_bytes(*word);
        let quote = x ^ (ONES * b'"' as u64);
        let slash = x ^ (ONES * b'\\' as u64);
        // A borrow can only mark bytes above a true hit, so the lowest mark is always true.
        let hit = (x.wrapping_sub(ONES * 0x20) & !x)
            | (quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash);
        let hit = hit & HIGH;
        if hit != 0 {
            return i * 8 + (hit.trailing_zeros() / 8) as usize;
        }
    }
    let from = bytes.len() - tail.len();
    tail.iter().position(|b| *b < 0x20 || *b == b'"' || *b == b'\\').map_or(bytes.len(), |i| from + i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_scan_by_words_finds_what_a_scan_by_bytes_finds(bytes: Vec<u8>) {
            let plain = bytes.iter().position(|b| *b < 0x20 || *b == b'"' || *b == b'\\').unwrap_or(bytes.len());
            prop_assert_eq!(first_special(&bytes), plain);
        }
    }
}
