//! Instants: read from what clients write, written as ClickHouse reads them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Nanoseconds since 1970-01-01 UTC; reaches from 1677 to 2262.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(pub i64);

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

/// Days since 1970-01-01 UTC: the day of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(pub i32);

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const MS_PER_DAY: i64 = 86_400_000;
const NANOS_PER_DAY: i64 = 86_400 * NANOS_PER_SECOND;

/// Why a text is no instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("is not a time; send RFC 3339, for example 2026-01-31T23:59:59.123456789Z")]
    Shape,
    #[error("names a date or a time of day that does not exist")]
    NoSuchInstant,
    #[error("is outside the years 1677 to 2262")]
    OutOfRange,
}

impl TimeError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Shape => "not_a_time",
            Self::NoSuchInstant => "no_such_instant",
            Self::OutOfRange => "out_of_range",
        }
    }
}

impl UnixNanos {
    /// The wall clock.
    #[must_use]
    pub fn now() -> Self {
        Self(i64::try_from(since_epoch().as_nanos()).unwrap_or(i64::MAX))
    }

    /// Reads RFC 3339, ISO 8601 (extended or basic form, a date alone, any number of fractional digits)
    /// and SQL's `YYYY-MM-DD HH:MM:SS[.fraction]`. Without an offset it is UTC. Digits past the
    /// nanosecond are cut off. A leap second is the first instant of the next minute.
    ///
    /// # Errors
    /// When the text is none of these, or no instant that fits.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        parse(text.as_bytes())
    }

    #[must_use]
    pub fn day(self) -> Day {
        Day(self.0.div_euclid(NANOS_PER_DAY) as i32)
    }

    /// The millisecond this instant lies in.
    #[must_use]
    pub fn ms(self) -> UnixMs {
        UnixMs(self.0.div_euclid(1_000_000))
    }

    /// Appends `YYYY-MM-DD HH:MM:SS.nnnnnnnnn`, the text of ClickHouse's DateTime64(9, 'UTC').
    pub fn write_sql(self, out: &mut Vec<u8>) {
        let seconds = self.0.div_euclid(NANOS_PER_SECOND);
        let nanos = self.0.rem_euclid(NANOS_PER_SECOND) as u32;
        let mut text = *b"0000-00-00 00:00:00.000000000";
        put_seconds(&mut text, seconds);
        put_digits(&mut text[20..29], nanos);
        out.extend_from_slice(&text);
    }

    /// Reads what [`Self::write_sql`] writes, and nothing else.
    #[must_use]
    pub(crate) fn from_canonical(text: &[u8; 29]) -> Option<Self> {
        let seconds = seconds_of_canonical(text)?;
        if text[19] != b'.' {
            return None;
        }
        let nanos = digits(&text[20..29])?;
        seconds.checked_mul(NANOS_PER_SECOND)?.checked_add(i64::from(nanos)).map(Self)
    }
}

