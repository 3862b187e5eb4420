//! Logs go to standard error; standard output is for what a command prints.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat};

/// Starts logging. Colours only on a terminal, and never with `NO_COLOR` (no-color.org).
/// Where systemd's journal reads, each line carries its priority and no time: the journal
/// has both as fields, so that `journalctl -p warning` shows warnings.
///
/// # Errors
///
/// If logging has been started before.
pub fn init_logs(config: &LogConfig) -> Result<(), InitLogsError> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = std::io::stderr().is_terminal() && !no_color;
    let builder =
        tracing_subscriber::fmt().with_env_filter(config.level.filter()).with_writer(std::io::stderr);
    let started = match (config.format, is_journal()) {
        (LogFormat::Text, false) => builder.with_ansi(colours).finish().try_init(),
        (LogFormat::Json, false) => builder.json().with_ansi(false).finish().try_init(),
        (LogFormat::Text, true) => {
            let format = Prioritised(Format::default().without_time().with_ansi(false));
            builder.with_ansi(false).event_format(format).finish().try_init()
        }
        (LogFormat::Json, true) => {
            let builder = builder.json().with_ansi(false);
            builder.map_event_format(Prioritised).finish().try_init()
        }
    };
    started.map_err(|_| InitLogsError::Twice)
}

/// Whether standard error is the stream that systemd gave us to its journal
/// (systemd.exec(5), `JOURNAL_STREAM`), and not one that a parent redirected since.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(rustix::stdio::stderr()).is_ok_and(|stat| is_stream(&stream, stat.st_dev, stat.st_ino))
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

/// Lines with a priority in front (sd-daemon(3)).
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// As syslog(3) counts.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        // TRACE: the journal knows nothing below debug.
        _ => 7,
    }
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum InitLogsError {
    /// Logging was started before.
    #[error("logging was started twice")]
    Twice,
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_journal_is_told_how_urgent_a_line_is_and_not_when() {
        let written = Written::default();
        let writer = written.clone();
        let format = Prioritised(Format::default().without_time().with_ansi(false));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .event_format(format)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("a");
            tracing::warn!(seed = "seed-0", "b");
            tracing::info!("c");
            tracing::debug!("d");
            tracing::trace!("e");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let starts: Vec<_> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(starts, ["<3>ERROR", "<4>", "<6>", "<7>DEBUG", "<7>TRACE"], "{text}");
        assert!(text.contains("<4> WARN ") && text.contains("b seed=\"seed-0\""), "{text}");
    }

    #[test]
    fn only_the_stream_that_systemd_named_is_the_journal() {
        assert!(is_stream("8:1234", 8, 1234));
        for stream in ["8:1235", "9:1234", "", "8", "8:x"] {
            assert!(!is_stream(stream, 8, 1234), "{stream}");
        }
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
