//! Bytes a second, as people write them: a size.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::config;

/// Bytes a second, written as a size: `"50 MB"`. At least [`Self::MIN`]: with less, pieces that
/// share it would be given up as stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Bandwidth(NonZeroU64);

impl Bandwidth {
    /// 1 MB a second.
    pub const MIN: Self = Self(NonZeroU64::new(1_000_000).expect("not zero"));

    /// In bytes.
    pub const fn bytes_per_s(self) -> NonZeroU64 {
        self.0
    }
}

impl TryFrom<ByteSize> for Bandwidth {
    type Error = BandwidthError;

    fn try_from(size: ByteSize) -> Result<Self, BandwidthError> {
        let bytes = NonZeroU64::new(size.as_u64()).filter(|bytes| *bytes >= Self::MIN.0);
        bytes.map(Self).ok_or(BandwidthError(size))
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        config::size::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Bandwidth {
    type Err = ParseBandwidthError;

    fn from_str(text: &str) -> Result<Self, ParseBandwidthError> {
        let size =
            config::parse_size(text).ok_or_else(|| ParseBandwidthError::Size { text: text.to_owned() })?;
        Ok(size.try_into()?)
    }
}

impl fmt::Display for Bandwidth {
    /// In the largest unit that says it exactly, so that it reads back as it was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&config::exact_size(self.0.get()))
    }
}

impl From<Bandwidth> for String {
    fn from(bandwidth: Bandwidth) -> Self {
        bandwidth.to_string()
    }
}

/// Less than a piece needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bandwidth is at least 1 MB a second, not {}", .0.display().si())]
pub struct BandwidthError(ByteSize);

/// Why a text is no bandwidth.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBandwidthError {
    /// No size.
    #[error("`{text}` is no bandwidth: one reads like 50 MB, and means a second")]
    Size {
        /// What stands there.
        text: String,
    },
    /// Less than a piece needs.
    #[error(transparent)]
    Least(#[from] BandwidthError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bandwidth_is_printed_in_the_unit_that_says_it_exactly() {
        for (bytes, text) in [
            (50_000_000, "50 MB"),
            (1_500_000, "1500 kB"),
            (52_428_800, "50 MiB"),
            (2_000_000_000, "2 GB"),
            (1_000_001, "1000001 B"),
        ] {
            assert_eq!(Bandwidth::try_from(ByteSize(bytes)).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_bandwidth_says_why() {
        let error = |text: &str| text.parse::<Bandwidth>().unwrap_err().to_string();
        assert_eq!(error("fast"), "`fast` is no bandwidth: one reads like 50 MB, and means a second");
        assert_eq!(error("50"), "`50` is no bandwidth: one reads like 50 MB, and means a second");
        assert_eq!(error("50 B"), "a bandwidth is at least 1 MB a second, not 50 B");
    }

    proptest! {
        /// Beyond 2^53 a size's number is rounded when it is read.
        #[test]
        fn a_bandwidth_reads_back_as_it_was(bytes in 1_000_000_u64..1 << 53) {
            let bandwidth = Bandwidth::try_from(ByteSize(bytes)).unwrap();
            prop_assert_eq!(bandwidth.to_string().parse(), Ok(bandwidth));
        }
    }
}
