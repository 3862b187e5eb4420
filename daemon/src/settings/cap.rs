//! What a seed reads from an endpoint at most, and the hours of the day in which that holds.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use flotilla_proto::wire::manager as wire;

use crate::config::{Bandwidth, BandwidthError, ParseBandwidthError};

/// At most so much a second from one endpoint. Reads `50 MB`, or `50 MB@08:00-18:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// How much.
    pub bandwidth: Bandwidth,
    /// When; `None`: at all times that no cap with hours covers.
    pub hours: Option<Hours>,
}

impl Cap {
    /// Whether this cap covers the minute of the day, 0 to 1439, of the seed's local time.
    pub fn applies(&self, minute_of_day: u16) -> bool {
        self.hours.is_none_or(|hours| hours.contain(minute_of_day))
    }

    /// What of `caps` holds at that minute: one with hours before one without, so that
    /// `10 MB` and `50 MB@22:00-06:00` mean what they look like; of several such the least.
    pub fn in_force(caps: &[Self], minute_of_day: u16) -> Option<Bandwidth> {
        let applying = caps.iter().filter(|cap| cap.applies(minute_of_day));
        applying.min_by_key(|cap| (cap.hours.is_none(), cap.bandwidth)).map(|cap| cap.bandwidth)
    }

    pub(super) fn from_wire(cap: &wire::Cap) -> Result<Self, ParseCapError> {
        let bandwidth = ByteSize(cap.bytes_per_s).try_into().map_err(ParseCapError::Least)?;
        let hours = cap.hours.as_ref().map(Hours::from_wire).transpose()?;
        Ok(Self { bandwidth, hours })
    }

    pub(super) fn to_wire(self) -> wire::Cap {
        let hours = self.hours.map(|hours| wire::Hours {
            from_minute: hours.from_minute.into(),
            to_minute: hours.to_minute.into(),
        });
        wire::Cap { bytes_per_s: self.bandwidth.bytes_per_s().get(), hours }
    }
}

impl FromStr for Cap {
    type Err = ParseCapError;

    fn from_str(text: &str) -> Result<Self, ParseCapError> {
        let (bandwidth, hours) = match text.split_once('@') {
            Some((bandwidth, hours)) => (bandwidth, Some(hours.parse()?)),
            None => (text, None),
        };
        Ok(Self { bandwidth: bandwidth.parse()?, hours })
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bandwidth.fmt(f)?;
        self.hours.map_or(Ok(()), |hours| write!(f, "@{hours}"))
    }
}

/// A part of each day, by the minute: `08:00-18:00`, or over midnight `22:00-06:00`. Never all
/// of it: bounds that are equal are refused, for they may mean all or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from_minute: u16,
    to_minute: u16,
}

impl Hours {
    /// From one minute of the day until before another.
    ///
    /// # Errors
    ///
    /// If a minute is not 0 to 1439, or both are the same.
    pub fn new(from_minute: u16, to_minute: u16) -> Result<Self, ParseHoursError> {
        if from_minute >= MINUTES_OF_DAY || to_minute >= MINUTES_OF_DAY {
            return Err(ParseHoursError::Minute);
        }
        if from_minute == to_minute {
            return Err(ParseHoursError::WholeDay);
        }
        Ok(Self { from_minute, to_minute })
    }

    /// Whether the minute of the day is in them.
    pub fn contain(self, minute_of_day: u16) -> bool {
        let (started, ended) = (minute_of_day >= self.from_minute, minute_of_day >= self.to_minute);
        if self.from_minute < self.to_minute { started && !ended } else { started || !ended }
    }

    fn from_wire(hours: &wire::Hours) -> Result<Self, ParseHoursError> {
        let minute = |minute: u32| u16::try_from(minute).map_err(|_| ParseHoursError::Minute);
        Self::new(minute(hours.from_minute)?, minute(hours.to_minute)?)
    }
}

impl FromStr for Hours {
    type Err = ParseHoursError;

    fn from_str(text: &str) -> Result<Self, ParseHoursError> {
        let malformed = || ParseHoursError::Form { text: text.to_owned() };
        let (from, to) = text.split_once('-').ok_or_else(malformed)?;
        let minute = |clock: &str| minute_of_day(clock.trim()).ok_or_else(malformed);
        Self::new(minute(from)?, minute(to)?)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u16| (minute / 60, minute % 60);
        let ((from_hour, from_minute), (to_hour, to_minute)) =
            (clock(self.from_minute), clock(self.to_minute));
        write!(f, "{from_hour:02}:{from_minute:02}-{to_hour:02}:{to_minute:02}")
    }
}

