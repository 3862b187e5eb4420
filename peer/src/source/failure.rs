//! How one request to one endpoint fails: shared by reading and forwarding.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flotilla_daemon::identity::clock::{self, Judge};
use http::{Response, StatusCode};

use super::body::BoxError;
use super::bounds::Refused;
use super::header as wire;
use super::metrics::FailureReason;

/// Why an endpoint gave no usable answer. Never a verdict on a credential.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EndpointFailure {
    /// No connection stands: name, address or TCP.
    #[error("cannot connect: {0}")]
    Connect(Causes),
    /// The server did not prove to be whom it should be, or speaks no common TLS.
    #[error("is not trusted: {0}")]
    Tls(Causes),
    /// No header came in time.
    #[error("no answer within {}", Millis(.after))]
    NoHeader {
        /// How long it was given.
        after: Duration,
    },
    /// The body stood still.
    #[error("no byte for {}", Millis(.after))]
    Stalled {
        /// How long.
        after: Duration,
    },
    /// The connection broke, before the header or in the body.
    #[error("connection lost: {0}")]
    Cut(Causes),
    /// The body ended cleanly and too early.
    #[error("body ended after {received} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        received: u64,
        /// Bytes that should have come.
        expected: u64,
    },
    /// A status that is neither content nor a verdict on the credential.
    #[error("answered {0}")]
    Status(StatusCode),
    /// It wants to be left alone for a while: 429, or a 503 that says for how long.
    #[error("answered {status}{}", RetryAfter(.retry_after))]
    Busy {
        /// What it answered.
        status: StatusCode,
        /// For how long, if it says so.
        retry_after: Option<Duration>,
    },
    /// All bytes came, and they do not hash to the digest.
    #[error("sent wrong bytes")]
    WrongBytes,
    /// The announced length is not the blob's.
    #[error("announces {announced} bytes, the blob has {expected}")]
    WrongSize {
        /// What `Content-Length` says.
        announced: u64,
        /// What the descriptor says.
        expected: u64,
    },
    /// More bytes came than the blob has.
    #[error("body goes on after {expected} bytes")]
    TooLong {
        /// Where it should have ended.
        expected: u64,
    },
    /// The body is encoded although `identity` was asked for, in a way that is not undone here.
    #[error("body has a Content-Encoding that is not understood, though none was accepted")]
    Encoded,
    /// What came in place of a manifest is none.
    #[error("was led to something that is no manifest")]
    NoManifest,
    /// A partial answer to another range than the one asked for, or 416.
    #[error("answered another range than the one asked for")]
    WrongRange,
    /// A redirect without a usable target.
    #[error("redirects to an address that cannot be used")]
    BadRedirect,
    /// It leads where this seed does not follow.
    #[error(transparent)]
    Refused(Refused),
    /// A chain of redirects without end.
    #[error("redirects more than {limit} times")]
    TooManyRedirects {
        /// How many are followed.
        limit: u32,
    },
    /// The token service's answer holds no token.
    #[error("its token service gave no usable token")]
    NoToken,
    /// The token service is reached in clear text, and a password was to be shown to it.
    #[error("names a token service that is not https")]
    ClearTokenService,
}

impl EndpointFailure {
    /// From the HTTP client's error.
    pub(super) fn of_exchange(error: hyper_util::client::legacy::Error) -> Self {
        if let Some(refused) = cause_of::<Refused>(&error) {
            return Self::Refused(refused.clone());
        }
        // In TLS 1.3 a server refuses its client's certificate when the connection stands already.
        match (is_of_tls(&error), error.is_connect()) {
            (true, _) => Self::Tls(Causes::of(error)),
            (false, true) => Self::Connect(Causes::of(error)),
            (false, false) => Self::Cut(Causes::of(error)),
        }
    }

    /// From an answer that is neither content nor a verdict on the credential.
    pub(super) fn of_answer<B>(response: &Response<B>) -> Self {
        let (status, retry_after) = (response.status(), wire::retry_after(response.headers()));
        let is_busy = status == StatusCode::SERVICE_UNAVAILABLE && retry_after.is_some();
        if is_busy || status == StatusCode::TOO_MANY_REQUESTS {
            return Self::Busy { status, retry_after };
        }
        Self::Status(status)
    }

