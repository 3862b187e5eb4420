//! What an edit changes, as `diff -u` shows it and `patch -p1 -d /` takes it.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

/// One line of both texts, or of one, with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    Added(&'a str),
}

/// The changed lines with three around them. `before` is `None` where there is no file.
///
/// The names are below `a` and `b`, as git has them: `patch` refuses absolute ones.
pub(super) fn diff(path: &Path, before: Option<&str>, after: &str) -> String {
    let path = path.display();
    let old = if before.is_some() { format!("a{path}") } else { "/dev/null".to_owned() };
    // A name with a space ends with a tab; `patch` would take the rest for a date.
    let end = if old.contains(' ') || path.to_string().contains(' ') { "\t" } else { "" };
    let mut text = format!("--- {old}{end}\n+++ b{path}{end}\n");
    let lines = compare(before.unwrap_or_default(), after);
    for hunk in hunks(&lines) {
        writeln!(text, "{}", header(&lines, &hunk)).expect("a text grows");
        for line in &lines[hunk] {
            let (sign, line) = match line {
                Line::Same(line) => (' ', line),
                Line::Gone(line) => ('-', line),
                Line::Added(line) => ('+', line),
            };
            let end = if line.ends_with('\n') { "" } else { "\n\\ No newline at end of file\n" };
            write!(text, "{sign}{line}{end}").expect("a text grows");
        }
    }
    text
}

/// The lines that are shown, by index: each change with what is around it.
fn hunks(lines: &[Line<'_>]) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for (index, _) in lines.iter().enumerate().filter(|(_, line)| !matches!(line, Line::Same(_))) {
        let around = index.saturating_sub(CONTEXT)..lines.len().min(index + CONTEXT + 1);
        match hunks.last_mut().filter(|last| last.end >= around.start) {
            Some(last) => last.end = around.end,
            None => hunks.push(around),
        }
    }
    hunks
}

/// Where a hunk begins in both texts, and how many lines of each it has. A text of none begins at 0.
fn header(lines: &[Line<'_>], hunk: &Range<usize>) -> String {
    let count = |lines: &[Line<'_>], of_old: bool| {
        let is_of = |line: &&Line<'_>| match line {
            Line::Same(_) => true,
            Line::Gone(_) => of_old,
            Line::Added(_) => !of_old,
        };
        lines.iter().filter(is_of).count()
    };
    let place = |of_old: bool| {
        let (before, len) = (count(&lines[..hunk.start], of_old), count(&lines[hunk.clone()], of_old));
        format!("{},{len}", if len == 0 { before } else { before + 1 })
    };
    format!("@@ -{} +{} @@", place(true), place(false))
}

/// The longest common subsequence, between what both texts begin and end with.
fn compare<'a>(before: &'a str, after: &'a str) -> Vec<Line<'a>> {
    let split = |text: &'a str| text.split_inclusive('\n').collect::<Vec<_>>();
    let (old, new) = (split(before), split(after));
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);
    let same = |lines: &[&'a str]| lines.iter().map(|line| Line::Same(line)).collect::<Vec<_>>();
    [same(&old[..head]), middle(old_middle, new_middle), same(&old[old.len() - tail..])].concat()
}

/// Files here have hundreds of lines: a table of all pairs is small.
fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || common[i + 1][j] >= common[i][j + 1]) {
            lines.push(Line::Gone(old[i]));
            i += 1;
        } else {
            lines.push(Line::Added(new[j]));
            j += 1;
        }
    }
    lines
}

/// As `diff -u`.
const CONTEXT: usize = 3;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_is_shown_with_what_is_around_it() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let after = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n";
        let expected = "--- a/f\n+++ b/f\n@@ -2,8 +2,9 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n 9\n+10\n";
        assert_eq!(diff(Path::new("/f"), Some(before), after), expected);
        let all = diff(Path::new("/f"), None, "a\nb\n");
        assert_eq!(all, "--- /dev/null\n+++ b/f\n@@ -0,0 +1,2 @@\n+a\n+b\n");
    }

    #[test]
    fn changes_far_apart_are_two_hunks() {
        let before = "a\n1\n2\n3\n4\n5\n6\n7\n8\nb\n";
        let text = diff(Path::new("/f"), Some(before), &before.replace('a', "A").replace('b', "B"));
        assert_eq!(text.matches("@@ -").count(), 2);
        assert!(text.contains("@@ -7,4 +7,4 @@\n 6\n 7\n 8\n-b\n+B\n"), "{text}");
    }

    /// The text that the real `patch` makes of `before`; `None` if it is not installed.
    fn patched(before: Option<&str>, diff: &str) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("etc/some file.conf");
        fs::create_dir(root.path().join("etc")).unwrap();
        if let Some(before) = before {
            fs::write(&file, before).unwrap();
        }
        let mut patch = Command::new("patch");
        patch.args(["-p1", "--fuzz=0", "--binary", "-d"]).arg(root.path());
        let mut patch = match patch.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            started => started.unwrap(),
        };
        patch.stdin.take().unwrap().write_all(diff.as_bytes()).unwrap();
        let output = patch.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{diff}", String::from_utf8_lossy(&output.stdout));
        Some(fs::read_to_string(file).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Blank lines, lines with ends of Windows and texts that end without a line's end among them.
        #[test]
        fn patch_makes_the_edit_of_what_is_shown(
            before in prop::option::of("([ab]?\r?\n|   \n){0,24}[ab]{0,2}"),
            after in "([ab]?\r?\n|   \n){0,24}[ab]{1,2}\n?",
        ) {
            prop_assume!(before.as_ref() != Some(&after) && before.as_deref() != Some(""));
            let diff = diff(Path::new("/etc/some file.conf"), before.as_deref(), &after);
            if let Some(patched) = patched(before.as_deref(), &diff) {
                prop_assert_eq!(patched, after, "{}", diff);
            }
        }
    }
}
