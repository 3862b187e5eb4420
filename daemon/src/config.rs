//! Configuration: one TOML file a daemon, every key optional, unknown keys refused.
//!
//! Each module owns its section's type with its defaults and `#[serde(default,
//! deny_unknown_fields)]`; a daemon composes them into one struct and calls [`load`].
//! The sections that all daemons share are here.

mod explain;
mod host_pattern;
mod level;
mod values;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use flotilla_proto::{JoinTokenText, ParseJoinTokenError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::identity::ManagerUrl;

use self::explain::{annotate, explain};
pub use self::host_pattern::{HostPattern, HostPatternError};
pub use self::level::{LogFilter, ParseLogFilterError};
pub use self::values::{duration, size};
pub(crate) use self::values::{exact_size, parse_size};
pub use crate::bandwidth::{Bandwidth, BandwidthError, ParseBandwidthError};

/// Reads the configuration at `path`; without a path, the defaults.
///
/// # Errors
///
/// Names the file, the line and, for a key that nobody knows, the nearest one that is known.
pub fn load<C: DeserializeOwned + Default>(path: Option<&Path>) -> Result<C, ConfigError> {
    let Some(path) = path else {
        return Ok(C::default());
    };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { file: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| explain(path, &text, &error))
}

/// The settings in force, as TOML, for `--check`: sizes and durations with what they come to.
/// Secrets are redacted.
///
/// # Panics
///
/// If the type cannot be written as TOML, which is an error of the program.
pub fn effective<C: Serialize>(config: &C) -> String {
    let text = toml::to_string_pretty(config)
        .expect("a configuration that was read from TOML can be written as TOML");
    annotate(&text)
}

/// How a daemon first meets the manager. The token names the manager and pins its CA, so
/// nothing else is needed; once enrolled, a daemon needs no token any more.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagerConfig {
    /// The join token itself.
    pub join_token: Option<Secret>,
    /// A file that holds the join token.
    pub join_token_file: Option<PathBuf>,
    /// Where the manager is, `host:port`, if that is not, or not only, where the join token
    /// says: tried in turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<ManagerUrl>,
    /// One of [`Self::addresses`], for short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<ManagerUrl>,
}

impl ManagerConfig {
    /// The join token from `join_token`, `join_token_file` or the environment's
    /// [`JOIN_TOKEN_VARIABLE`], the first that is there.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or the text is no join token.
    pub fn join_token(&self) -> Result<Option<JoinTokenText>, JoinTokenError> {
        let (text, from) = if let Some(token) = &self.join_token {
            (token.expose().to_owned(), "manager.join_token".to_owned())
        } else if let Some(file) = &self.join_token_file {
            let text = std::fs::read_to_string(file)
                .map_err(|source| JoinTokenError::Read { file: file.clone(), source })?;
            (text, file.display().to_string())
        } else if let Ok(token) = std::env::var(JOIN_TOKEN_VARIABLE) {
            (token, JOIN_TOKEN_VARIABLE.to_owned())
        } else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|source| JoinTokenError::Parse { from, source })
    }

    /// Deletes the file of a join token that this daemon has joined with, where it may: another one
    /// that was put in its place meanwhile stays.
    pub fn delete_used(&self, used: &JoinTokenText) {
        let (None, Some(file)) = (&self.join_token, &self.join_token_file) else { return };
        let is_used = |token: JoinTokenText| token.token().secret == used.token().secret;
        if !self.join_token().ok().flatten().is_some_and(is_used) {
            return;
        }
        match std::fs::remove_file(file) {
            Ok(()) => tracing::info!(file = %file.display(), "the join token is used, its file deleted"),
            Err(error) => {
                tracing::info!(file = %file.display(), %error, "the join token is used; this daemon may not delete its file");
            }
        }
    }

    /// Where the configuration says that the manager is.
    pub fn addresses(&self) -> Vec<ManagerUrl> {
        self.address.iter().chain(&self.addresses).cloned().collect()
    }

    /// Where a join token is looked for, for people.
    pub fn token_place(&self) -> String {
        match (&self.join_token, &self.join_token_file) {
            (Some(_), _) => "manager.join_token (and a restart)".to_owned(),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => format!("manager.join_token_file or {JOIN_TOKEN_VARIABLE} (and a restart)"),
        }
    }
}

/// Where health, status and metrics are served; people and probes of this machine only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// The address; loopback by default.
    pub listen: SocketAddr,
    /// What it is called there besides its addresses, `localhost` and the machine's name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<HostPattern>,
}

