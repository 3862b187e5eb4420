//! `/etc/hosts`.

use super::EditError;

/// With a line that leads `name` to `address`.
pub(in crate::client) fn with_host(text: &str, name: &str, address: &str) -> Result<String, EditError> {
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(found) = words.next() else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) {
            if found == address {
                return Ok(text.to_owned());
            }
            return Err(EditError::HostTaken { name: name.to_owned(), address: found.to_owned() });
        }
    }
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{text}{newline}{address} {name} # flotilla\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gets_one_address() {
        for (before, after) in [
            ("", "127.0.0.7 reg.test # flotilla\n"),
            ("::1 localhost\n# reg.test", "::1 localhost\n# reg.test\n127.0.0.7 reg.test # flotilla\n"),
        ] {
            let once = with_host(before, "reg.test", "127.0.0.7").unwrap();
            assert_eq!(once, after);
            assert_eq!(with_host(&once, "reg.test", "127.0.0.7").unwrap(), once);
        }
        assert!(with_host("10.0.0.1 a Reg.test", "reg.test", "127.0.0.7").is_err());
    }
}
