//! A client that may not have an image which the whole region holds, and one that may.

use anyhow::{Context as _, Result, ensure};

use super::cell::{Images, assert_holds};
use super::setting::{OTHER_ROBOT, ROBOT, SECOND_ROBOT, Setting, WRONG_SECRET};
use crate::client::{Client, Pull, Ready};
use crate::harbor::Harbor;

/// Who is refused, whatever the region holds.
const REFUSED: [(&str, Option<&str>); 4] = [
    ("no credential", None),
    ("a wrong secret", Some(WRONG_SECRET)),
    ("another project's robot", Some(OTHER_ROBOT)),
    ("a robot that was removed", Some(SECOND_ROBOT)),
];

/// One client, refused for one reason after the other, then let in: no refusal sticks.
pub(super) fn refused_and_then_warm(setting: &Setting<'_>, client: Client, images: &Images) -> Result<()> {
    let harbor = &setting.harbor;
    let before = harbor.log();
    harbor.remove_account("robot$gone");
    let reference = format!("{}:v1", images.plain.repository);
    let multi = format!("{}:v1", images.multi.repository);
    let pull = setting.pull(client, &reference, "warm");
    let ready = pull.start()?;
    for (who, credentials) in REFUSED {
        ready.refused(&Pull { credentials, ..pull }).context(who)?;
    }
    under_policy(harbor, &ready, &pull).context("policy, warm")?;
    under_policy(harbor, &ready, &Pull { image: &multi, ..pull }).context("policy, cold")?;

    let pulls = harbor.pulls(&images.plain.repository);
    let held = ready.run().context("warm")?;
    assert_holds(&held, &images.plain.digests())?;
    let pulls = harbor.pulls(&images.plain.repository) - pulls;
    ensure!(pulls == 1, "Harbor counts {pulls} pulls for one");
    let log = setting.log_since(&before)?;
    log.assert_no_blob_read().with_context(|| log.to_string())
}

/// Harbor's policy is judged at each pull, and the user reads what it says.
fn under_policy(harbor: &Harbor, ready: &Ready<'_>, pull: &Pull<'_>) -> Result<()> {
    harbor.set_policy("priv", Some(POLICY));
    let shown = ready.refused(&Pull { credentials: Some(ROBOT), ..*pull });
    harbor.set_policy("priv", None);
    let (shown, expected) = (shown?, shown_of_policy(pull.client));
    ensure!(shown.contains(expected), "the user is not shown {expected:?}: {shown}");
    Ok(())
}

/// ctr asks with HEAD, whose answer has no words.
fn shown_of_policy(client: Client) -> &'static str {
    match client {
        Client::Docker | Client::Skopeo | Client::Buildah | Client::Podman => POLICY,
        Client::Ctr => "412",
    }
}

const POLICY: &str = "current image with 3 vulnerabilities cannot be pulled";
