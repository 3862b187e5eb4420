//! `log.level`: a level, or directives as in `info,flotilla_peer=debug`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What is logged. A word that is no level is refused: the filter itself would take it for
/// the name of a module, and log nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter(String);

impl LogFilter {
    /// As tracing has it; what only speaks of parts leaves the rest at `info`.
    pub(crate) fn filter(&self) -> EnvFilter {
        let has_level = self.0.split(',').any(|directive| !directive.contains(['=', '[', ']']));
        let text = if has_level { self.0.clone() } else { format!("info,{}", self.0) };
        EnvFilter::builder().parse(text).expect("it was parsed before")
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl FromStr for LogFilter {
    type Err = ParseLogFilterError;

    fn from_str(text: &str) -> Result<Self, ParseLogFilterError> {
        let refused = |part: &str| ParseLogFilterError { part: part.to_owned() };
        // Directives with spans have commas of their own; those the filter checks alone.
        let mut text = text.to_owned();
        if !text.contains('[') {
            let directives: Vec<_> = text.split(',').map(str::trim).collect();
            for directive in &directives {
                let level = directive.rsplit_once('=').map_or(*directive, |(_, level)| level);
                let is_number = level.starts_with(|first: char| first.is_ascii_digit());
                if level.is_empty() || is_number || level.parse::<LevelFilter>().is_err() {
                    return Err(refused(directive));
                }
            }
            text = directives.join(",");
        }
        EnvFilter::builder().parse(&text).map_err(|_| refused(&text))?;
        Ok(Self(text))
    }
}

impl TryFrom<String> for LogFilter {
    type Error = ParseLogFilterError;

    fn try_from(text: String) -> Result<Self, ParseLogFilterError> {
        text.parse()
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> Self {
        filter.0
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not a level and not directives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` is no level; expected error, warn, info, debug, trace or off, or directives as in \
     \"info,flotilla_peer=debug\""
)]
pub struct ParseLogFilterError {
    part: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_one_part_for_more_still_hears_the_others() {
        let filter = |text: &str| text.parse::<LogFilter>().unwrap().filter().to_string();
        assert_eq!(filter("flotilla_peer=debug"), filter("info,flotilla_peer=debug"));
        assert!(!filter("warn,flotilla_peer=debug").contains("info"));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in ["info", "WARN", "off", "info,flotilla_peer=debug", "warn, flotilla_daemon::rpc=trace "] {
            assert_eq!(text.parse::<LogFilter>().unwrap().to_string(), text.replace(' ', ""));
            text.parse::<LogFilter>().unwrap().filter();
        }
        for (text, part) in [
            ("verbose", "verbose"),
            ("", ""),
            ("3", "3"),
            ("info,flotilla_peer", "flotilla_peer"),
            ("flotilla_peer=loud", "flotilla_peer=loud"),
            ("info,", ""),
            ("a=b=c", "a=b=c"),
            ("flotilla_peer=", "flotilla_peer="),
        ] {
            let error = text.parse::<LogFilter>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{part}` is no level; expected error, warn,")), "{error}");
        }
    }
}