impl UnixMs {
    /// The wall clock.
    #[must_use]
    pub fn now() -> Self {
        Self(i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX))
    }

    #[must_use]
    pub fn day(self) -> Day {
        Day(self.0.div_euclid(MS_PER_DAY) as i32)
    }

    /// The first nanosecond of this millisecond, held inside the range.
    #[must_use]
    pub fn nanos(self) -> UnixNanos {
        UnixNanos(self.0.saturating_mul(1_000_000))
    }

    /// Appends `YYYY-MM-DD HH:MM:SS.mmm`, the text of ClickHouse's DateTime64(3, 'UTC').
    pub fn write_sql(self, out: &mut Vec<u8>) {
        let seconds = self.0.div_euclid(1000);
        let mut text = *b"0000-00-00 00:00:00.000";
        put_seconds(&mut text, seconds);
        put_digits(&mut text[20..23], self.0.rem_euclid(1000) as u32);
        out.extend_from_slice(&text);
    }

    #[must_use]
    pub(crate) fn from_canonical(text: &[u8; 23]) -> Option<Self> {
        let seconds = seconds_of_canonical(text)?;
        if text[19] != b'.' {
            return None;
        }
        Some(Self(seconds * 1000 + i64::from(digits(&text[20..23])?)))
    }

    /// Appends `YYYYMMDDTHHMMSSmmmZ`: sorts as text in the order of time and holds no character that a
    /// key, a path or a shell would mind.
    pub fn write_compact(self, out: &mut String) {
        let mut sql = Vec::with_capacity(23);
        self.write_sql(&mut sql);
        for (i, b) in sql.iter().enumerate() {
            match i {
                4 | 7 | 13 | 16 | 19 => {}
                10 => out.push('T'),
                _ => out.push(char::from(*b)),
            }
        }
        out.push('Z');
    }

    /// Reads what [`Self::write_compact`] writes, and nothing else.
    #[must_use]
    pub fn parse_compact(text: &str) -> Option<Self> {
        let t: &[u8; 19] = text.as_bytes().try_into().ok()?;
        if t[8] != b'T' || t[18] != b'Z' {
            return None;
        }
        let day = day_number(digits(&t[0..4])?, digits(&t[4..6])?, digits(&t[6..8])?)?;
        let seconds = second_of_day(digits(&t[9..11])?, digits(&t[11..13])?, digits(&t[13..15])?)?;
        Some(Self(day * MS_PER_DAY + seconds * 1000 + i64::from(digits(&t[15..18])?)))
    }
}

impl Day {
    /// `YYYY-MM-DD`.
    #[must_use]
    pub fn date(self) -> String {
        let (year, month, day) = civil(i64::from(self.0));
        format!("{year:04}-{month:02}-{day:02}")
    }
}

impl fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(29);
        self.write_sql(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(23);
        self.write_sql(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.date())
    }
}

