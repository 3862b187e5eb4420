//! systemd's drop-ins with the environment of a unit.

use super::EditError;

/// With `url` as the proxy of HTTPS, and exceptions unless there are some.
pub(in crate::client) fn with_proxy_environment(
    text: &str,
    url: &str,
    no_proxy: &str,
) -> Result<String, EditError> {
    let proxy = format!("Environment=\"HTTPS_PROXY={url}\"");
    let exceptions = format!("Environment=\"NO_PROXY={no_proxy}\"");
    let mut lines: Vec<&str> = text.lines().filter(|line| setting(line, "HTTPS_PROXY").is_none()).collect();
    let has_exceptions = lines.iter().any(|line| setting(line, "NO_PROXY").is_some());
    if proxy_in_unit(text).as_deref() == Some(url) && has_exceptions {
        return Ok(text.to_owned());
    }
    let section = match lines.iter().position(|line| line.trim() == "[Service]") {
        Some(line_index) => line_index,
        None => {
            lines.push("[Service]");
            lines.len() - 1
        }
    };
    lines.insert(section + 1, &proxy);
    if !has_exceptions {
        lines.insert(section + 2, &exceptions);
    }
    Ok(lines.join("\n") + "\n")
}

/// The proxy of HTTPS that a drop-in sets: its last word.
pub(in crate::client) fn proxy_in_unit(text: &str) -> Option<String> {
    let mut values = text.lines().filter_map(|line| setting(line, "HTTPS_PROXY"));
    values.next_back().map(ToOwned::to_owned)
}

/// The value of the variable in `Environment="NAME=value"`, in either case as its readers take it.
fn setting<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let assignments = line.trim().strip_prefix("Environment=")?;
    assignments.split_whitespace().find_map(|assignment| {
        let (found, value) = assignment.trim_matches(['"', '\'']).split_once('=')?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "http://127.0.0.1:4001";

    #[test]
    fn a_drop_in_gets_the_proxy_and_keeps_the_rest() {
        let ours = "[Service]\nEnvironment=\"HTTPS_PROXY=http://127.0.0.1:4001\"\n\
                    Environment=\"NO_PROXY=localhost\"\n";
        let older = ours.replace("4001", "5001");
        let theirs = "# ours\n[Unit]\nWants=a\n[Service]\nEnvironment='NO_PROXY=.corp'\nLimitNOFILE=7\n";
        for (before, after) in [
            ("", ours.to_owned()),
            (older.as_str(), ours.to_owned()),
            (
                theirs,
                theirs
                    .replace("[Service]\n", "[Service]\nEnvironment=\"HTTPS_PROXY=http://127.0.0.1:4001\"\n"),
            ),
        ] {
            let once = with_proxy_environment(before, PEER, "localhost").unwrap();
            assert_eq!(once, after);
            assert_eq!(with_proxy_environment(&once, PEER, "localhost").unwrap(), once);
        }
    }

    #[test]
    fn the_proxy_of_a_unit_is_found_in_every_spelling() {
        for (text, proxy) in [
            ("Environment=HTTPS_PROXY=http://a:1", Some("http://a:1")),
            ("Environment=\"A=b\" \"https_proxy=http://b:2\"", Some("http://b:2")),
            ("#Environment=HTTPS_PROXY=http://a:1\nEnvironment=HTTP_PROXY=http://a:1", None),
            ("Environment=HTTPS_PROXY=http://a:1\nEnvironment='HTTPS_PROXY=http://c:3'", Some("http://c:3")),
        ] {
            assert_eq!(proxy_in_unit(text).as_deref(), proxy, "{text}");
        }
    }
}
