//! containerd's `certs.d/<registry>/hosts.toml`.
//!
//! `server` is where containerd goes last. For Docker Hub it is left out: only then does containerd put
//! registry-1.docker.io in its place (1.6 to 2.x); `https://docker.io` is a web site.

use flotilla_proto::RegistryHost;
use toml_edit::{Array, DocumentMut, Item, Table};

use super::EditError;
use super::toml::{put_first, section, set};

/// With the `peer`'s URL as the first of the hosts that are asked; `server` is the last. The registry's name goes
/// into the path: a project of it may be called like another registry, and containerd's `ns` does not tell the two
/// apart.
pub(in crate::client) fn with_mirror_host(
    text: &str,
    registry: &RegistryHost,
    peer: &str,
) -> Result<String, EditError> {
    let url = &format!("{peer}/v2/{registry}");
    if text.trim().is_empty() {
        let server = server(registry).map(|server| format!("server = \"{server}\"\n\n")).unwrap_or_default();
        return Ok(format!(
            "{server}[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n"
        ));
    }
    let mut document: DocumentMut = text.parse()?;
    let is_mended = drop_web_site(&mut document, registry);
    let hosts = section(&mut document, &["host"])?;
    // containerd asks them in the order of the file.
    let positions = hosts.iter().filter_map(|(_, item)| item.as_table()?.position());
    let first = positions.min();
    // As earlier versions of this program wrote it, it becomes what it should be, with whatever a person added.
    let earlier = hosts.remove(peer).and_then(|item| item.into_table().ok());
    if let Some(host) = hosts.get_mut(url).and_then(Item::as_table_like_mut) {
        let is_path = host.get("override_path").and_then(Item::as_bool) == Some(true);
        if !is_path {
            host.insert("override_path", toml_edit::value(true));
        }
        let is_right = is_path && earlier.is_none() && !is_mended;
        return Ok(if is_right { text.to_owned() } else { document.to_string() });
    }
    let mut host = earlier.unwrap_or_else(|| {
        let mut host = Table::new();
        host.set_position(first.map(|position| position - 1));
        host.insert("capabilities", Item::Value(Array::from_iter(["pull", "resolve"]).into()));
        host.decor_mut().set_prefix("\n");
        host
    });
    host.insert("override_path", toml_edit::value(true));
    hosts.set_implicit(true);
    hosts.insert(url, Item::Table(host));
    Ok(document.to_string())
}

/// With `ca` among the certificates that the registry itself may have.
pub(in crate::client) fn with_ca(text: &str, registry: &RegistryHost, ca: &str) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    drop_web_site(&mut document, registry);
    if let Some(server) = server(registry).filter(|_| !document.contains_key("server")) {
        set(&mut document, "server", server);
    }
    put_first(&mut document, "ca", ca)?;
    Ok(document.to_string())
}

/// Where containerd is to go last; `None`: it knows by itself.
fn server(registry: &RegistryHost) -> Option<String> {
    (!registry.is_docker_hub()).then(|| format!("https://{registry}"))
}

/// Takes out a `server` that reads no image of Docker Hub; whether there was one.
fn drop_web_site(document: &mut DocumentMut, registry: &RegistryHost) -> bool {
    let server = document.get("server").and_then(Item::as_str).unwrap_or_default().trim_end_matches('/');
    let is_web_site = registry.is_docker_hub() && server == format!("https://{registry}");
    is_web_site && document.remove("server").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "http://127.0.0.1:4001";

    fn reg() -> RegistryHost {
        "reg.test".parse().unwrap()
    }

    #[test]
    fn docker_hubs_own_server_is_left_to_containerd() {
        let hub: RegistryHost = "registry-1.docker.io".parse().unwrap();
        let ours = "[host.\"http://127.0.0.1:4001/v2/docker.io\"]\n  \
                    capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n";
        let web_site = format!("server = \"https://docker.io\"\n\n{ours}");
        let chosen = format!("server = \"https://registry-1.docker.io\"\n\n{ours}");
        for (before, after) in [("", ours), (ours, ours), (&web_site, ours), (&chosen, &chosen)] {
            assert_eq!(with_mirror_host(before, &hub, PEER).unwrap().trim_start(), after);
        }
        for before in ["", "server = \"https://docker.io/\"\n"] {
            assert_eq!(with_ca(before, &hub, "/f.crt").unwrap(), "ca = [\"/f.crt\"]\n");
        }
    }

    #[test]
    fn the_peer_is_asked_first_and_the_others_after_it() {
        let ours = "server = \"https://reg.test\"\n\n[host.\"http://127.0.0.1:4001/v2/reg.test\"]\n  \
                    capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n";
        let theirs = "server = \"https://reg.test\"\n\n# our cache\n[host.\"https://cache\"]\n  \
                      skip_verify = true\n  [host.\"https://cache\".header]\n    x = \"y\"\n";
        let both = "server = \"https://reg.test\"\n\n[host.\"http://127.0.0.1:4001/v2/reg.test\"]\n\
                    capabilities = [\"pull\", \"resolve\"]\noverride_path = true\n\n# our cache\n[host.\"https://cache\"]\n  \
                    skip_verify = true\n  [host.\"https://cache\".header]\n    x = \"y\"\n";
        let server = "server = \"https://reg.test\"\n";
        let added = "server = \"https://reg.test\"\n\n[host.\"http://127.0.0.1:4001/v2/reg.test\"]\n\
                     capabilities = [\"pull\", \"resolve\"]\noverride_path = true\n";
        let earlier = "[host.\"http://127.0.0.1:4001\"]\n  capabilities = [\"pull\"]\n  skip_verify = true\n";
        let mended = "[host.\"http://127.0.0.1:4001/v2/reg.test\"]\n  capabilities = [\"pull\"]\n  \
                      skip_verify = true\noverride_path = true\n";
        for (before, after) in [("", ours), (theirs, both), (ours, ours), (server, added), (earlier, mended)]
        {
            let once = with_mirror_host(before, &reg(), PEER).unwrap();
            assert_eq!(once, after);
            assert_eq!(with_mirror_host(&once, &reg(), PEER).unwrap(), once);
        }
        let twice = ours.replace("[host.", "[host.\"http://127.0.0.1:4001\"]\n\n[host.");
        let scoped = "[host.\"http://127.0.0.1:4001/v2/reg.test\"]\n";
        for wrong in [&twice, scoped, &format!("{scoped}override_path = false\n")] {
            let once = with_mirror_host(wrong, &reg(), PEER).unwrap();
            let document: DocumentMut = once.parse().unwrap();
            let hosts: Vec<_> = document["host"].as_table().unwrap().iter().collect();
            assert_eq!(hosts.len(), 1, "{once}");
            assert_eq!(hosts[0].0, "http://127.0.0.1:4001/v2/reg.test");
            assert_eq!(hosts[0].1["override_path"].as_bool(), Some(true), "{once}");
            assert_eq!(with_mirror_host(&once, &reg(), PEER).unwrap(), once);
        }
        assert!(with_mirror_host("host = 1", &reg(), PEER).is_err());
        assert!(with_mirror_host("[", &reg(), PEER).is_err());
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
            let once = with_ca(before, &reg(), "/f.crt").unwrap();
            assert_eq!(once, after);
            assert_eq!(with_ca(&once, &reg(), "/f.crt").unwrap(), once);
        }
    }
}
