//! Flotilla as an image: built by the real dockerd, run by it, pulled through.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::base;
use crate::client::{Client, Dockerd, FrontDoor, Pull};
use crate::image::{Format, ImageSpec};
use crate::origin::Origin;
use crate::process::{self, Process};
use crate::region::{Peer, Region};
use crate::runner::House;
use crate::stage::Stage;
use crate::wait;

/// The daemons' sample configurations are what `--check` accepts.
pub(super) fn sample_configs_are_valid(stage: &Stage) -> Result<()> {
    let samples = [
        ("manager", "manager.toml"),
        ("scheduler", "scheduler.toml"),
        ("peer", "seed.toml"),
        ("peer", "peer.toml"),
        ("peer", "peer-in-container.toml"),
    ];
    for (daemon, sample) in samples {
        let copy = stage.path(sample);
        fs::copy(docker_dir().join("config").join(sample), &copy).context("copy sample")?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
        let mut command = stage.flotilla();
        command.args([daemon, "--check", "--config"]).arg(&copy);
        process::run(&stage.logs(), sample, command, Duration::from_secs(10))?.success()?;
    }
    Ok(())
}

/// The image's base is made outside the stage, where there is a network.
pub(super) fn prepare(house: &House, store: &Path) -> Result<()> {
    let archive = base::archive(house.dir())?;
    fs::hard_link(archive, store.join("base.tar")).context("link the base")
}

/// A region on the machine, and one more peer of it in a container: started from the image
/// with the sample configuration, healthy, not root, pulled through, stopped in order.
pub(super) fn peer_runs_in_a_container(stage: &Stage) -> Result<()> {
    let dockerd = Dockerd::start_offline(stage)?;
    build(stage, &dockerd)?;
    let mut origin = Origin::start(stage)?;
    let image = ImageSpec::multi_layer(Format::Oci).build("team/app", 1);
    origin.publish(&image)?;
    let region = Region::up(stage, &origin.ca(), 1)?;

    let mut container = run(stage, &dockerd, &region)?;
    wait::until("healthy container", Duration::from_secs(60), || {
        container.check_running()?;
        let health = inspect(&dockerd, "{{.State.Health.Status}}").unwrap_or_default();
        Ok((health == "healthy").then_some(()))
    })?;
    ensure!(inspect(&dockerd, "{{.Config.User}}")? == "10001:10001", "runs as root");

    stage.assert_fenced()?;
    let (client, front_door, peer) = (Client::Skopeo, FrontDoor::Mirror, &contained_peer());
    let pull =
        Pull { stage, client, front_door, peer, image: "team/app:v1", credentials: None, label: "contained" };
    let held = pull.start()?.run()?;
    ensure!(held == image.digests(), "the client holds {held:?}");
    origin.requests()?.assert_each_blob_read_once(&image)?;

    dockerd.run("stop", &["stop", CONTAINER], Duration::from_secs(30))?;
    container.finish(Duration::from_secs(10))?.success()?;
    region.assert_no_error_logged()
}

fn build(stage: &Stage, dockerd: &Dockerd<'_>) -> Result<()> {
    let base = stage.path("base.tar");
    dockerd.run("import", &["import", &base.to_string_lossy(), "base"], BUILD_TIMEOUT)?;
    fs::remove_file(base)?;

    let context = stage.dir("context")?;
    stage.dir("context/docker/bin")?;
    let binary = context.join("docker/bin/flotilla");
    fs::copy(stage.flotilla_path(), &binary).context("copy the binary")?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let dockerfile = docker_dir().join("Dockerfile");
    let (dockerfile, context) = (dockerfile.to_string_lossy(), context.to_string_lossy());
    let bases = ["--build-arg", "BUILD_BASE=base", "--build-arg", "RUNTIME_BASE=base"];
    let arguments =
        [&["build", "--network=none", "--tag=flotilla"], &bases[..], &["--file", &dockerfile, &context]];
    dockerd.run("build", &arguments.concat(), BUILD_TIMEOUT).map(drop)
}

/// Runs the image's own command on the host's network, over the sample configuration and a
/// join token of the region's.
fn run(stage: &Stage, dockerd: &Dockerd<'_>, region: &Region<'_>) -> Result<Process> {
    let config = stage.dir("etc-flotilla")?;
    stage.dir("etc-flotilla/tokens")?;
    fs::copy(docker_dir().join("config/peer.toml"), config.join("peer.toml")).context("copy sample")?;
    let token = config.join("tokens/peer");
    fs::write(&token, region.peer_token()?).context("write join token")?;
    chown(&token, Some(CONTAINER_UID), None)?;

    let mut command = dockerd.docker();
    command.args(["run", "--network=host", "--hostname=contained", "--name", CONTAINER]);
    command.arg("--volume").arg(format!("{}:/etc/flotilla:ro", config.display())).arg("flotilla");
    Process::start(&stage.logs(), "contained", command)
}

fn inspect(dockerd: &Dockerd<'_>, field: &str) -> Result<String> {
    let answer =
        dockerd.run("inspect", &["inspect", "--format", field, CONTAINER], Duration::from_secs(10))?;
    Ok(answer.trim().to_owned())
}

/// The ports of the sample configuration.
fn contained_peer() -> Peer {
    Peer {
        name: "contained".to_owned(),
        role: "peer".to_owned(),
        door: "http://127.0.0.1:4001".to_owned(),
        admin: "http://127.0.0.1:4005".to_owned(),
        ca: PathBuf::new(),
        sni: None,
    }
}

fn docker_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker")
}

const CONTAINER: &str = "contained";
/// Of the Dockerfile's `USER`.
const CONTAINER_UID: u32 = 10_001;
const BUILD_TIMEOUT: Duration = Duration::from_secs(180);
