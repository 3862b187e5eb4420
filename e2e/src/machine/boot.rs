//! Process 1 of a machine until systemd is: lays the root as a container manager does
//! (<https://systemd.io/CONTAINER_INTERFACE>) and becomes `/sbin/init`.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use rustix::process::pivot_root;

/// Becomes the systemd of the machine that lies in `dir` (see [`super::Machine`]), whose files over
/// the shared `base` are its own.
///
/// # Errors
/// If a mount or the start of `/sbin/init` fails; it does not return otherwise.
pub fn boot(base: &Path, dir: &Path) -> Result<Infallible> {
    let root = dir.join("root");
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}\0",
        base.display(),
        dir.join("upper").display(),
        dir.join("work").display()
    );
    let layers = CStr::from_bytes_with_nul(layers.as_bytes()).context("a path with a zero byte")?;
    mount("overlay", &root, "overlay", MountFlags::empty(), layers).context("mount the root")?;
    mount("proc", root.join("proc"), "proc", SAFE, None).context("mount /proc")?;
    keep_kernel_settings(&root.join("proc/sys"))?;
    lay_devices(&root.join("dev"))?;
    for name in ["run", "tmp"] {
        mount("tmpfs", root.join(name), "tmpfs", MountFlags::empty(), None).context("mount a tmpfs")?;
    }
    let sys = root.join("sys");
    mount("sysfs", &sys, "sysfs", SAFE, None).context("mount /sys")?;
    lay_control_groups(&sys.join("fs/cgroup"))?;
    // systemd takes devices for the host's business where this cannot be written.
    mount_remount(&sys, SAFE | MountFlags::BIND | MountFlags::RDONLY, c"").context("close /sys")?;

    std::env::set_current_dir(&root).context("enter the root")?;
    // The old root comes to lie above the new one, and goes: pivot_root(2), "pivot_root(".", ".")".
    pivot_root(".", ".").context("change the root")?;
    unmount(".", UnmountFlags::DETACH).context("leave the old root")?;
    let error = Command::new("/sbin/init").env_clear().env("container", "flotilla-e2e").exec();
    Err(error).context("start /sbin/init")
}

/// Leaves the settings of the host's kernel alone; the network's are the machine's own.
fn keep_kernel_settings(sys: &Path) -> Result<()> {
    let net = sys.join("net");
    mount_bind(sys, sys).context("bind /proc/sys")?;
    mount_bind(&net, &net).context("bind /proc/sys/net")?;
    mount_remount(sys, SAFE | MountFlags::BIND | MountFlags::RDONLY, c"").context("close /proc/sys")
}

fn lay_devices(dev: &Path) -> Result<()> {
    mount("tmpfs", dev, "tmpfs", MountFlags::NOSUID, c"mode=755").context("mount /dev")?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        File::create(dev.join(name))?;
        mount_bind(Path::new("/dev").join(name), dev.join(name)).with_context(|| format!("bind {name}"))?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name))?;
    }
    mount("devpts", dev.join("pts"), "devpts", MountFlags::NOSUID, c"newinstance,ptmxmode=0666")
        .context("mount /dev/pts")?;
    mount("tmpfs", dev.join("shm"), "tmpfs", SAFE, None).context("mount /dev/shm")?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    symlink("/proc/self/fd", dev.join("fd"))?;
    Ok(())
}

fn lay_control_groups(target: &Path) -> Result<()> {
    if is_unified() {
        return mount("cgroup2", target, "cgroup2", SAFE, None).context("mount the control groups");
    }
    mount("tmpfs", target, "tmpfs", SAFE, c"mode=755").context("mount the control groups")?;
    for (name, kind, options) in
        [("systemd", "cgroup", Some(c"none,name=systemd")), ("unified", "cgroup2", None)]
    {
        let dir = target.join(name);
        fs::create_dir(&dir)?;
        mount(kind, &dir, kind, SAFE, options).with_context(|| format!("mount the hierarchy {name}"))?;
    }
    Ok(())
}

/// A shell's script that enters the control group `name` of each hierarchy that systemd needs and
/// becomes its arguments. Two machines in one group would end each other's services.
pub(super) fn in_own_groups(name: &str) -> String {
    let groups: Vec<_> = hierarchies().iter().map(|it| it.join(OWN_GROUP).join(name)).collect();
    let groups: Vec<_> = groups.iter().map(|group| group.to_string_lossy()).collect();
    let groups = groups.join(" ");
    format!("for group in {groups}; do mkdir -p $group; echo 0 >$group/cgroup.procs; done; exec \"$@\"")
}

/// The host's hierarchies that systemd keeps its units in.
fn hierarchies() -> Vec<PathBuf> {
    let all = Path::new("/sys/fs/cgroup");
    if is_unified() { vec![all.to_owned()] } else { vec![all.join("systemd"), all.join("unified")] }
}

fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Removes the control groups that a machine left, as far as nothing runs in them.
pub(super) fn remove_control_groups(name: &str) {
    for hierarchy in hierarchies() {
        remove_groups(&hierarchy.join(OWN_GROUP).join(name));
        // Unless another machine is there.
        let _ = fs::remove_dir(hierarchy.join(OWN_GROUP));
    }
}

/// A group goes when those below it have gone and nothing runs in it; its files are the kernel's.
fn remove_groups(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_groups(&entry.path());
    }
    let _ = fs::remove_dir(group);
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const OWN_GROUP: &str = "flotilla-e2e";
