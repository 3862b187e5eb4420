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
        let has_level = directives(&self.0).iter().any(|directive| !directive.contains(['=', '[', ']']));
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
        let directives = directives(text);
        for directive in &directives {
            check(directive)?;
        }
        let text = directives.join(",");
        let refused = |_| ParseLogFilterError::NoLevel(text.clone());
        EnvFilter::builder().parse(&text).map_err(refused)?;
        Ok(Self(text))
    }
}

/// The directives of a filter, which is cut at every comma, one between fields of a span as well.
fn directives(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).collect()
}

/// `level`, `target=level`, `target[span]` or `target[span]=level`, of a part that may exist.
fn check(directive: &str) -> Result<(), ParseLogFilterError> {
    let (target, level) = match directive.rsplit_once(']') {
        Some((spans, level)) => (spans.split('[').next().unwrap_or_default(), level.strip_prefix('=')),
        None => directive.rsplit_once('=').map_or(("", Some(directive)), |(part, level)| (part, Some(level))),
    };
    if let Some(level) = level {
        let is_number = level.starts_with(|first: char| first.is_ascii_digit());
        if level.is_empty() || is_number || level.parse::<LevelFilter>().is_err() {
            return Err(ParseLogFilterError::NoLevel(directive.to_owned()));
        }
    }
    let part = target.split("::").next().unwrap_or_default();
    // Libraries have parts of their own, whose names are not known: only what is near one of ours is a mistake.
    let is_near = |known: &&str| strsim::damerau_levenshtein(known, part) <= 3;
    let is_ours = part.starts_with("flotilla") || PARTS.iter().any(is_near);
    // The filter takes a target for the beginning of a name.
    if is_ours && !PARTS.iter().any(|known| known.starts_with(part)) {
        return Err(ParseLogFilterError::NoPart(part.to_owned()));
    }
    Ok(())
}

/// What logs in our own name.
const PARTS: &[&str] = &[
    "flotilla",
    "flotilla_daemon",
    "flotilla_manager",
    "flotilla_peer",
    "flotilla_peer_core",
    "flotilla_proto",
    "flotilla_scheduler",
    "flotilla_scheduler_core",
];

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
pub enum ParseLogFilterError {
    /// A directive that says no level.
    #[error(
        "`{0}` is no level; expected error, warn, info, debug, trace or off, or directives as in \
         \"info,flotilla_peer=debug\""
    )]
    NoLevel(String),
    /// A directive for what does not exist.
    #[error("nothing here is called `{0}`; the parts are {parts}", parts = PARTS.join(", "))]
    NoPart(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_one_part_for_more_still_hears_the_others() {
        let filter = |text: &str| text.parse::<LogFilter>().unwrap().filter().to_string();
        assert_eq!(filter("flotilla_peer=debug"), filter("info,flotilla_peer=debug"));
        assert!(!filter("warn,flotilla_peer=debug").contains("info"));
        assert!(filter("flotilla_peer[read{a}]=debug").contains("info"));
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
            ("verbose,flotilla_peer[read]=debug", "verbose"),
            ("info,flotilla_peer[read{a=1}]=loud", "flotilla_peer[read{a=1}]=loud"),
            ("flotilla_peer[read{a,b}]=debug", "flotilla_peer[read{a"),
        ] {
            let error = text.parse::<LogFilter>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{part}` is no level; expected error, warn,")), "{error}");
        }
    }

    #[test]
    fn a_part_that_does_not_exist_is_refused() {
        for text in [
            "flotilla_peer::door=debug",
            "quinn=warn",
            "h2=off",
            "flotilla_peer[read{a=1}]=debug",
            "[read]",
            "flotilla_sched=debug",
        ] {
            assert_eq!(text.parse::<LogFilter>().unwrap().to_string(), text);
        }
        for (text, part) in [
            ("flotilla_per=debug", "flotilla_per"),
            ("info,flotila_peer::door=debug", "flotila_peer"),
            ("flotilla-peer=debug", "flotilla-peer"),
            ("flotilla_seed=trace", "flotilla_seed"),
            ("flotilla_seed[read]", "flotilla_seed"),
        ] {
            let error = text.parse::<LogFilter>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("nothing here is called `{part}`; the parts are flotilla,")),
                "{error}"
            );
        }
    }
}
