//! Starts each story in namespaces of its own and says how it went.
//!
//! A story is this same binary again under `unshare`, as process 1 of its process
//! namespace: when it ends, however it ends, the kernel ends all it started. It ends by
//! itself when its standard input does, so that it does not outlive this process.

use std::env;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};

use crate::process;
use crate::region::log_files;
use crate::stage::{REPORT, Stage};
use crate::story::{ALL, Story};
use crate::wait;

/// Tells the stories that `arguments` choose, one after the other unless asked otherwise.
pub fn run_all(mut arguments: Arguments) -> ExitCode {
    arguments.test_threads.get_or_insert(1);
    let house = match House::for_stories(&arguments) {
        Ok(house) => house,
        Err(error) => {
            eprintln!("flotilla-e2e: {error:#}");
            return ExitCode::from(2);
        }
    };
    let trials = ALL.iter().map(|story| {
        let house = house.clone();
        let is_missing = story.program.is_some_and(|variable| env::var_os(variable).is_none());
        Trial::test(story.name, move || house.tell(story).map_err(|error| format!("{error:#}").into()))
            .with_ignored_flag(is_missing)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Tells one story in the namespaces of this process.
pub fn run_on_stage(name: &str, store: &Path, flotilla: &Path) -> ExitCode {
    end_with_standard_input(store);
    let told = ALL.iter().find(|story| story.name == name).context("no such story").and_then(|story| {
        let stage = Stage::set(store, flotilla).context("set the stage")?;
        (story.tell)(&stage)
    });
    let Err(error) = told else { return ExitCode::SUCCESS };
    eprintln!("{error:#}\n");
    print_log_tails(store);
    ExitCode::FAILURE
}

/// Ends this process when its standard input does: at the end of who started it, or of that
/// one's patience.
pub(crate) fn end_with_standard_input(store: &Path) {
    let store = store.to_owned();
    std::thread::spawn(move || {
        // Nobody writes: a read ends when the runner lets go, by an end of file or an error alike.
        let _ = std::io::stdin().read(&mut [0]);
        print_log_tails(&store);
        std::process::exit(1);
    });
}

/// Prints how each program's log ends.
pub(crate) fn print_log_tails(store: &Path) {
    for log in ["logs", "region"].iter().flat_map(|dir| log_files(&store.join(dir))) {
        eprint!("{}", process::tail(&log));
    }
}

/// What all stories share: the executable under test, and where files are kept.
#[derive(Debug, Clone)]
pub struct House {
    flotilla: PathBuf,
    /// `<target>/e2e`: a directory per story, and what is kept between runs.
    dir: PathBuf,
}

fn flotilla(target: &Path) -> PathBuf {
    env::var_os(FLOTILLA_BIN).map_or_else(|| target.join("release/flotilla"), PathBuf::from)
}

fn build(target: &Path) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--bin", "flotilla", "--target-dir"]).arg(target);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "flotilla does not build");
    Ok(())
}

fn check_programs() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let missing = |program: &str| !env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let mut packages: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| missing(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    ensure!(packages.is_empty(), "programs are missing: apt-get install {}", packages.join(" "));
    Ok(())
}

impl House {
    /// A house that can list stories, or one that can tell them.
    fn for_stories(arguments: &Arguments) -> Result<Self> {
        if arguments.list { Self::find() } else { Self::prepare() }
    }

    /// Checks what is needed and builds what is missing.
    pub(crate) fn prepare() -> Result<Self> {
        let house = Self::find()?;
        ensure!(
            rustix::process::geteuid().is_root(),
            "stories need root: they make namespaces and start dockerd"
        );
        check_programs()?;
        if env::var_os(FLOTILLA_BIN).is_none() {
            build(house.dir.parent().context("the directory is in the target directory")?)?;
        }
        let flotilla =
            house.flotilla.canonicalize().with_context(|| format!("find {}", house.flotilla.display()))?;
        Ok(Self { flotilla, ..house })
    }

    fn find() -> Result<Self> {
        let exe = env::current_exe().context("find this binary")?;
        let target = exe.ancestors().nth(2).context("this binary is not in a target directory")?;
        Ok(Self { flotilla: flotilla(target), dir: target.join("e2e") })
    }

    /// The binary under test.
    pub(crate) fn flotilla(&self) -> &Path {
        &self.flotilla
    }

    /// Where files go.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tells `story` on a stage of its own. Its directory stays if it fails.
    fn tell(&self, story: &Story) -> Result<()> {
        let store = self.dir.join("story").join(story.name);
        remove_dir(&store)?;
        fs::create_dir_all(&store).context("create the story's directory")?;
        (story.prepare)(self, &store).context("prepare")?;

        let words = store.join("story.txt");
        let mut child = self.start(story, &store, &words)?;
        let lifeline = child.stdin.take();
        let ended = wait::until("end of the story", story.deadline, || Ok(child.try_wait()?));
        drop(lifeline);
        let status = child.wait()?;
        let words = fs::read_to_string(&words).unwrap_or_default();
        if let Ok(report) = fs::read_to_string(store.join(REPORT)) {
            print!("{report}");
        }
        ended.with_context(|| words.clone())?;
        if !status.success() {
            bail!("{words}\nits files are in {}", store.display());
        }
        print!("{words}");
        remove_dir(&store)
    }

    fn start(&self, story: &Story, store: &Path, words: &Path) -> Result<Child> {
        let words = File::create(words)?;
        in_namespaces()?
            .args(["on-stage", story.name])
            .args([store, &self.flotilla])
            .stdout(words.try_clone()?)
            .stderr(words)
            .spawn()
            .context("run unshare")
    }
}

/// This binary again, in mount, network and process namespaces of its own. It is to end when its
/// standard input does, see [`end_with_standard_input`].
pub(crate) fn in_namespaces() -> Result<Command> {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--net"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(env::current_exe()?)
        .stdin(Stdio::piped());
    Ok(command)
}

/// Removes a directory; that there is none is no error.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// A binary to test, in place of the one that cargo builds.
const FLOTILLA_BIN: &str = "FLOTILLA_BIN";

/// What stories run, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("buildah", "buildah"),
    ("podman", "podman"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("curl", "curl"),
    ("debootstrap", "debootstrap"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
];
