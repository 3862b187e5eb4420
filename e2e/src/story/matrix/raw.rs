//! Requests that no client makes by itself: a credential directly at a blob that the node holds.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::setting::{OTHER_ROBOT, ROBOT, SECOND_ROBOT, Setting, WRONG_SECRET};
use crate::client::{Curl, Heard};
use crate::image::{Format, Image, ImageSpec};
use crate::wait;

/// Blobs are for those whom the registry has let in, and no longer than it does.
pub(super) fn requests(setting: &Setting<'_>) -> Result<()> {
    let image = ImageSpec { format: Format::Oci, layer_lens: vec![300_000] }.build("priv/raw", 1);
    setting.harbor.publish(&image, "v1");
    let door = Raw { setting, image: &image };
    door.let_in().context("let in")?;
    door.refused().context("refused")?;
    door.removed_robot().context("a robot that was removed")?;
    door.token_at_its_end().context("a token at its end")
}

struct Raw<'a> {
    setting: &'a Setting<'a>,
    image: &'a Image,
}

impl Raw<'_> {
    /// After this the node holds the layer.
    fn let_in(&self) -> Result<()> {
        let robot = basic(ROBOT);
        ensure!(self.manifest(Some(&robot))?.status == 200, "no manifest");
        self.assert_layer(&self.layer(Some(&robot))?)
    }

    /// The registry's own words come back, and no byte of the layer, nor does the registry send any.
    fn refused(&self) -> Result<()> {
        let harbor = &self.setting.harbor;
        let expired = bearer(&harbor.token(Some(("robot$x", "secret")), &self.image.repository));
        harbor.expire_tokens();
        let stranger = bearer(&harbor.token(None, &self.image.repository));
        let credentials = [
            ("no credential", None),
            ("a wrong secret", Some(basic(WRONG_SECRET))),
            ("another project's robot", Some(basic(OTHER_ROBOT))),
            ("an expired token", Some(expired)),
            ("a token for nobody", Some(stranger)),
            ("no token at all", Some(bearer("guessed"))),
        ];
        let before = harbor.log();
        for (who, credential) in &credentials {
            assert_refused(&self.layer(credential.as_deref())?).with_context(|| format!("{who}, layer"))?;
            assert_refused(&self.manifest(credential.as_deref())?)
                .with_context(|| format!("{who}, manifest"))?;
        }
        self.setting.log_since(&before)?.assert_no_blob_read()
    }

    /// Its grant ends at the latest when the registry is seen to refuse it.
    fn removed_robot(&self) -> Result<()> {
        let robot = basic(SECOND_ROBOT);
        self.setting.harbor.add_robot("robot$gone", "secret of the gone", &["priv"]);
        ensure!(self.manifest(Some(&robot))?.status == 200, "no manifest");
        self.assert_layer(&self.layer(Some(&robot))?)?;
        self.setting.harbor.remove_account("robot$gone");
        assert_refused(&self.manifest(Some(&robot))?)?;
        assert_refused(&self.layer(Some(&robot))?)
    }

    /// A grant does not outlive the token that it was given for.
    fn token_at_its_end(&self) -> Result<()> {
        let harbor = &self.setting.harbor;
        harbor.configure(|harbor| {
            harbor.token_life = Duration::from_secs(4);
            harbor.token_leeway = Duration::ZERO;
        });
        let token = bearer(&harbor.token(Some(("robot$x", "secret")), &self.image.repository));
        self.assert_layer(&self.layer(Some(&token))?)?;
        let refused = wait::until("the token's end", Duration::from_secs(20), || {
            Ok(Some(self.layer(Some(&token))?).filter(|heard| heard.status != 200))
        })?;
        assert_refused(&refused)
    }

    fn manifest(&self, authorization: Option<&str>) -> Result<Heard> {
        self.get(authorization, &format!("{}/manifests/v1", self.image.repository))
    }

    fn layer(&self, authorization: Option<&str>) -> Result<Heard> {
        let layer = self.image.layers[0].digest();
        self.get(authorization, &format!("{}/blobs/{layer}", self.image.repository))
    }

    fn get(&self, authorization: Option<&str>, path: &str) -> Result<Heard> {
        let &Setting { stage, front_door, .. } = self.setting;
        let peer = self.setting.region.peers().next().context("no peer")?;
        Curl { stage, peer, front_door, authorization }.get(path)
    }

    fn assert_layer(&self, heard: &Heard) -> Result<()> {
        ensure!(heard.status == 200, "answered {}", heard.status);
        ensure!(heard.body == self.image.layers[0].content(), "other bytes");
        Ok(())
    }
}

fn assert_refused(heard: &Heard) -> Result<()> {
    ensure!(heard.status == 401, "answered {}", heard.status);
    let message = heard.error_message()?;
    // Harbor's two ways to say it.
    ensure!(message.starts_with("unauthorized") || message.starts_with("authorize header"), "{message}");
    Ok(())
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}
