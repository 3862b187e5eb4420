//! Errors of TLS that come from a clock, told as what they are: whose clock says what. And of a
//! revoked key: whose it is.
//!
//! A certificate is good from [`super::BACKDATED`] before it was made until the end of its
//! life; whose clock is outside of that accepts nobody, or is accepted by nobody.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

/// An error of a connection, for people.
pub fn explain(error: &io::Error) -> String {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return explain_tls(tls);
    }
    // HTTP/2 passes on an error's text alone.
    let (text, revoked) = (error.to_string(), Error::AlertReceived(AlertDescription::CertificateRevoked));
    if text.contains(&revoked.to_string()) { explain_tls(&revoked) } else { text }
}

/// An error of TLS, for people.
pub fn explain_tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            expired(Judge::ThisMachine, at(*time), at(*not_after))
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            not_yet(Judge::ThisMachine, at(*time), at(*not_before))
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => format!(
            "the other side says that this machine's certificate has expired, or is not good yet, by its own \
             clock; this machine's clock says {}: compare the two (`timedatectl`)",
            shown(SystemTime::now())
        ),
        Error::InvalidCertificate(CertificateError::Revoked) => {
            "the other side's key is revoked: it was removed from the topology".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRevoked) => {
            "the other side says that this daemon's key is revoked: it was removed from the topology"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// A text that holds an error of TLS, as QUIC passes it on: the times in it, told as
/// [`explain_tls`] tells them. It is `judge`'s text, by its clock.
pub fn explain_text(judge: Judge, text: &str) -> String {
    // RFC 9001 §4.8: QUIC has the number of TLS's alert, here certificate_revoked (RFC 8446 §6).
    if text.contains("handshake failed: error 44") {
        return match judge {
            Judge::ThisMachine => explain_tls(&CertificateError::Revoked.into()),
            Judge::OtherSide => explain_tls(&Error::AlertReceived(AlertDescription::CertificateRevoked)),
        };
    }
    let told = |mark: &str, tell: fn(Judge, SystemTime, SystemTime) -> String| {
        let (_, rest) = text.split_once("verification time ")?;
        let (time, rest) = rest.split_once(" (UNIX)")?;
        let (_, rest) = rest.split_once(mark)?;
        let bound: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let at = |seconds: &str| UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?));
        Some(tell(judge, at(time).filter(is_of_our_era)?, at(&bound).filter(is_of_our_era)?))
    };
    told("not valid after ", expired)
        .or_else(|| told("not valid before ", not_yet))
        .unwrap_or_else(|| text.to_owned())
}

/// Who found that a certificate is not good, and so whose clock was asked. The certificate is
/// the other one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// This one.
    ThisMachine,
    /// The other one.
    OtherSide,
}

impl Judge {
    fn name(self) -> &'static str {
        match self {
            Self::ThisMachine => "this machine",
            Self::OtherSide => "the other side",
        }
    }

    fn judged(self) -> Self {
        match self {
            Self::ThisMachine => Self::OtherSide,
            Self::OtherSide => Self::ThisMachine,
        }
    }

    /// What is known of the two clocks beyond the certificate.
    fn comparison(self, clock: SystemTime) -> String {
        let now = SystemTime::now();
        match self {
            Self::ThisMachine => String::new(),
            Self::OtherSide => match now.duration_since(clock) {
                Ok(behind) => {
                    format!("; this machine's clock says {}, {} later", shown(now), for_people(behind))
                }
                Err(ahead) => {
                    let ahead = for_people(ahead.duration());
                    format!("; this machine's clock says {}, {ahead} earlier", shown(now))
                }
            },
        }
    }
}

fn expired(judge: Judge, clock: SystemTime, not_after: SystemTime) -> String {
    let late = clock.duration_since(not_after).unwrap_or_default();
    format!(
        "{}'s clock says {}, but {}'s certificate was good until {} ({} earlier): that clock is ahead, or the \
         certificate was not renewed in time{}",
        judge.name(),
        shown(clock),
        judge.judged().name(),
        shown(not_after),
        for_people(late),
        judge.comparison(clock)
    )
}

