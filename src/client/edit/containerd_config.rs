//! containerd's `config.toml`: where the CRI plugin looks for `hosts.toml` files.

use toml_edit::{DocumentMut, Item, Table};

use super::EditError;
use super::toml::{find, section, set};

/// What a configuration says of `config_path`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) enum ConfigPath {
    /// The directory to use.
    Set(String),
    /// None; the CRI plugin would read no `hosts.toml`.
    Unset,
    /// The CRI plugin is switched off, as Docker's packages have it.
    NoCri,
}

/// Looks for it.
pub(in crate::client) fn config_path(text: &str) -> Result<ConfigPath, EditError> {
    let document: DocumentMut = text.parse()?;
    if cri_is_disabled(&document) {
        return Ok(ConfigPath::NoCri);
    }
    let registry = find(&document, registry_section(&document)?);
    let path = registry.and_then(|table| table.get("config_path")?.as_str());
    // A list like $PATH: the first that has a registry's directory wins.
    let first = path.and_then(|path| path.split(':').find(|dir| !dir.is_empty()));
    Ok(first.map_or(ConfigPath::Unset, |dir| ConfigPath::Set(dir.to_owned())))
}

/// With `dir` as `config_path` unless there is one.
pub(in crate::client) fn with_config_path(text: &str, dir: &str) -> Result<String, EditError> {
    if config_path(text)? != ConfigPath::Unset {
        return Ok(text.to_owned());
    }
    let mut document: DocumentMut = text.parse()?;
    if document.is_empty() {
        // Read by every containerd since 1.3; 2.x takes it as its own.
        set(&mut document, "version", 2);
    }
    let path = registry_section(&document)?;
    refuse_legacy(find(&document, path))?;
    set(section(&mut document, path)?, "config_path", dir);
    if version(&document) == 3 {
        let transfer = section(&mut document, TRANSFER)?;
        let is_set = transfer.get("config_path").and_then(Item::as_str).is_some_and(|set| !set.is_empty());
        if !is_set {
            set(transfer, "config_path", dir);
        }
    }
    Ok(document.to_string())
}

/// The CRI plugin does not start with these beside `config_path`.
fn refuse_legacy(registry: Option<&Table>) -> Result<(), EditError> {
    let Some(registry) = registry else { return Ok(()) };
    let filled =
        |key: &str| registry.get(key).and_then(Item::as_table_like).filter(|table| !table.is_empty());
    if filled("mirrors").is_some() {
        return Err(EditError::Legacy { key: "registry.mirrors".to_owned() });
    }
    let with_tls = filled("configs").and_then(|configs| {
        let tls = |item: &Item| item.as_table_like().is_some_and(|host| host.contains_key("tls"));
        configs.iter().find(|(_, item)| tls(item)).map(|(host, _)| host.to_owned())
    });
    with_tls.map_or(Ok(()), |host| Err(EditError::Legacy { key: format!("registry.configs.{host}.tls") }))
}

fn cri_is_disabled(document: &DocumentMut) -> bool {
    let disabled = document.get("disabled_plugins").and_then(Item::as_array);
    disabled.is_some_and(|plugins| plugins.iter().any(|plugin| plugin.as_str().is_some_and(is_cri)))
}

fn is_cri(plugin: &str) -> bool {
    ["cri", CRI_2, CRI_3].contains(&plugin)
}

/// A configuration that names no version is of the first, unless it is empty.
fn version(document: &DocumentMut) -> i64 {
    let named = document.get("version").and_then(Item::as_integer);
    named.unwrap_or(if document.is_empty() { 2 } else { 1 })
}

fn registry_section(document: &DocumentMut) -> Result<&'static [&'static str], EditError> {
    match version(document) {
        1 => Ok(&["plugins", "cri", "registry"]),
        2 => Ok(&["plugins", CRI_2, "registry"]),
        3 => Ok(&["plugins", CRI_3, "registry"]),
        other => Err(EditError::Version(other)),
    }
}

const CRI_2: &str = "io.containerd.grpc.v1.cri";

const CRI_3: &str = "io.containerd.cri.v1.images";

/// `ctr images pull`, and the CRI plugin from 2.1 on, go by it.
const TRANSFER: &[&str] = &["plugins", "io.containerd.transfer.v1.local"];

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/etc/containerd/certs.d";

    #[test]
    fn the_path_is_set_in_the_section_of_each_version() {
        let v2 = "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n\
                  config_path = \"/etc/containerd/certs.d\"\n";
        let dumped = "version = 3\n[plugins]\n  # images\n  [plugins.'io.containerd.cri.v1.images']\n    \
                      [plugins.'io.containerd.cri.v1.images'.registry]\n      config_path = ''\n";
        let filled = "version = 3\n[plugins]\n  # images\n  [plugins.'io.containerd.cri.v1.images']\n    \
                      [plugins.'io.containerd.cri.v1.images'.registry]\n      \
                      config_path = \"/etc/containerd/certs.d\"\n\n\
                      [plugins.\"io.containerd.transfer.v1.local\"]\nconfig_path = \"/etc/containerd/certs.d\"\n";
        let v1 = "root = \"/x\"\n";
        let v1_filled =
            "root = \"/x\"\n\n[plugins.cri.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
        for (before, after) in [("", v2), (dumped, filled), (v1, v1_filled)] {
            let once = with_config_path(before, DIR).unwrap();
            assert_eq!(once, after);
            assert_eq!(with_config_path(&once, DIR).unwrap(), once);
            assert_eq!(config_path(&once).unwrap(), ConfigPath::Set(DIR.to_owned()));
        }
    }

    #[test]
    fn a_path_that_is_set_is_used_as_it_is() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/a:/b\"\n";
        assert_eq!(config_path(text).unwrap(), ConfigPath::Set("/a".to_owned()));
        assert_eq!(with_config_path(text, DIR).unwrap(), text);
        let docker = "disabled_plugins = [\"cri\"]\n";
        assert_eq!(config_path(docker).unwrap(), ConfigPath::NoCri);
        assert_eq!(with_config_path(docker, DIR).unwrap(), docker);
    }

    #[test]
    fn what_containerd_would_not_start_with_is_refused() {
        let registry = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry";
        for tail in [".mirrors.\"a.test\"]\nendpoint = []\n", ".configs.\"a.test\".tls]\nca_file = \"/x\"\n"]
        {
            let error = with_config_path(&format!("{registry}{tail}"), DIR).unwrap_err();
            assert!(matches!(error, EditError::Legacy { .. }), "{error}");
        }
        let credentials = format!("{registry}.configs.\"a.test\".auth]\nusername = \"x\"\n");
        assert!(with_config_path(&credentials, DIR).is_ok());
        assert!(matches!(with_config_path("version = 9", DIR), Err(EditError::Version(9))));
    }
}