impl AdminConfig {
    /// Loopback, on a daemon's own default port.
    pub const fn on_port(port: u16) -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port), names: Vec::new() }
    }
}

impl Default for AdminConfig {
    /// A port the system chooses; each daemon gives its own by [`AdminConfig::on_port`].
    fn default() -> Self {
        Self::on_port(0)
    }
}

/// Where `/metrics` is served besides the admin address, for a Prometheus elsewhere.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// The address; nothing by default.
    pub listen: Option<SocketAddr>,
    /// What Prometheus calls it there, where that is none of its addresses nor the machine's name:
    /// `["node-17.example.com", "*.peer.default.svc.cluster.local"]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<HostPattern>,
}

/// What is logged, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level, or directives as in `info,flotilla_peer=debug`.
    pub level: LogFilter,
    /// For people or for machines.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: LogFilter::default(), format: LogFormat::Text }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A text that is never shown: neither `Debug` nor [`effective`] prints it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one place that uses it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// The known key that `key` is most likely a slip of, if one is near enough.
pub fn nearest_key<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let by_distance = known.iter().map(|known| (strsim::damerau_levenshtein(key, known), *known));
    let (distance, nearest) = by_distance.min()?;
    (distance <= nearest.len().max(key.len()) / 2).then_some(nearest)
}

/// The variable that may hold the join token, for containers.
pub const JOIN_TOKEN_VARIABLE: &str = "FLOTILLA_JOIN_TOKEN";

const REDACTED: &str = "<redacted>";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A key that nobody knows, most often a slip of the keyboard.
    #[error("{}:{line}: unknown key `{key}`; {hint}", file.display())]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The nearest known key, or all of them.
        hint: String,
    },
    /// Not TOML, or a value of another kind.
    #[error("{}:{line}: {message}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
}