fn not_yet(judge: Judge, clock: SystemTime, not_before: SystemTime) -> String {
    let early = not_before.duration_since(clock).unwrap_or_default();
    format!(
        "{}'s clock says {}, but {}'s certificate is good from {} on: that clock is at least {} behind, or the \
         clock that the certificate was made by is ahead{}",
        judge.name(),
        shown(clock),
        judge.judged().name(),
        shown(not_before),
        for_people(early),
        judge.comparison(clock)
    )
}

/// The text came from elsewhere, and later dates cannot be written.
fn is_of_our_era(time: &SystemTime) -> bool {
    time.duration_since(UNIX_EPOCH).is_ok_and(|since| since < Duration::from_secs(253_402_300_800))
}

fn at(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

fn shown(time: SystemTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(time)
}

/// The two largest units are precise enough to set a clock by.
fn for_people(span: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_revoked_key_is_told_as_one_by_http_and_quic_too() {
        let alert = Error::AlertReceived(AlertDescription::CertificateRevoked);
        let passed_on = io::Error::new(io::ErrorKind::InvalidData, alert.to_string());
        let direct = io::Error::new(io::ErrorKind::InvalidData, alert);
        assert_eq!(explain(&passed_on), explain(&direct));
        assert!(explain(&direct).contains("this daemon's key is revoked"), "{}", explain(&direct));
        let by_quic = "aborted by peer: the cryptographic handshake failed: error 44";
        assert_eq!(explain_text(Judge::OtherSide, by_quic), explain(&direct));
        assert!(explain_text(Judge::ThisMachine, by_quic).starts_with("the other side's key is revoked"));
    }

    #[test]
    fn an_expired_certificate_tells_whose_clock_says_what() {
        let error = Error::InvalidCertificate(CertificateError::ExpiredContext {
            time: unix(1_796_599_214),
            not_after: unix(1_796_253_614),
        });
        let expected = "this machine's clock says 2026-12-06T23:20:14Z, but the other side's certificate was \
                        good until 2026-12-02T23:20:14Z (4days earlier)";
        for text in [
            explain(&io::Error::other(error.clone())),
            // As quinn has it.
            explain_text(
                Judge::ThisMachine,
                &format!("the cryptographic handshake failed: error 45: {error}"),
            ),
        ] {
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn a_certificate_of_the_future_tells_how_far_the_clock_is_behind() {
        let error = Error::InvalidCertificate(CertificateError::NotValidYetContext {
            time: unix(0),
            not_before: unix(1_796_253_614),
        });
        for text in [explain_tls(&error), explain_text(Judge::ThisMachine, &error.to_string())] {
            assert!(text.contains("clock says 1970-01-01T00:00:00Z"), "{text}");
            assert!(
                text.contains("good from 2026-12-02T23:20:14Z on: that clock is at least 56years"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_the_other_side_found_is_told_by_its_clock_and_ours() {
        let error = Error::InvalidCertificate(CertificateError::ExpiredContext {
            time: unix(4_000_000_000),
            not_after: unix(1_796_253_614),
        });
        let text = explain_text(Judge::OtherSide, &format!("aborted by peer: {error}"));
        assert!(text.starts_with("the other side's clock says 2096-10-02T07:06:40Z"), "{text}");
        assert!(text.contains("this machine's certificate was good until"), "{text}");
        assert!(text.contains("this machine's clock says 20") && text.ends_with("earlier"), "{text}");
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(explain(&refused), refused.to_string());
        for text in [
            "closed by peer: verification time",
            "verification time 99999999999999 (UNIX), not valid after 1",
        ] {
            assert_eq!(explain_text(Judge::OtherSide, text), text);
        }
        let alert = Error::AlertReceived(AlertDescription::CertificateExpired);
        assert!(explain_tls(&alert).contains("by its own clock; this machine's clock says 20"));
    }
}
