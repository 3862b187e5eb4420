//! A private project of a Harbor.

use anyhow::{Context as _, Result, ensure};

use crate::client::{Client, FrontDoor, Pull};
use crate::harbor::{Access, Auth, Harbor, Host};
use crate::image::{Format, ImageSpec};
use crate::region::Region;
use crate::stage::Stage;

pub(super) fn private_pull(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    harbor.add_robot("robot$x", "secret", &["priv"]);
    let image = ImageSpec::multi_layer(Format::Oci).build("priv/app", 1);
    harbor.publish(&image, "v1");
    let region = Region::up(stage, harbor.ca(), 1)?;
    stage.assert_fenced()?;

    let pull = Pull {
        stage,
        client: Client::Skopeo,
        front_door: FrontDoor::Proxy,
        peer: region.peers().next().context("no peer")?,
        image: "priv/app:v1",
        credentials: Some("robot$x:secret"),
        label: "private",
    };
    let held = pull.start()?.run()?;
    ensure!(held == image.digests(), "the client holds {held:?}, the registry {:?}", image.digests());
    let log = harbor.log();
    log.assert_each_blob_read_once(&image).with_context(|| log.to_string())?;
    let anonymous = log.filter(|request| request.auth == Auth::Anonymous && request.status < 400);
    ensure!(anonymous.requests.is_empty(), "something came without a credential:\n{anonymous}");
    ensure!(log.to(Host::Storage).requests.is_empty(), "nobody was sent to the object store:\n{log}");
    region.assert_no_error_logged()
}
