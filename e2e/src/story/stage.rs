//! Stories about the harness itself: what the others rely on can fail.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::image::{Format, ImageSpec};
use crate::origin::Origin;
use crate::process::{self, Finished};
use crate::stage::{REGION_IP, REGISTRY_HOST, Side, Stage};

pub(super) fn keeps_clients_from_the_registry(stage: &Stage) -> Result<()> {
    let mut origin = Origin::start(stage)?;
    origin.publish(&ImageSpec::multi_layer(Format::Oci).build("team/app", 1))?;

    stage.assert_fenced()?;
    let refusal = copy_directly(stage, &origin, Side::Client, "client")?.refusal()?;
    ensure!(refusal.contains("connect: permission denied"), "refused for another reason: {refusal}");
    ensure!(origin.requests()?.requests.is_empty(), "the client got through");
    Ok(())
}

pub(super) fn log_tells_one_read_from_two(stage: &Stage) -> Result<()> {
    let mut origin = Origin::start(stage)?;
    let image = ImageSpec::multi_layer(Format::Oci).build("team/app", 1);
    origin.publish(&image)?;
    stage.region_dir("region")?;

    copy_directly(stage, &origin, Side::Region, "one")?.success()?;
    let once = origin.requests()?;
    once.assert_each_blob_read_once(&image)?;
    ensure!(once.requests.iter().all(|request| request.remote == REGION_IP));
    ensure!(once.assert_no_blob_read().is_err(), "a read went unseen");

    for name in ["two", "three"] {
        copy_directly(stage, &origin, Side::Region, name)?.success()?;
    }
    ensure!(origin.requests()?.assert_each_blob_read_once(&image).is_err(), "a second read went unseen");
    origin.requests()?.assert_no_blob_read()
}

fn copy_directly(stage: &Stage, origin: &Origin<'_>, side: Side, name: &str) -> Result<Finished> {
    let dir = stage.region_dir(name)?;
    let mut command = stage.command(side, "skopeo");
    fs::copy(origin.ca(), dir.join("ca.crt"))?;
    command.args(["copy", "--src-cert-dir"]).arg(&dir);
    command.arg(format!("docker://{REGISTRY_HOST}/team/app:v1")).arg(format!("dir:{}/image", dir.display()));
    process::run(&stage.logs(), name, command, Duration::from_secs(60))
}
