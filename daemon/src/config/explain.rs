//! What is wrong with a configuration, told by file, line, key and value; and what its
//! values come to, for `--check`.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, nearest_key, values};

pub(super) fn explain(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    let file = path.to_owned();
    if let Some(UnknownKey { key, hint }) = UnknownKey::parse(error.message()) {
        return ConfigError::UnknownKey { file, line, key, hint };
    }
    let place =
        error.span().and_then(|span| Place::of(text, span.start)).map_or_else(
            String::new,
            |place| match place.value {
                Some(value) => format!("{} = {value}: ", place.key),
                None => format!("{}: ", place.key),
            },
        );
    let message = format!("{place}{}{}", error.message(), example(error.message()));
    ConfigError::Invalid { file, line, message }
}

/// What to write where the parser only says what it did not get.
fn example(message: &str) -> &'static str {
    if message.contains("socket address") {
        "; expected ip:port, as in \"10.0.0.7:4006\", \"0.0.0.0:4006\" or \"[::]:4006\""
    } else if message.contains("expected u16") {
        "; expected a whole number, as in 1500"
    } else {
        ""
    }
}

/// A key and what stands behind it.
struct Place {
    key: String,
    /// `None` for what takes lines, and for secrets.
    value: Option<String>,
}

impl Place {
    /// The key whose value is at `offset`.
    fn of(text: &str, offset: usize) -> Option<Self> {
        let document = DeTable::parse(text).ok()?;
        let (mut keys, value) = leaf_at(document.get_ref(), offset)?;
        keys.reverse();
        let shown = text.get(value.span()).filter(|shown| {
            let is_secret = keys.last().is_some_and(|key| SECRETS.contains(key));
            !is_secret && !shown.contains('\n')
        });
        Some(Self { key: keys.join("."), value: shown.map(str::to_owned) })
    }
}

/// The value at `offset` that is no table, with its keys, innermost first. A section's span is
/// that of its heading alone, so each is looked into.
fn leaf_at<'a, 'i>(
    table: &'a DeTable<'i>,
    offset: usize,
) -> Option<(Vec<&'a str>, &'a Spanned<DeValue<'i>>)> {
    table.iter().find_map(|(key, value)| {
        let (mut keys, leaf) = match value.get_ref() {
            DeValue::Table(inner) => leaf_at(inner, offset)?,
            _ if value.span().contains(&offset) => (Vec::new(), value),
            _ => return None,
        };
        keys.push(key.get_ref().as_ref());
        Some((keys, leaf))
    })
}

/// What serde says of a field that `deny_unknown_fields` refuses: the key and then the
/// known keys, all in backticks.
struct UnknownKey {
    key: String,
    hint: String,
}

impl UnknownKey {
    fn parse(message: &str) -> Option<Self> {
        let rest = message.strip_prefix("unknown field `")?;
        let (key, rest) = rest.split_once('`')?;
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let hint = match nearest_key(key, &known) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None if known.is_empty() => "there is no key to set here".to_owned(),
            None => format!("the keys here are {}", known.join(", ")),
        };
        Some(Self { key: key.to_owned(), hint })
    }
}

/// Each line of a configuration, sizes and durations with what they come to behind them.
pub(super) fn annotate(toml: &str) -> String {
    let line = |line: &str| match meaning(line) {
        Some(meaning) => format!("{line} # {meaning}\n"),
        None => format!("{line}\n"),
    };
    toml.lines().map(line).collect()
}

fn meaning(line: &str) -> Option<String> {
    let (key, value) = line.split_once(" = \"")?;
    let value = value.strip_suffix('"').filter(|_| !LABELS.contains(&key))?;
    if !value.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Some(size) = values::parse_size(value).filter(|_| value.ends_with('B')) {
        let each = if key.ends_with("bandwidth") { " a second" } else { "" };
        return Some(format!("{} bytes{each}", size.as_u64()));
    }
    let duration = values::parse_duration(value)?;
    Some(format!("{} seconds", duration.as_secs_f64()))
}

/// Never shown.
const SECRETS: [&str; 1] = ["join_token"];

/// Names that people choose; `5m` may be one.
const LABELS: [&str; 4] = ["name", "zone", "user", "cluster"];
