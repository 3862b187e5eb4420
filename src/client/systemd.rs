//! The proxy in a daemon's environment.

use std::path::{Path, PathBuf};

use super::edit::{proxy_in_unit, with_proxy_environment};
use super::plan::{Edit, Plan, PlanError, own_file};
use super::tree::Tree;

/// Adds a drop-in of our own to the unit.
pub(super) fn proxy<'a>(
    plan: &'a mut Plan,
    tree: &Tree,
    unit: &str,
    peer: &str,
) -> Result<&'a mut Edit, PlanError> {
    refuse_other_proxy(tree, unit, peer)?;
    plan.edit(tree, own_file(dir(unit)), |text| with_proxy_environment(text, peer, NO_PROXY))
}

/// Of several drop-ins the last by name wins: another proxy would be lost, or would win.
pub(super) fn refuse_other_proxy(tree: &Tree, unit: &str, peer: &str) -> Result<(), PlanError> {
    let dir = dir(unit);
    for file in tree.files(&dir, "conf")? {
        if file == own_file(&dir) {
            continue;
        }
        let proxy = proxy_in_unit(&tree.text(&file)?.unwrap_or_default());
        if let Some(proxy) = proxy.filter(|proxy| proxy != peer) {
            return Err(PlanError::ProxyTaken { file, proxy });
        }
    }
    Ok(())
}

fn dir(unit: &str) -> PathBuf {
    Path::new("/etc/systemd/system").join(format!("{unit}.d"))
}

/// Go adds these by itself; other readers of the variables do not.
pub(super) const NO_PROXY: &str = "localhost,127.0.0.0/8";
