//! Failures that last: clients are told in time, get nothing wrong, and nothing of it stays once
//! the registry is right again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Setting, large};
use crate::harbor::{Certificate, Host, On, What};
use crate::image::Image;
use crate::stage::{REGISTRY_HOST, Stage};
use crate::wait;

/// Wrong bytes, and a web page in place of a layer: both come with 200.
pub(in crate::story) fn wrong_content_reaches_no_client(stage: &Stage) -> Result<()> {
    let setting = Setting::lay(stage, 3)?;
    for (seed, name, what) in [(1, "wrong-bytes", What::WrongBytes), (2, "html", What::Html200)] {
        let image = setting.image(name, seed);
        let fault = setting.harbor.fault(On::blobs().get().digest(large(&image)), what);
        let pulls = setting.pulls(&image, &format!("{name}-bad"))?;
        ensure!(pulls.iter().all(Result::is_err), "{name}: a client accepted it");
        ensure!(fault.hits() > 0, "{name}: the fault struck nothing");
        assert_no_whole_layer(&setting, &image).context(name)?;
        fault.clear();
        assert_comes_back(&setting, &image).context(name)?;
    }
    Ok(())
}

/// Neither a certificate for another name nor one by a stranger is taken, and the answer says so.
pub(in crate::story) fn bad_certificate_is_named(stage: &Stage) -> Result<()> {
    let mut setting = Setting::lay(stage, 1)?;
    let image = setting.image("certificate", 1);
    for certificate in [Certificate::OtherName, Certificate::UnknownAuthority] {
        show(&mut setting, certificate)?;
        let before = setting.harbor.log();
        assert_told(&setting, &image, "certificate").with_context(|| format!("{certificate:?}"))?;
        let log = setting.harbor.log().since(&before);
        ensure!(log.requests.is_empty(), "{certificate:?}: asked all the same:\n{log}");
    }
    show(&mut setting, Certificate::Right)?;
    assert_comes_back(&setting, &image)
}

/// A registry that takes the request and says nothing: first of all, then of blobs alone.
pub(in crate::story) fn hang_is_told_in_time(stage: &Stage) -> Result<()> {
    let setting = Setting::lay(stage, 1)?;
    let image = setting.image("hang", 1);
    let fault = setting.harbor.fault(On::manifests(), What::Hang);
    assert_told(&setting, &image, REGISTRY_HOST).context("manifest")?;
    fault.clear();

    let fault = setting.harbor.fault(On::blobs(), What::Hang);
    let (heard, took) = setting.get(&layer_path(&image))?;
    ensure!(matches!(heard.status, 502..=504), "blob: answered {}", heard.status);
    ensure!(took < BOUND, "blob: answered after {took:?}");
    fault.clear();
    assert_comes_back(&setting, &image)
}

/// Has every connection end and the next be made under this certificate.
fn show(setting: &mut Setting<'_>, certificate: Certificate) -> Result<()> {
    setting.harbor.show(Host::Registry, certificate)?;
    setting.harbor.stop();
    setting.harbor.resume(setting.stage)
}

/// The manifest is answered in time by an error whose message has `word`.
fn assert_told(setting: &Setting<'_>, image: &Image, word: &str) -> Result<()> {
    let (heard, took) = setting.get(&format!("{}/manifests/v1", image.repository))?;
    ensure!(matches!(heard.status, 502..=504), "answered {}", heard.status);
    ensure!(took < BOUND, "answered after {took:?}");
    let message = heard.error_message()?;
    ensure!(message.contains(REGISTRY_HOST) && message.contains(word), "says no {word}: {message}");
    Ok(())
}

fn assert_no_whole_layer(setting: &Setting<'_>, image: &Image) -> Result<()> {
    let (heard, _) = setting.get(&layer_path(image))?;
    let size = image.layers[0].size();
    ensure!(!heard.is_whole || heard.status != 200, "a whole answer came");
    ensure!((heard.body.len() as u64) < size, "a complete wrong body was released");
    Ok(())
}

/// Once the registry is right, so is everything else, at every node.
fn assert_comes_back(setting: &Setting<'_>, image: &Image) -> Result<()> {
    let name = image.repository.replace('/', "-");
    let mut rounds = 0;
    wait::until("a right pull once the registry is right", Duration::from_secs(60), || {
        rounds += 1;
        Ok(setting.pull_everywhere(image, &format!("{name}-right-{rounds}")).ok())
    })
}

fn layer_path(image: &Image) -> String {
    format!("{}/blobs/{}", image.repository, large(image))
}

/// Headers or a clear error come within this.
const BOUND: Duration = Duration::from_secs(10);
