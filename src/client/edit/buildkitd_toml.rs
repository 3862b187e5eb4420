//! BuildKit's `buildkitd.toml`.

use toml_edit::DocumentMut;

use super::EditError;
use super::toml::{put_first, section, set};

/// With the peer as the registry's first mirror, spoken to in plain HTTP.
pub(in crate::client) fn with_buildkit_mirror(
    text: &str,
    registry: &str,
    peer: &str,
) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    put_first(section(&mut document, &["registry", registry])?, "mirrors", peer)?;
    set(section(&mut document, &["registry", peer])?, "http", true);
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_added_and_the_rest_stays() {
        let ours = "[registry.\"reg.test\"]\nmirrors = [\"127.0.0.1:4001\"]\n\n\
                    [registry.\"127.0.0.1:4001\"]\nhttp = true\n";
        let theirs = "debug = true # loud\n[registry.\"reg.test\"]\n  mirrors = [\"m.test\"]\n";
        let both = "debug = true # loud\n[registry.\"reg.test\"]\n  mirrors = [\"127.0.0.1:4001\", \
                    \"m.test\"]\n\n[registry.\"127.0.0.1:4001\"]\nhttp = true\n";
        for (before, after) in [("", ours), (theirs, both)] {
            let once = with_buildkit_mirror(before, "reg.test", "127.0.0.1:4001").unwrap();
            assert_eq!(once, after);
            assert_eq!(with_buildkit_mirror(&once, "reg.test", "127.0.0.1:4001").unwrap(), once);
        }
    }
}