/// `08:00` as the minutes since midnight.
fn minute_of_day(clock: &str) -> Option<u16> {
    let (hour, minute) = clock.split_once(':')?;
    let number = |digits: &str, below: u16| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|number| plain && *number < below)
    };
    Some(number(hour, 24)? * 60 + number(minute, 60)?)
}

const MINUTES_OF_DAY: u16 = 24 * 60;

/// Why something is no cap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCapError {
    /// The bandwidth's text.
    #[error(transparent)]
    Bandwidth(#[from] ParseBandwidthError),
    /// A bandwidth that is too small.
    #[error(transparent)]
    Least(BandwidthError),
    /// The hours.
    #[error(transparent)]
    Hours(#[from] ParseHoursError),
}

/// Why something is no part of a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseHoursError {
    /// Not two clock times.
    #[error("`{text}` are no hours: they read like 08:00-18:00 or 22:00-06:00, each from 00:00 to 23:59")]
    Form {
        /// What stands there.
        text: String,
    },
    /// Beyond the day.
    #[error("a day's minutes are 0 to 1439")]
    Minute,
    /// Nothing or everything.
    #[error("hours end at another minute than they begin: for the whole day, leave them out")]
    WholeDay,
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hours_hold_from_their_first_minute_until_before_their_last() {
        let day: Cap = "50 MB@08:00-18:00".parse().unwrap();
        let night: Cap = "50MB@22:00-06:00".parse().unwrap();
        let evening: Cap = "50 MB@18:00-00:00".parse().unwrap();
        for (clock, by_day, by_night, in_the_evening) in [
            ("00:00", false, true, false),
            ("05:59", false, true, false),
            ("06:00", false, false, false),
            ("08:00", true, false, false),
            ("17:59", true, false, false),
            ("18:00", false, false, true),
            ("22:00", false, true, true),
            ("23:59", false, true, true),
        ] {
            let minute = minute_of_day(clock).unwrap();
            let applies = [day.applies(minute), night.applies(minute), evening.applies(minute)];
            assert_eq!(applies, [by_day, by_night, in_the_evening], "{clock}");
        }
    }

    #[test]
    fn a_cap_with_hours_goes_before_one_without_and_of_several_the_least_holds() {
        let caps = ["10 MB", "50 MB@22:00-06:00", "20 MB@05:00-07:00"].map(|text| text.parse().unwrap());
        let at = |clock: &str| Cap::in_force(&caps, minute_of_day(clock).unwrap()).unwrap().to_string();
        assert_eq!(
            [at("12:00"), at("23:00"), at("05:30"), at("06:30")],
            ["10 MB", "50 MB", "20 MB", "20 MB"]
        );
        assert_eq!(Cap::in_force(&caps[1..], 12 * 60), None);
    }

    #[test]
    fn what_is_no_cap_says_why() {
        let error = |text: &str| text.parse::<Cap>().unwrap_err().to_string();
        assert!(error("quick").contains("`quick` is no bandwidth"));
        assert!(error("1 kB@08:00-18:00").contains("at least 1 MB a second"));
        assert!(error("50 MB@08:00-08:00").contains("for the whole day, leave them out"));
        for hours in ["", "8-18", "08:00", "08:00-24:00", "8:00-18:00", "+8:00-18:00", "08:60-18:00"] {
            assert!(
                error(&format!("50 MB@{hours}")).starts_with(&format!("`{hours}` are no hours")),
                "{hours}"
            );
        }
    }

    prop_compose! {
        pub(crate) fn any_hours()(from in 0..MINUTES_OF_DAY, len in 1..MINUTES_OF_DAY) -> Hours {
            Hours::new(from, (from + len) % MINUTES_OF_DAY).unwrap()
        }
    }

    prop_compose! {
        pub(crate) fn any_cap()(
            bytes in 1_000_000_u64..1 << 53,
            hours in proptest::option::of(any_hours()),
        ) -> Cap {
            Cap { bandwidth: ByteSize(bytes).try_into().unwrap(), hours }
        }
    }

    proptest! {
        #[test]
        fn a_cap_reads_back_as_it_was(cap in any_cap()) {
            prop_assert_eq!(cap.to_string().parse(), Ok(cap));
            prop_assert_eq!(Cap::from_wire(&cap.to_wire()), Ok(cap));
        }

        #[test]
        fn hours_and_their_reverse_share_the_day(hours in any_hours(), minute in 0..MINUTES_OF_DAY) {
            let reverse = Hours::new(hours.to_minute, hours.from_minute).unwrap();
            prop_assert!(hours.contain(minute) != reverse.contain(minute));
        }
    }
}
