//! One answer, three forms.

use std::time::{Duration, UNIX_EPOCH};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people
    Table,
    /// For scripts
    Json,
    /// For scripts that people read
    Yaml,
}

impl OutputFormat {
    /// `answer` as JSON or YAML, or as `for_people` writes it. Ends with a line's end.
    ///
    /// # Errors
    ///
    /// If the answer cannot be written in that form, which is an error of the program.
    pub fn render<T: Serialize>(
        self,
        answer: &T,
        for_people: impl FnOnce(&T) -> String,
    ) -> Result<String, RenderError> {
        let mut text = match self {
            Self::Table => for_people(answer),
            Self::Json => serde_json::to_string_pretty(answer)?,
            Self::Yaml => serde_saphyr::to_string(answer)?,
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    /// What was done, as a sentence or as `{"done": "…"}`.
    pub(super) fn done(self, sentence: String) -> Result<String, RenderError> {
        #[derive(Serialize)]
        struct Done {
            done: String,
        }
        self.render(&Done { done: sentence }, |answer| answer.done.clone())
    }
}

/// Columns under headings, without lines: to read, to grep and to cut.
pub(super) fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headings.map(str::to_uppercase));
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

/// A moment in Unix seconds as RFC 3339 has it; `None` for 0, which is never.
pub(super) fn time(unix_seconds: u64) -> Option<String> {
    (unix_seconds > 0).then(|| {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_seconds)).to_string()
    })
}

/// For a cell that has nothing to say.
pub(super) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// Why an answer cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Not as JSON.
    #[error("print as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not as YAML.
    #[error("print as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
}
