//! A configuration that cannot work: the daemon refuses to start and names what is wrong.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flotilla_proto::JoinTokenText;
use flotilla_proto::wire::manager::JoinToken;

use crate::origin::Origin;
use crate::process;
use crate::region::{Peer, Region};
use crate::stage::Stage;

pub(super) fn unknown_key_is_named(stage: &Stage) -> Result<()> {
    let refusal = Newcomer { config: "[door]\nlissten = \"127.0.0.1:0\"\n".to_owned() }.refusal(stage)?;
    ensure!(refusal.contains("lissten") && refusal.contains("listen"), "names no key: {refusal}");
    Ok(())
}

pub(super) fn wrong_join_token_is_refused(stage: &Stage) -> Result<()> {
    let origin = Origin::start(stage)?;
    let region = Region::up(stage, &origin.ca(), 1)?;
    let right: JoinTokenText = region.peer_token()?.parse()?;
    let wrong = JoinToken { secret: "another secret".to_owned(), ..right.token().clone() };

    let refusal = Newcomer::with_token(stage, &JoinTokenText::from(wrong), "127.0.0.1:0")?.refusal(stage)?;
    ensure!(refusal.contains("join token"), "names no join token: {refusal}");
    ensure!(!refusal.contains("another secret"), "shows the secret: {refusal}");
    let newcomer = Newcomer::with_token(stage, &"no token at all", "127.0.0.1:0")?;
    let refusal = newcomer.refusal(stage)?;
    ensure!(refusal.contains("join-token"), "names no file: {refusal}");
    Ok(())
}

pub(super) fn port_in_use_is_named(stage: &Stage) -> Result<()> {
    let origin = Origin::start(stage)?;
    let region = Region::up(stage, &origin.ca(), 1)?;
    let token = region.peer_token()?;
    let taken = region.peers().next().map(Peer::door_authority).context("no peer")?;

    let refusal = Newcomer::with_token(stage, &token, taken)?.refusal(stage)?;
    ensure!(refusal.contains(taken) && refusal.contains("door.listen"), "names no port: {refusal}");
    Ok(())
}

/// A peer that starts beside a region, and should not.
struct Newcomer {
    config: String,
}

impl Newcomer {
    fn with_token(stage: &Stage, token: &dyn std::fmt::Display, door: &str) -> Result<Self> {
        let dir = stage.region_dir("newcomer")?;
        let token_file = dir.join("join-token");
        fs::write(&token_file, token.to_string())?;
        let config = format!(
            "name = \"newcomer\"\ndata_dir = \"{}/state\"\n\
             [manager]\njoin_token_file = \"{}\"\n[door]\nlisten = \"{door}\"\n\
             [transport]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
            dir.display(),
            token_file.display(),
        );
        Ok(Self { config })
    }

    fn refusal(&self, stage: &Stage) -> Result<String> {
        let file = stage.region_dir("newcomer")?.join("config.toml");
        fs::write(&file, &self.config)?;
        start_peer(stage, &file)
    }
}

/// What a peer says that refuses to start: the end of its words in any form of log.
fn start_peer(stage: &Stage, config: &Path) -> Result<String> {
    let mut command = stage.flotilla();
    command.arg("peer").arg("--config").arg(config);
    process::run(&stage.logs(), "newcomer", command, Duration::from_secs(10))?.refusal()
}
