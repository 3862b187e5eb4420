//! What an edit changes, as `diff -u` shows it.

use std::fmt::Write as _;
use std::path::Path;

/// One line of both texts, or of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    Added(&'a str),
}

/// The changed lines with three around them. `before` is `None` where there is no file.
pub(super) fn diff(path: &Path, before: Option<&str>, after: &str) -> String {
    let old = if before.is_some() { path } else { Path::new("/dev/null") };
    let mut text = format!("--- {}\n+++ {}\n", old.display(), path.display());
    let lines = compare(before.unwrap_or_default(), after);
    let is_near = |index: usize| {
        let around = index.saturating_sub(CONTEXT)..lines.len().min(index + CONTEXT + 1);
        lines[around].iter().any(|line| !matches!(line, Line::Same(_)))
    };
    let mut shown_before = false;
    for (index, line) in lines.iter().enumerate() {
        let shown = is_near(index);
        if shown && !shown_before {
            writeln!(text, "{}", header(&lines, index)).expect("a text grows");
        }
        shown_before = shown;
        match line {
            Line::Same(line) if shown => writeln!(text, " {line}").expect("a text grows"),
            Line::Same(_) => {}
            Line::Gone(line) => writeln!(text, "-{line}").expect("a text grows"),
            Line::Added(line) => writeln!(text, "+{line}").expect("a text grows"),
        }
    }
    text
}

/// Where a hunk begins in both texts.
fn header(lines: &[Line<'_>], from_index: usize) -> String {
    let count = |of_old: bool| {
        let is_of = |line: &&Line<'_>| match line {
            Line::Same(_) => true,
            Line::Gone(_) => of_old,
            Line::Added(_) => !of_old,
        };
        1 + lines[..from_index].iter().filter(is_of).count()
    };
    format!("@@ -{} +{} @@", count(true), count(false))
}

/// The longest common subsequence, between what both texts begin and end with.
fn compare<'a>(before: &'a str, after: &'a str) -> Vec<Line<'a>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
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
    use super::*;

    #[test]
    fn a_change_is_shown_with_what_is_around_it() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let after = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n";
        let expected = "--- /f\n+++ /f\n@@ -2 +2 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n 9\n+10\n";
        assert_eq!(diff(Path::new("/f"), Some(before), after), expected);
        let all = diff(Path::new("/f"), None, "a\nb\n");
        assert_eq!(all, "--- /dev/null\n+++ /f\n@@ -1 +1 @@\n+a\n+b\n");
    }

    #[test]
    fn changes_far_apart_are_two_hunks() {
        let before = "a\n1\n2\n3\n4\n5\n6\n7\n8\nb\n";
        let text = diff(Path::new("/f"), Some(before), &before.replace('a', "A").replace('b', "B"));
        assert_eq!(text.matches("@@ ").count(), 2);
        assert!(text.contains("@@ -7 +7 @@\n 6\n 7\n 8\n-b\n+B\n"), "{text}");
    }
}
