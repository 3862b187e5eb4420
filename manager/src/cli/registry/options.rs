//! What a registry itself wants kept, as options of `registry set` and as keys of `--registry`.

use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use flotilla_daemon::settings::{GrantLife, Offline, OfflineForError, Release, Upstream};
use flotilla_proto::TrustName;

use super::super::CliError;
use super::keys::{Key, KeyError};

/// What is said of a registry beside its endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct RegistryOptions {
    /// When a blob's bytes go out to clients: `streaming` piece by piece, with the last piece
    /// held back until the SHA-256 is right (the default), or `verified` none before it is
    #[arg(
        long,
        value_name = "streaming|verified",
        hide_possible_values = true,
        value_parser = PossibleValuesParser::new(["streaming", "verified"]).try_map(|text| text.parse::<Release>())
    )]
    release: Option<Release>,
    /// It fills itself from another registry, as Harbor's proxy-cache projects do; implies
    /// --release verified
    #[arg(long)]
    proxy_cache: bool,
    /// Whether every full GET of a manifest is forwarded, so that the registry's pull counts,
    /// retention and audit stay right (default: true)
    #[arg(long, value_name = "true|false", hide_possible_values = true)]
    count_pulls: Option<bool>,
    /// What is served while it is unreachable: `refuse` nothing that needs its word (the
    /// default), or `granted` what it granted before, to whom it granted it
    #[arg(
        long,
        value_name = "refuse|granted",
        hide_possible_values = true,
        value_parser = PossibleValuesParser::new(["refuse", "granted"]).try_map(|text| text.parse::<WhileOffline>())
    )]
    offline: Option<WhileOffline>,
    /// With --offline granted: how much longer grants live than otherwise, at most 24h
    /// (default: 0s)
    #[arg(long, value_name = "DURATION")]
    offline_for: Option<OfflineFor>,
    /// How long its word on a client holds: `cached` as long as the credential can be trusted (the
    /// default), or `strict` for one request: it is asked about each blob, by a round trip
    #[arg(
        long,
        value_name = "cached|strict",
        hide_possible_values = true,
        value_parser = PossibleValuesParser::new(["cached", "strict"]).try_map(|text| text.parse::<GrantLife>())
    )]
    grants: Option<GrantLife>,
    /// Registries with the same NAME share trust: a blob that one of them gave may be shown to the
    /// clients of the others that say to hold it. Without, each has to deliver it once itself
    #[arg(long, value_name = "NAME")]
    trust: Option<TrustName>,
}

