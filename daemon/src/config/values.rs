//! Sizes and durations as people write them: a number and a unit, never a number alone.
//!
//! `quota = 64` would mean 64 bytes, which nobody means; so a value without its unit is
//! refused, and what is refused is answered with what to write.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// For `#[serde(with)]` of a [`Duration`]: `"30s"`, more than nothing.
pub mod duration {
    use super::{Deserializer, Duration, Serializer, Span};

    /// As it is read.
    ///
    /// # Errors
    ///
    /// The serializer's.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    /// A number and a unit, or several.
    ///
    /// # Errors
    ///
    /// Says what a duration looks like.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Span)
    }
}

/// For `#[serde(with)]` of a [`ByteSize`]: `"64 GiB"`.
pub mod size {
    use super::{ByteSize, Deserializer, Serializer, Size, exact_size};

    /// In the largest unit that says it exactly, so that it reads back as it was.
    ///
    /// # Errors
    ///
    /// The serializer's.
    pub fn serialize<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&exact_size(size.as_u64()))
    }

    /// A number and a unit; nothing is `0`.
    ///
    /// # Errors
    ///
    /// Says what a size looks like.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        deserializer.deserialize_any(Size)
    }
}

/// Reads a size, which must have a unit.
pub(crate) fn parse_size(text: &str) -> Option<ByteSize> {
    let text = text.trim();
    if text == "0" {
        return Some(ByteSize(0));
    }
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    let size: ByteSize = text.parse().ok().filter(|_| has_unit)?;
    (size <= MAX_SIZE).then_some(size)
}

/// Reads a duration.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let duration = humantime::parse_duration(text.trim()).ok()?;
    (!duration.is_zero() && duration <= MAX_DURATION).then_some(duration)
}

/// `bytes` in the largest unit that says it exactly.
pub(crate) fn exact_size(bytes: u64) -> String {
    let exact = UNITS.iter().find(|(unit_len, _)| bytes > 0 && bytes.is_multiple_of(*unit_len));
    let (unit_len, unit) = exact.copied().unwrap_or((1, "B"));
    format!("{} {unit}", bytes / unit_len)
}

struct Span;

impl Visitor<'_> for Span {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(DURATION)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).ok_or_else(|| E::custom(format_args!("expected {DURATION}")))
    }

    fn visit_i64<E: Error>(self, _number: i64) -> Result<Duration, E> {
        Err(E::custom(format_args!("no unit; expected {DURATION}")))
    }

    fn visit_f64<E: Error>(self, _number: f64) -> Result<Duration, E> {
        Err(E::custom(format_args!("no unit; expected {DURATION}")))
    }
}

struct Size;

impl Visitor<'_> for Size {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SIZE)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ByteSize, E> {
        parse_size(text).ok_or_else(|| E::custom(format_args!("expected {SIZE}")))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ByteSize, E> {
        if number == 0 {
            return Ok(ByteSize(0));
        }
        Err(E::custom(format_args!("no unit; expected {SIZE}")))
    }

    fn visit_f64<E: Error>(self, _number: f64) -> Result<ByteSize, E> {
        Err(E::custom(format_args!("no unit; expected {SIZE}")))
    }
}

const DURATION: &str = "a duration, a number with its unit: \"500ms\", \"30s\", \"5m\", \"12h\" or \"7days\"";
const SIZE: &str = "a size, a number with its unit: \"500 MB\", \"64 GiB\" or \"1.5 TiB\"";

/// Ten years. A longer time is most likely a mistake.
const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
/// More than any disk; beyond 16 EiB a size's number is cut off when it is read.
const MAX_SIZE: ByteSize = ByteSize::eib(1);

/// Largest first.
const UNITS: [(u64, &str); 8] = [
    (1 << 40, "TiB"),
    (1_000_000_000_000, "TB"),
    (1 << 30, "GiB"),
    (1_000_000_000, "GB"),
    (1 << 20, "MiB"),
    (1_000_000, "MB"),
    (1 << 10, "KiB"),
    (1_000, "kB"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_and_reads_back_as_it_was() {
        for (text, bytes) in [
            ("64 GiB", 64 << 30),
            ("64GB", 64_000_000_000),
            ("1.5 TiB", 3 << 39),
            ("7 B", 7),
            ("0", 0),
            (" 1 kB ", 1000),
        ] {
            let size = parse_size(text).unwrap();
            assert_eq!(size.as_u64(), bytes, "{text}");
            assert_eq!(parse_size(&exact_size(bytes)), Some(size), "{text}");
        }
        for text in ["64", "64 gigs", "-1 GiB", "", "GiB", "64 GiB x", "1e3", "99 EiB", "inf GB", "0x40 B"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_is_more_than_nothing() {
        for (text, seconds) in [("30s", 30), ("10 sec", 10), ("1h 30m", 5400), ("7days", 604_800)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["10", "0s", "-3s", "", "s", "1 fortnight", "99999years", "soon"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
