//! What a setup did, or would do: one object for programs, lines for people.

use std::path::Path;

use serde::Serialize;

use super::diff::diff;
use super::plan::{Edit, Plan};
use super::request::{Client, DoorName, Request};
use super::undo::{Action, Step};
use crate::output::table;

/// The outcome.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    client: Client,
    #[serde(skip_serializing_if = "Option::is_none")]
    door: Option<DoorName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<String>,
    /// Nothing was written.
    dry_run: bool,
    files: Vec<FileReport>,
    /// What to run so that the client sees it.
    restart: Vec<String>,
    notes: Vec<String>,
    /// How to pull then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pull: Option<String>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    file: String,
    action: Done,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

/// What was done to a file, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Done {
    Created,
    Changed,
    Unchanged,
    Restored,
    Removed,
    Kept,
}

impl Report {
    /// Of a plan that was carried out, or would be.
    pub(super) fn of_setup(request: &Request, plan: Plan, dry_run: bool, on_restart: &str) -> Self {
        let changed = plan.edits.iter().filter(|edit| edit.changes());
        let restart = commands(changed.filter_map(|edit| edit.reload));
        let mut notes = restart_notes(&restart, on_restart);
        notes.extend(plan.notes);
        if !plan.edits.iter().any(Edit::changes) {
            let once = commands(plan.edits.iter().filter_map(|edit| edit.reload));
            notes.extend(
                once.iter().map(|command| format!("Unless it was done since they were written: {command}")),
            );
        }
        Self {
            client: request.client,
            door: Some(request.door),
            registry: Some(request.registry.to_string()),
            dry_run,
            files: plan.edits.iter().map(|edit| FileReport::of_edit(edit, dry_run)).collect(),
            restart,
            notes,
            pull: Some(plan.pull),
        }
    }

    /// Of an undo.
    pub(super) fn of_undo(
        client: Client,
        registry: Option<String>,
        steps: &[Step],
        dry_run: bool,
        on_restart: &str,
    ) -> Self {
        let changed = steps.iter().filter(|step| matches!(step.action, Action::Restore(..) | Action::Remove));
        let restart = commands(changed.filter_map(|step| step.reload.as_deref()));
        let mut notes = restart_notes(&restart, on_restart);
        notes.extend(steps.iter().filter_map(kept_for));
        Self {
            client,
            door: None,
            registry,
            dry_run,
            files: steps.iter().map(FileReport::of_step).collect(),
            restart,
            notes,
            pull: None,
        }
    }

    /// Adds a sentence.
    pub(super) fn note(&mut self, sentence: Option<String>) {
        self.notes.extend(sentence);
    }

    /// For people.
    pub(super) fn for_people(&self) -> String {
        let mut parts = Vec::new();
        if !self.files.is_empty() {
            let mut rows = table(["FILE", if self.dry_run { "WOULD BE" } else { "IS" }]);
            rows.add_rows(self.files.iter().map(|file| [file.file.as_str(), file.action.as_str()]));
            parts.push(rows.trim_fmt());
        }
        parts.extend(
            self.files
                .iter()
                .filter_map(|file| file.diff.as_deref())
                .map(|diff| diff.trim_end_matches('\n').to_owned()),
        );
        let idle = |file: &FileReport| matches!(file.action, Done::Unchanged | Done::Kept);
        if self.files.iter().all(idle) {
            parts.push(self.nothing().to_owned());
        }
        if !self.restart.is_empty() {
            let when = if self.dry_run { "Then" } else { "Now" };
            parts.push(format!("{when} run:\n  {}", self.restart.join("\n  ")));
        }
        parts.extend(self.notes.iter().map(|note| format!("note: {note}")));
        parts.extend(self.pull.iter().map(|pull| format!("To pull:\n  {pull}")));
        parts.join("\n\n")
    }

    fn nothing(&self) -> &'static str {
        match (self.pull.is_some(), self.files.is_empty()) {
            (true, true) => "There is nothing to write.",
            (true, false) => "Everything is in place: nothing was changed.",
            (false, _) => "There is nothing to undo.",
        }
    }
}

impl FileReport {
    fn of_edit(edit: &Edit, dry_run: bool) -> Self {
        let action = match (edit.changes(), &edit.before) {
            (false, _) => Done::Unchanged,
            (true, None) => Done::Created,
            (true, Some(_)) => Done::Changed,
        };
        let shown = (dry_run && edit.changes()).then(|| preview(edit));
        Self { file: name(&edit.path), action, diff: shown }
    }

    fn of_step(step: &Step) -> Self {
        let action = match step.action {
            Action::Restore(..) => Done::Restored,
            Action::Remove => Done::Removed,
            Action::AsItWas => Done::Unchanged,
            Action::Keep(_) => Done::Kept,
        };
        Self { file: name(&step.file), action, diff: None }
    }
}

impl Done {
    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Restored => "restored",
            Self::Removed => "removed",
            Self::Kept => "kept",
        }
    }
}

/// What a restart does, if there is to be one.
fn restart_notes(commands: &[String], on_restart: &str) -> Vec<String> {
    let is_one = commands.iter().any(|command| command.contains("systemctl restart"));
    is_one.then(|| on_restart.to_owned()).into_iter().collect()
}

fn preview(edit: &Edit) -> String {
    if edit.secret {
        return format!("{}: (credentials: not shown)\n", edit.path.display());
    }
    diff(&edit.path, edit.before.as_deref(), &edit.after)
}

fn kept_for(step: &Step) -> Option<String> {
    let Action::Keep(setups) = &step.action else { return None };
    let setups: Vec<String> =
        setups.iter().map(|setup| format!("{} for {}", setup.client, setup.registry)).collect();
    Some(format!("{} stays: it serves {} too.", step.file.display(), setups.join(", ")))
}

/// Each once; a longer command does what the shorter one at its end does.
fn commands<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    let all: Vec<&str> = all.collect();
    let mut commands: Vec<String> = Vec::new();
    for command in &all {
        let is_part = all.iter().any(|other| other.len() > command.len() && other.ends_with(command));
        if !is_part && !commands.iter().any(|known| known == command) {
            commands.push((*command).to_owned());
        }
    }
    commands
}

fn name(path: &Path) -> String {
    path.display().to_string()
}
