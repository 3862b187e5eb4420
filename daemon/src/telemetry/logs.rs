//! Logs go to standard error; standard output is for what a command prints.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat};

/// Starts logging. Colours only on a terminal, and never with `NO_COLOR` (no-color.org).
///
/// # Errors
///
/// If `log.level` is none, or logging has been started before.
pub fn init_logs(config: &LogConfig) -> Result<(), InitLogsError> {
    let filter = EnvFilter::builder()
        .parse(&config.level)
        .map_err(|source| InitLogsError::Level { level: config.level.clone(), source })?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = std::io::stderr().is_terminal() && !no_color;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(colours).finish().try_init(),
        LogFormat::Json => builder.json().with_ansi(false).finish().try_init(),
    };
    started.map_err(|_| InitLogsError::Twice)
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum InitLogsError {
    /// The configuration's `log.level` is no level and no directives.
    #[error("log.level `{level}`: {source}; give error, warn, info, debug or trace")]
    Level {
        /// Its value.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was started before.
    #[error("logging was started twice")]
    Twice,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_names_the_key() {
        let config = LogConfig { level: "a=b=c".into(), format: LogFormat::Text };
        let error = init_logs(&config).unwrap_err().to_string();
        assert!(error.starts_with("log.level `a=b=c`: "), "{error}");
    }
}