/// Why there is no usable join token.
#[derive(Debug, thiserror::Error)]
pub enum JoinTokenError {
    /// The file cannot be read.
    #[error("read manager.join_token_file {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The text is no token.
    #[error("{from}: {source}")]
    Parse {
        /// Where the text came from.
        from: String,
        /// What is wrong with it.
        source: ParseJoinTokenError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        name: String,
        admin: AdminConfig,
        log: LogConfig,
        manager: ManagerConfig,
        bandwidth: Option<Bandwidth>,
        store: SampleStore,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct SampleStore {
        #[serde(with = "size")]
        quota: bytesize::ByteSize,
        #[serde(with = "duration")]
        pause: std::time::Duration,
    }

    impl Default for SampleStore {
        fn default() -> Self {
            Self { quota: bytesize::ByteSize::gib(1), pause: std::time::Duration::from_secs(1) }
        }
    }

    fn load_text(text: &str) -> Result<Sample, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path))
    }

    #[test]
    fn an_unknown_key_names_the_file_the_line_and_the_nearest_key() {
        let error =
            load_text("name = \"a\"\n\n[admin]\nlisten_on = \"127.0.0.1:1\"\n").unwrap_err().to_string();
        assert!(error.ends_with("peer.toml:4: unknown key `listen_on`; did you mean `listen`?"), "{error}");
    }

    #[test]
    fn a_bandwidth_is_a_size_and_no_less_than_a_piece_needs() {
        let sample = load_text("bandwidth = \"50 MB\"\n").unwrap();
        assert_eq!(sample.bandwidth.unwrap().bytes_per_s().get(), 50_000_000);
        let shown = effective(&sample);
        assert!(shown.contains("bandwidth = \"50 MB\" # 50000000 bytes a second\n"), "{shown}");
        let error = load_text("bandwidth = \"500 kB\"\n").unwrap_err().to_string();
        assert!(
            error.ends_with(
                "peer.toml:1: bandwidth = \"500 kB\": a bandwidth is at least 1 MB a second, not 500.0 kB"
            ),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_key_that_is_near_to_none_lists_them_all() {
        let error = load_text("[log]\nverbosity_of_output = 3\n").unwrap_err().to_string();
        assert!(
            error.ends_with(":2: unknown key `verbosity_of_output`; the keys here are level, format"),
            "{error}"
        );
    }

    #[test]
    fn a_value_of_another_kind_names_the_line() {
        let error = load_text("name = \"a\"\n[admin]\nlisten = \"nowhere\"\n").unwrap_err().to_string();
        assert!(error.contains("peer.toml:3: ") && error.contains("socket address"), "{error}");
    }

    #[test]
    fn a_value_that_means_nothing_names_the_key_the_value_and_an_example() {
        for (text, expected) in [
            (
                "[store]\nquota = 64",
                "2: store.quota = 64: no unit; expected a size, a number with its unit: \"500 MB\"",
            ),
            ("[store]\nquota = -1", "2: store.quota = -1: no unit; expected a size"),
            ("[store]\nquota = 1.5", "2: store.quota = 1.5: no unit; expected a size"),
            ("[store]\nquota = true", "2: store.quota = true: invalid type: boolean `true`, expected a size"),
            ("store.quota = \"64 gigs\"", "1: store.quota = \"64 gigs\": expected a size"),
            (
                "store = { pause = \"soon\" }",
                "1: store.pause = \"soon\": expected a duration, a number with its unit",
            ),
            ("[store]\npause = 10", "2: store.pause = 10: no unit; expected a duration"),
            ("[store]\npause = \"0s\"", "2: store.pause = \"0s\": expected a duration"),
            ("bandwidth = 50", "1: bandwidth = 50: no unit; expected a size"),
            ("bandwidth = \"fast\"", "1: bandwidth = \"fast\": expected a size"),
            (
                "[log]\nlevel = \"verbose\"",
                "2: log.level = \"verbose\": `verbose` is no level; expected error, warn",
            ),
            ("[log]\nlevel = 3", "2: log.level = 3: invalid type: integer `3`, expected a string"),
            (
                "[log]\nformat = \"xml\"",
                "2: log.format = \"xml\": unknown variant `xml`, expected `text` or `json`",
            ),
            (
                "[admin]\nlisten = \"localhost:1\"",
                "2: admin.listen = \"localhost:1\": invalid socket address",
            ),
            (
                "[manager]\naddress = \"a b\"",
                "2: manager.address = \"a b\": `a b` is no manager's URL; it reads",
            ),
            ("[manager]\njoin_token = 7", "2: manager.join_token: invalid type: integer"),
        ] {
            let error = load_text(text).unwrap_err().to_string();
            assert!(error.contains(&format!("peer.toml:{expected}")), "{text}: {error}");
        }
    }

    #[test]
    fn the_check_shows_what_sizes_and_durations_come_to() {
        let sample = load_text("name = \"5m\"\n[store]\nquota = \"1500 MB\"\npause = \"1m 30s\"\n").unwrap();
        let text = effective(&sample);
        for line in [
            "quota = \"1500 MB\" # 1500000000 bytes\n",
            "pause = \"1m 30s\" # 90 seconds\n",
            "name = \"5m\"\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(effective(&load_text(&text).unwrap()), text);
    }

    #[test]
    fn the_manager_may_be_at_several_addresses() {
        let text =
            "[manager]\naddress = \"10.0.0.1\"\naddresses = [\"m.example.com:4100\", \"https://[::1]\"]\n";
        let sample = load_text(text).unwrap();
        let addresses = sample.manager.addresses();
        let addresses: Vec<_> = addresses.iter().map(ManagerUrl::address).collect();
        assert_eq!(addresses, ["10.0.0.1:4000", "m.example.com:4100", "[::1]:4000"]);
        assert_eq!(load_text(&effective(&sample)).unwrap().manager.addresses(), sample.manager.addresses());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Sample>(Some(Path::new("/nonexistent/peer.toml"))).unwrap_err().to_string();
        assert!(error.starts_with("read configuration /nonexistent/peer.toml: "), "{error}");
    }

    #[test]
    fn the_effective_settings_read_back_and_redact_secrets() {
        let config = load_text("[manager]\njoin_token = \"flt1_s3cret\"\n").unwrap();
        let text = effective(&config);
        assert!(!text.contains("s3cret") && text.contains(REDACTED), "{text}");
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(load_text(&text).unwrap().log.level.to_string(), "info");
    }

    #[test]
    fn a_join_token_that_is_none_names_where_it_came_from() {
        let config = ManagerConfig { join_token: Some("abc".to_owned().into()), ..ManagerConfig::default() };
        let error = config.join_token().unwrap_err().to_string();
        assert!(error.starts_with("manager.join_token: a join token starts with flt1_"), "{error}");

        let config =
            ManagerConfig { join_token_file: Some("/nonexistent/token".into()), ..ManagerConfig::default() };
        let error = config.join_token().unwrap_err().to_string();
        assert!(error.starts_with("read manager.join_token_file /nonexistent/token: "), "{error}");
    }
}