fn since_epoch() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Year, month and day of a day number (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: i64) -> (i64, u32, u32) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`], for dates that exist.
fn day_number(year: u32, month: u32, day: u32) -> Option<i64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if day == 0 || day > last {
        return None;
    }
    let y = i64::from(year) - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    Some(era * 146_097 + doe - 719_468)
}

fn second_of_day(hour: u32, minute: u32, second: u32) -> Option<i64> {
    (hour < 24 && minute < 60 && second < 60).then(|| i64::from(hour * 3600 + minute * 60 + second))
}

fn digits(text: &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for b in text {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u32::from(digit);
    }
    Some(value)
}

fn put_digits(out: &mut [u8], mut value: u32) {
    for b in out.iter_mut().rev() {
        *b = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes into the first 19 bytes of `0000-00-00 00:00:00`.
fn put_seconds(text: &mut [u8], seconds: i64) {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400) as u32;
    put_digits(&mut text[0..4], year.clamp(0, 9999) as u32);
    put_digits(&mut text[5..7], month);
    put_digits(&mut text[8..10], day);
    put_digits(&mut text[11..13], second / 3600);
    put_digits(&mut text[14..16], second / 60 % 60);
    put_digits(&mut text[17..19], second % 60);
}

fn seconds_of_canonical(t: &[u8]) -> Option<i64> {
    if t[4] != b'-' || t[7] != b'-' || t[10] != b' ' || t[13] != b':' || t[16] != b':' {
        return None;
    }
    let day = day_number(digits(&t[0..4])?, digits(&t[5..7])?, digits(&t[8..10])?)?;
    let second = second_of_day(digits(&t[11..13])?, digits(&t[14..16])?, digits(&t[17..19])?)?;
    Some(day * 86_400 + second)
}

/// What is left of a text that is read from the left.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn number(&mut self, width: usize) -> Result<u32, TimeError> {
        let (head, tail) = self.0.split_at_checked(width).ok_or(TimeError::Shape)?;
        self.0 = tail;
        digits(head).ok_or(TimeError::Shape)
    }

    fn eat(&mut self, options: &[u8]) -> bool {
        match self.0.split_first() {
            Some((b, tail)) if options.contains(b) => {
                self.0 = tail;
                true
            }
            _ => false,
        }
    }

    fn at_digit(&self) -> bool {
        self.0.first().is_some_and(u8::is_ascii_digit)
    }

    /// The digits after a decimal sign, as nanoseconds.
    fn fraction(&mut self) -> Result<i64, TimeError> {
        if !self.at_digit() {
            return Err(TimeError::Shape);
        }
        let (mut value, mut scale) = (0, NANOS_PER_SECOND);
        while let Some((b, tail)) = self.0.split_first()
            && b.is_ascii_digit()
        {
            scale /= 10;
            value += i64::from(b - b'0') * scale;
            self.0 = tail;
        }
        Ok(value)
    }
}

fn parse(text: &[u8]) -> Result<UnixNanos, TimeError> {
    let mut rest = Rest(text);
    let year = rest.number(4)?;
    let extended = rest.eat(b"-");
    let month = rest.number(2)?;
    if extended && !rest.eat(b"-") {
        return Err(TimeError::Shape);
    }
    let day = rest.number(2)?;
    let (mut second, mut nanos, mut offset) = (0, 0, 0);
    if !rest.0.is_empty() {
        if !rest.eat(b"Tt ") {
            return Err(TimeError::Shape);
        }
        let (hour, mut minute, mut sec) = (rest.number(2)?, 0, 0);
        let colons = rest.eat(b":");
        if colons || rest.at_digit() {
            minute = rest.number(2)?;
            if if colons { rest.eat(b":") } else { rest.at_digit() } {
                sec = rest.number(2)?;
                if rest.eat(b".,") {
                    nanos = rest.fraction()?;
                }
            }
        }
        // A leap second has no number of its own in Unix time.
        let leap = i64::from(sec == 60);
        second =
            second_of_day(hour, minute, sec.min(59)).filter(|_| sec <= 60).ok_or(TimeError::NoSuchInstant)?
                + leap;
        if leap == 1 {
            nanos = 0;
        }
        offset = parse_offset(&mut rest)?;
        if !rest.0.is_empty() {
            return Err(TimeError::Shape);
        }
    }
    let days = day_number(year, month, day).ok_or(TimeError::NoSuchInstant)?;
    let seconds = days * 86_400 + second - offset;
    // The sum in wide numbers: the earliest instants have negative seconds that overflow by themselves.
    let total = i128::from(seconds) * i128::from(NANOS_PER_SECOND) + i128::from(nanos);
    i64::try_from(total).map(UnixNanos).map_err(|_| TimeError::OutOfRange)
}

/// Seconds east of UTC.
fn parse_offset(rest: &mut Rest<'_>) -> Result<i64, TimeError> {
    // "2026-01-31 23:59:59 UTC" and "... +02:00" are common in SQL dumps.
    rest.eat(b" ");
    if rest.0 == b"UTC" || rest.0 == b"GMT" {
        rest.0 = &[];
        return Ok(0);
    }
    if rest.0.is_empty() || rest.eat(b"Zz") {
        return Ok(0);
    }
    let sign = if rest.eat(b"+") {
        1
    } else if rest.eat(b"-") {
        -1
    } else {
        return Err(TimeError::Shape);
    };
    let hours = rest.number(2)?;
    let minutes = if rest.eat(b":") || rest.at_digit() { rest.number(2)? } else { 0 };
    second_of_day(hours, minutes, 0).map(|s| sign * s).ok_or(TimeError::NoSuchInstant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: i64 = 1_769_903_999; // 2026-01-31T23:59:59Z

    #[test]
    fn the_forms_that_clients_write_are_read() {
        let cases: &[(&str, i64)] = &[
            ("2026-01-31T23:59:59Z", BASE * NANOS_PER_SECOND),
            ("2026-01-31t23:59:59z", BASE * NANOS_PER_SECOND),
            ("2026-01-31T23:59:59", BASE * NANOS_PER_SECOND),
            ("2026-01-31 23:59:59", BASE * NANOS_PER_SECOND),
            ("2026-01-31 23:59:59 UTC", BASE * NANOS_PER_SECOND),
            ("2026-01-31 23:59:59.5", BASE * NANOS_PER_SECOND + 500_000_000),
            ("2026-01-31T23:59:59,25Z", BASE * NANOS_PER_SECOND + 250_000_000),
            ("2026-01-31T23:59:59.1234567899Z", BASE * NANOS_PER_SECOND + 123_456_789),
            ("2026-02-01T01:59:59+02:00", BASE * NANOS_PER_SECOND),
            ("2026-02-01T01:59:59+0200", BASE * NANOS_PER_SECOND),
            ("2026-02-01T01:59:59+02", BASE * NANOS_PER_SECOND),
            ("2026-01-31T18:29:59-05:30", BASE * NANOS_PER_SECOND),
            ("20260131T235959Z", BASE * NANOS_PER_SECOND),
            ("2026-01-31T23:59Z", (BASE - 59) * NANOS_PER_SECOND),
            ("2026-01-31", (BASE - 86_399) * NANOS_PER_SECOND),
            ("1970-01-01", 0),
            ("2024-02-29T00:00:00Z", 1_709_164_800 * NANOS_PER_SECOND),
            ("2016-12-31T23:59:60Z", 1_483_228_800 * NANOS_PER_SECOND),
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("2262-04-11T23:47:16.854775807Z", i64::MAX),
        ];
        for (text, nanos) in cases {
            assert_eq!(UnixNanos::parse(text), Ok(UnixNanos(*nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        let cases: &[(&str, TimeError)] = &[
            ("", TimeError::Shape),
            ("yesterday", TimeError::Shape),
            ("1769903999", TimeError::Shape),
            ("2026-1-31", TimeError::Shape),
            ("2026-01-31T", TimeError::Shape),
            ("2026-01-31T23:59:59.Z", TimeError::Shape),
            ("2026-01-31T23:59:59+2", TimeError::Shape),
            ("2026-01-31T23:59:59Zx", TimeError::Shape),
            ("2026-02-30", TimeError::NoSuchInstant),
            ("2025-02-29", TimeError::NoSuchInstant),
            ("2026-13-01", TimeError::NoSuchInstant),
            ("2026-01-31T24:00:00Z", TimeError::NoSuchInstant),
            ("2026-01-31T23:59:61Z", TimeError::NoSuchInstant),
            ("9999-12-31T00:00:00Z", TimeError::OutOfRange),
            ("0001-01-01T00:00:00Z", TimeError::OutOfRange),
        ];
        for (text, error) in cases {
            assert_eq!(UnixNanos::parse(text), Err(*error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos: i64) {
            let mut text = Vec::new();
            UnixNanos(nanos).write_sql(&mut text);
            let canonical: &[u8; 29] = text.as_slice().try_into().unwrap();
            prop_assert_eq!(UnixNanos::from_canonical(canonical), Some(UnixNanos(nanos)));
            prop_assert_eq!(UnixNanos::parse(std::str::from_utf8(&text).unwrap()), Ok(UnixNanos(nanos)));
        }

        #[test]
        fn milliseconds_survive_both_texts(ms in 0i64..253_402_300_800_000) {
            let mut sql = Vec::new();
            UnixMs(ms).write_sql(&mut sql);
            prop_assert_eq!(UnixMs::from_canonical(sql.as_slice().try_into().unwrap()), Some(UnixMs(ms)));
            let mut compact = String::new();
            UnixMs(ms).write_compact(&mut compact);
            prop_assert_eq!(UnixMs::parse_compact(&compact), Some(UnixMs(ms)));
        }

        #[test]
        fn the_reader_never_panics(text in "\\PC{0,40}") {
            let _ = UnixNanos::parse(&text);
        }

        #[test]
        fn the_reader_never_panics_near_the_right_shape(text in "[0-9TZ:+. -]{0,40}") {
            let _ = UnixNanos::parse(&text);
        }
    }
}
