//! containerd's `certs.d/<registry>/hosts.toml`.

use toml_edit::{Array, DocumentMut, Item, Table};

use super::EditError;
use super::toml::{put_first, section, set};

/// With `url` as the first of the hosts that are asked; `server` is the last.
pub(in crate::client) fn with_mirror_host(
    text: &str,
    registry: &str,
    url: &str,
) -> Result<String, EditError> {
    if text.trim().is_empty() {
        return Ok(format!(
            "server = \"https://{registry}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        ));
    }
    let mut document: DocumentMut = text.parse()?;
    let hosts = section(&mut document, &["host"])?;
    if hosts.contains_key(url) {
        return Ok(text.to_owned());
    }
    // containerd asks them in the order of the file.
    let positions = hosts.iter().filter_map(|(_, item)| item.as_table()?.position());
    let first = positions.min();
    let mut host = Table::new();
    host.set_position(first.map(|position| position - 1));
    host.insert("capabilities", Item::Value(Array::from_iter(["pull", "resolve"]).into()));
    host.decor_mut().set_prefix("\n");
    hosts.set_implicit(true);
    hosts.insert(url, Item::Table(host));
    Ok(document.to_string())
}

/// With `ca` among the certificates that the registry itself may have.
pub(in crate::client) fn with_ca(text: &str, registry: &str, ca: &str) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    if !document.contains_key("server") {
        set(&mut document, "server", format!("https://{registry}"));
    }
    put_first(&mut document, "ca", ca)?;
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "http://127.0.0.1:4001";

    #[test]
    fn the_peer_is_asked_first_and_the_others_after_it() {
        let ours = "server = \"https://reg.test\"\n\n[host.\"http://127.0.0.1:4001\"]\n  \
                    capabilities = [\"pull\", \"resolve\"]\n";
        let theirs = "server = \"https://reg.test\"\n\n# our cache\n[host.\"https://cache\"]\n  \
                      skip_verify = true\n  [host.\"https://cache\".header]\n    x = \"y\"\n";
        let both = "server = \"https://reg.test\"\n\n[host.\"http://127.0.0.1:4001\"]\n\
                    capabilities = [\"pull\", \"resolve\"]\n\n# our cache\n[host.\"https://cache\"]\n  \
                    skip_verify = true\n  [host.\"https://cache\".header]\n    x = \"y\"\n";
        let server = "server = \"https://reg.test\"\n";
        let added = "server = \"https://reg.test\"\n\n[host.\"http://127.0.0.1:4001\"]\n\
                     capabilities = [\"pull\", \"resolve\"]\n";
        for (before, after) in [("", ours), (theirs, both), (ours, ours), (server, added)] {
            let once = with_mirror_host(before, "reg.test", PEER).unwrap();
            assert_eq!(once, after);
            assert_eq!(with_mirror_host(&once, "reg.test", PEER).unwrap(), once);
        }
        assert!(with_mirror_host("host = 1", "reg.test", PEER).is_err());
        assert!(with_mirror_host("[", "reg.test", PEER).is_err());
    }

    #[test]
    fn a_ca_joins_those_that_are_there() {
        for (before, after) in [
            ("", "server = \"https://reg.test\"\nca = [\"/f.crt\"]\n"),
            (
                "server = \"https://x\"\nca = \"/corp.crt\"\n[host.\"https://a\"]\n",
                "server = \"https://x\"\nca = [\"/f.crt\", \"/corp.crt\"]\n[host.\"https://a\"]\n",
            ),
        ] {
            let once = with_ca(before, "reg.test", "/f.crt").unwrap();
            assert_eq!(once, after);
            assert_eq!(with_ca(&once, "reg.test", "/f.crt").unwrap(), once);
        }
    }
}