    /// Whether the endpoint itself seems down, so that others should be tried first for a while.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Tls(_) | Self::NoHeader { .. } => true,
            Self::Status(status) => status.is_server_error(),
            Self::Busy { .. }
            | Self::WrongBytes
            | Self::Stalled { .. }
            | Self::Cut(_)
            | Self::Truncated { .. }
            | Self::WrongSize { .. }
            | Self::TooLong { .. }
            | Self::Encoded
            | Self::NoManifest
            | Self::WrongRange
            | Self::BadRedirect
            | Self::Refused(_)
            | Self::TooManyRedirects { .. }
            | Self::NoToken
            | Self::ClearTokenService => false,
        }
    }

    /// Whether the same request may well succeed at the same endpoint a moment later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::NoHeader { .. }
            | Self::Stalled { .. }
            | Self::Cut(_)
            | Self::Busy { .. }
            | Self::Truncated { .. } => true,
            // 403 is of an object store, for a registry's own is a verdict: the URL has expired, and
            // the registry signs another.
            Self::Status(status) => status.is_server_error() || *status == StatusCode::FORBIDDEN,
            Self::Tls(_)
            | Self::WrongBytes
            | Self::WrongSize { .. }
            | Self::TooLong { .. }
            | Self::Encoded
            | Self::NoManifest
            | Self::WrongRange
            | Self::BadRedirect
            | Self::Refused(_)
            | Self::TooManyRedirects { .. }
            | Self::NoToken
            | Self::ClearTokenService => false,
        }
    }

    /// Whether it says no more than that nobody answers for the present: time may cure it.
    pub(super) fn is_nobody_there(&self) -> bool {
        match self {
            Self::Connect(_) | Self::NoHeader { .. } | Self::Busy { .. } => true,
            // What a front end says while there is nobody behind it.
            Self::Status(status) => matches!(status.as_u16(), 502..=504),
            Self::Tls(_)
            | Self::Stalled { .. }
            | Self::Cut(_)
            | Self::Truncated { .. }
            | Self::WrongSize { .. }
            | Self::WrongBytes
            | Self::TooLong { .. }
            | Self::Encoded
            | Self::NoManifest
            | Self::WrongRange
            | Self::BadRedirect
            | Self::Refused(_)
            | Self::TooManyRedirects { .. }
            | Self::NoToken
            | Self::ClearTokenService => false,
        }
    }

    /// How long the registry asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        if let Self::Busy { retry_after, .. } = self { *retry_after } else { None }
    }

    /// What a client is answered with: a registry that wants patience says so itself.
    pub(crate) fn status(&self) -> u16 {
        if let Self::Busy { status, .. } = self { status.as_u16() } else { 502 }
    }

    pub(super) fn reason(&self) -> FailureReason {
        match self {
            Self::Connect(_) => FailureReason::Connect,
            Self::Tls(_) => FailureReason::Tls,
            Self::NoHeader { .. } => FailureReason::NoHeader,
            Self::Stalled { .. } => FailureReason::Stall,
            Self::Cut(_) | Self::Truncated { .. } => FailureReason::Cut,
            Self::Status(_) => FailureReason::Status,
            Self::Busy { .. } => FailureReason::RateLimit,
            Self::WrongBytes => FailureReason::Digest,
            Self::WrongSize { .. } | Self::TooLong { .. } => FailureReason::Size,
            Self::Encoded => FailureReason::Encoding,
            Self::NoManifest => FailureReason::Redirect,
            Self::WrongRange => FailureReason::Range,
            Self::BadRedirect | Self::TooManyRedirects { .. } => FailureReason::Redirect,
            Self::Refused(_) => FailureReason::Address,
            Self::NoToken | Self::ClearTokenService => FailureReason::Token,
        }
    }
}

/// The error of this type that an error goes back to.
fn cause_of<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    error.downcast_ref().or_else(|| cause_of(error.source()?))
}

/// Whether TLS is at the bottom of it. An I/O error hides what it holds from `source`.
fn is_of_tls(error: &(dyn Error + 'static)) -> bool {
    let inner: Option<&(dyn Error + 'static)> = match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as _),
        None => error.source(),
    };
    error.is::<rustls::Error>() || inner.is_some_and(is_of_tls)
}

/// An error shown with all its causes on one line: the HTTP client hides the useful part
/// ("unknown issuer", "connection refused") three levels down. Clocks are told as people read them.
#[derive(Debug, Clone)]
pub struct Causes(Arc<dyn Error + Send + Sync>);

impl Causes {
    pub(super) fn of(error: impl Into<BoxError>) -> Self {
        Self(Arc::from(error.into()))
    }
}

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| clock::explain_text(Judge::ThisMachine, text);
        let mut last = self.0.to_string();
        f.write_str(&shown(&last))?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Wrappers often repeat what they wrap.
            if text != last {
                write!(f, ": {}", shown(&text))?;
            }
            last = text;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for Causes {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// For how long a registry wants to be left alone, if it says so.
struct RetryAfter<'a>(&'a Option<Duration>);

impl fmt::Display for RetryAfter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |after| write!(f, ": retry after {}s", after.as_secs()))
    }
}

/// A duration to the millisecond.
struct Millis<'a>(&'a Duration);

impl fmt::Display for Millis<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = (self.0.as_secs_f64() * 1000.0).round();
        write!(f, "{:?}", Duration::from_secs_f64(millis / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;
    use rustls::pki_types::UnixTime;

    use super::*;

    #[test]
    fn whose_clock_says_what_is_told_in_dates() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired =
            CertificateError::ExpiredContext { time: at(1_796_599_214), not_after: at(1_764_000_000) };
        let tls = std::io::Error::other(rustls::Error::InvalidCertificate(expired));
        let text = EndpointFailure::Tls(Causes::of(tls)).to_string();
        assert!(text.contains("this machine's clock says 2026-12-06T23:20:14Z"), "{text}");
        assert!(text.contains("good until 2025-11-24T16:00:00Z") && !text.contains("UNIX"), "{text}");
    }
}
