//! What commands print: tables for people, JSON and YAML for programs.

use std::io::{self, Write as _};

use anyhow::Context as _;
use comfy_table::{Table, presets};
use flotilla_manager::cli::OutputFormat;
use serde_json::Value;

/// Prints one line, or several, to the standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes to the standard output. Who reads it may have seen enough, as `head` has.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to the standard output"),
    }
}

/// An error with its causes. Many errors end with their cause by themselves: it is not said twice.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match said {
            said if said.is_empty() => cause,
            said if said.contains(&cause) => said,
            said => format!("{said}: {cause}"),
        }
    })
}

/// A JSON object of a daemon in the wished format.
pub(crate) fn render(value: &Value, format: OutputFormat) -> anyhow::Result<String> {
    let text = format.render(value, tables).context("write the answer")?;
    Ok(text.trim_end().to_owned())
}

/// An empty table in the style of all of them: columns, no lines.
pub(crate) fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// The plain fields as `name value`, then a table for each list of objects. So a field that a
/// daemon of a later version adds is shown too.
fn tables(value: &Value) -> String {
    let mut plain = table([]);
    let mut lists = Vec::new();
    for (name, value) in fields("", value) {
        match value {
            Value::Array(rows) if rows.iter().any(Value::is_object) => {
                lists.push(format!("{name}\n{}", table_of(rows)));
            }
            value => {
                plain.add_row([name, cell(value)]);
            }
        }
    }
    std::iter::once(plain.trim_fmt()).chain(lists).collect::<Vec<_>>().join("\n\n")
}

/// One row for each object; a column for each field that any of them has. Where those are more than a
/// screen is wide, a block of `name value` for each object.
fn table_of(rows: &[Value]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| fields("", row)).collect();
    let mut columns: Vec<&String> = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    if columns.len() > MAX_COLUMNS {
        let blocks = rows.iter().map(|row| {
            let mut block = table([]);
            block.add_rows(row.iter().map(|(name, value)| [name.clone(), cell(value)]));
            block.trim_fmt()
        });
        return blocks.collect::<Vec<_>>().join("\n\n");
    }
    let headers: Vec<_> = columns.iter().map(|name| name.to_uppercase()).collect();
    let mut table = table(headers.iter().map(String::as_str));
    for row in &rows {
        let value =
            |column: &&String| row.iter().find(|(name, _)| name == *column).map(|(_, value)| cell(value));
        table.add_row(columns.iter().map(|column| value(column).unwrap_or_default()));
    }
    table.trim_fmt()
}

/// An object's fields; those of nested objects under dotted names.
fn fields<'a>(prefix: &str, value: &'a Value) -> Vec<(String, &'a Value)> {
    let Value::Object(object) = value else {
        return vec![(prefix.to_owned(), value)];
    };
    let dotted = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    object.iter().flat_map(|(name, value)| fields(&dotted(name), value)).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// Of a table for people: eight short ones fit into 80 characters.
const MAX_COLUMNS: usize = 8;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cause_that_an_error_names_itself_is_not_said_twice() {
        let refused = || anyhow::anyhow!("connection refused");
        let again = refused().context("ask a.test: connection refused").context("pull");
        assert_eq!(explain(&again), "pull: ask a.test: connection refused");
        assert_eq!(explain(&refused().context("ask a.test")), "ask a.test: connection refused");
    }

    #[test]
    fn a_status_becomes_tables_whatever_its_fields_are() {
        let status = json!({
            "name": "peer-0",
            "store": { "bytes": 7, "quota": null },
            "registries": ["a.test", "b.test"],
            "partners": [{ "name": "peer-1", "warm": true }, { "name": "peer-2", "zone": "a" }],
        });
        let text = render(&status, OutputFormat::Table).unwrap();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in [
            vec!["name", "peer-0"],
            vec!["store.bytes", "7"],
            vec!["store.quota", "-"],
            vec!["registries", "a.test,", "b.test"],
            vec!["NAME", "WARM", "ZONE"],
            vec!["peer-1", "true"],
            vec!["peer-2", "a"],
        ] {
            assert!(words.contains(&row), "{row:?} is not in\n{text}");
        }
    }

    #[test]
    fn objects_of_many_fields_are_blocks_and_no_wide_table() {
        let row: serde_json::Map<String, Value> = (0..50).map(|n| (format!("field{n}"), json!(n))).collect();
        let text = render(&json!({ "peers": [row.clone(), row] }), OutputFormat::Table).unwrap();
        assert!(text.lines().all(|line| line.chars().count() < 80), "{text}");
        assert_eq!(
            text.lines().filter(|line| line.trim_start().starts_with("field49 ")).count(),
            2,
            "{text}"
        );
    }

    #[test]
    fn programs_read_back_what_was_rendered() {
        let status = json!({ "name": "peer-0", "pieces": 3 });
        let text = render(&status, OutputFormat::Json).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), status);
        let text = render(&status, OutputFormat::Yaml).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), status);
    }
}