impl RegistryOptions {
    /// The keys that [`Self::take`] knows.
    pub const KEYS: [&'static str; 7] =
        ["release", "proxy-cache", "count-pulls", "offline", "offline-for", "grants", "trust"];

    /// Takes a key; whether it is one of a registry's.
    ///
    /// # Errors
    ///
    /// If it is, and its value is missing, given twice or does not parse.
    pub fn take(&mut self, key: Key<'_>) -> Result<bool, KeyError> {
        match key.name() {
            "release" => key.set(&mut self.release)?,
            "proxy-cache" => key.raise(&mut self.proxy_cache)?,
            "count-pulls" => key.set(&mut self.count_pulls)?,
            "offline" => key.set(&mut self.offline)?,
            "offline-for" => key.set(&mut self.offline_for)?,
            "grants" => key.set(&mut self.grants)?,
            "trust" => key.set(&mut self.trust)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The upstream with these options.
    ///
    /// # Errors
    ///
    /// If they do not fit each other.
    pub fn apply(&self, upstream: Upstream) -> Result<Upstream, CliError> {
        Ok(Upstream {
            release: self.release.unwrap_or_default(),
            proxy_cache: self.proxy_cache,
            count_pulls: self.count_pulls.unwrap_or(true),
            offline: self.offline()?,
            grants: self.grants.unwrap_or_default(),
            trust: self.trust.clone(),
            ..upstream
        })
    }

    fn offline(&self) -> Result<Offline, CliError> {
        let longer = self.offline_for.map(|OfflineFor(longer)| longer);
        match (self.offline, longer) {
            (Some(WhileOffline::Granted), longer) => {
                Ok(Offline::Granted { longer: longer.unwrap_or_default() })
            }
            (None | Some(WhileOffline::Refuse), None) => Ok(Offline::Refuse),
            (None | Some(WhileOffline::Refuse), Some(_)) => {
                Err(CliError::Usage("offline-for goes with offline granted: refused, nothing lives longer"))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhileOffline {
    Refuse,
    Granted,
}

impl FromStr for WhileOffline {
    type Err = ParseOfflineError;

    fn from_str(text: &str) -> Result<Self, ParseOfflineError> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "granted" => Ok(Self::Granted),
            _ => Err(ParseOfflineError { text: text.to_owned() }),
        }
    }
}

/// A time that [`Offline::granted`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OfflineFor(Duration);

impl FromStr for OfflineFor {
    type Err = ParseOfflineForError;

    fn from_str(text: &str) -> Result<Self, ParseOfflineForError> {
        let longer = humantime::parse_duration(text)?;
        Offline::granted(longer)?;
        Ok(Self(longer))
    }
}

/// Neither.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is neither `refuse` nor `granted`")]
struct ParseOfflineError {
    text: String,
}

#[derive(Debug, thiserror::Error)]
enum ParseOfflineForError {
    #[error(transparent)]
    Duration(#[from] humantime::DurationError),
    #[error(transparent)]
    Offline(#[from] OfflineForError),
}

#[cfg(test)]
mod tests {
    use flotilla_daemon::settings::Endpoint;

    use super::*;

    #[test]
    fn nothing_said_is_the_defaults() {
        assert_eq!(with(&[]).unwrap(), plain());
    }

    #[test]
    fn everything_said_is_kept() {
        let keys = [
            "release=verified",
            "proxy-cache",
            "count-pulls=false",
            "offline=granted",
            "offline-for=1h",
            "grants=strict",
            "trust=ours",
        ];
        let expected = Upstream {
            release: Release::Verified,
            proxy_cache: true,
            count_pulls: false,
            offline: Offline::Granted { longer: Duration::from_secs(3600) },
            grants: GrantLife::Strict,
            trust: Some("ours".parse().unwrap()),
            ..plain()
        };
        assert_eq!(with(&keys).unwrap(), expected);
        let offline = with(&["offline=granted"]).unwrap().offline;
        assert_eq!(offline, Offline::Granted { longer: Duration::ZERO });
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        for (keys, expected) in [
            (&["release=fast"][..], "release: `fast` is neither `streaming` nor `verified`"),
            (&["proxy-cache=yes"], "`proxy-cache` takes no value"),
            (&["count-pulls=maybe"], "count-pulls: "),
            (&["offline=serve"], "offline: `serve` is neither `refuse` nor `granted`"),
            (&["trust=Ours!"], "trust: a name has 1 to 63 of a-z"),
            (&["grants=never"], "grants: `never` is neither `cached` nor `strict`"),
            (&["offline-for=2d"], "offline-for: offline-for is at most 24h, not 2days"),
            (&["offline-for=1500ms"], "offline-for: offline-for is a whole number of seconds"),
            (&["offline-for=long"], "offline-for: "),
            (&["offline-for=1h"], "offline-for goes with offline granted"),
            (&["offline=refuse", "offline-for=1h"], "offline-for goes with offline granted"),
        ] {
            let error = with(keys).unwrap_err();
            assert!(error.starts_with(expected), "{keys:?}: {error}");
        }
    }

    fn with(keys: &[&str]) -> Result<Upstream, String> {
        let mut options = RegistryOptions::default();
        for key in keys {
            assert!(options.take(Key::of(key)).map_err(|error| error.to_string())?);
        }
        options.apply(plain()).map_err(|error| error.to_string())
    }

    fn plain() -> Upstream {
        let endpoint = Endpoint::new("https://reg.test".parse().unwrap());
        Upstream::new("reg.test".parse().unwrap(), vec![endpoint]).unwrap()
    }
}
