//! A small Debian to build images on where none can be pulled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The archive of a minimal Debian of this machine's release, made once and kept in
/// `cache`. The first time needs the network.
pub fn archive(cache: &Path) -> Result<PathBuf> {
    let archive = cache.join("base.tar");
    if archive.is_file() {
        return Ok(archive);
    }
    let root = root(cache, "base", &[])?;
    let unfinished = cache.join("base.tar.unfinished");
    run(Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&unfinished)
        .arg("--directory")
        .arg(&root)
        .args(["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "."]))?;
    fs::remove_dir_all(&root).context("remove the unpacked base")?;
    fs::rename(&unfinished, &archive)?;
    Ok(archive)
}

/// The directory of a minimal Debian with `packages` beside what must be, made once and kept as
/// `name` in `cache`.
pub fn root(cache: &Path, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let release = release()?;
    let root = cache.join(format!("{name}-{release}"));
    if root.is_dir() {
        return Ok(root);
    }
    let unfinished = cache.join(format!("{name}.unfinished"));
    if unfinished.is_dir() {
        fs::remove_dir_all(&unfinished).context("remove an unfinished base")?;
    }
    fs::create_dir_all(&unfinished)?;
    let mut command = Command::new("debootstrap");
    command.arg("--variant=minbase");
    if !packages.is_empty() {
        command.arg(format!("--include={}", packages.join(",")));
    }
    run(command.arg(release).arg(&unfinished))?;
    fs::rename(&unfinished, &root)?;
    Ok(root)
}

/// The code name of this machine's release: what is built here runs on it.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no release")?.to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
