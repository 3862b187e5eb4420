//! A node of the lab that an attacker has: an enrolled peer that lies about the blob which all others want.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use flotilla_daemon::config::ManagerConfig;
use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::settings;
use flotilla_e2e_hostile::{Claim, Hostile, Manner};
use flotilla_proto::{Digest, PeerId};

/// What the peer is told on its command line.
#[derive(Debug, Clone, clap::Args)]
pub struct LiarOrders {
    /// Its name, and where its identity is kept.
    #[arg(long)]
    name: PeerId,
    #[arg(long)]
    dir: PathBuf,
    /// What it joins with.
    #[arg(long)]
    join_token_file: PathBuf,
    #[arg(long)]
    address: Ipv4Addr,
    /// What it says that it holds.
    #[arg(long)]
    digest: Digest,
    #[arg(long)]
    size: u64,
    #[arg(long, value_parser = manner)]
    manner: Manner,
    /// Written once it has said so.
    #[arg(long)]
    ready_file: PathBuf,
}

/// Lies until it is killed.
///
/// # Errors
///
/// If it cannot join.
pub fn run(orders: &LiarOrders) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(lie(orders))
}

async fn lie(orders: &LiarOrders) -> Result<()> {
    let LiarOrders { name, dir, address, digest, size, manner, .. } = orders;
    let manager =
        ManagerConfig { join_token_file: Some(orders.join_token_file.clone()), ..ManagerConfig::default() };
    let identity = NodeIdentity::open(dir, name, &manager).await?;
    let listen = SocketAddr::from((*address, PORT));
    let (mut settings, watch) = settings::watch(identity.clone(), dir, listen.to_string())?;
    let watched = tokio::spawn(watch);
    let known = settings.wait_for(|settings| !settings.schedulers.is_empty());
    let known = tokio::time::timeout(PATIENCE, known).await.context("no scheduler is known")??.clone();
    let scheduler = &known.schedulers[0];
    let hostile = Hostile::join(&identity, (&scheduler.id, scheduler.address), listen, *manner).await?;
    let claim = |digest, size| match manner {
        Manner::Forges => Claim::forged(digest, size, 0),
        _ => Claim::made_up(digest, size),
    };
    let claims = [claim(*digest, *size), Claim::made_up(*digest, size + 1)];
    hostile.announce(&claims).await?;
    fs::write(&orders.ready_file, "")?;
    tokio::select! {
        ended = watched => drop(ended?),
        () = hostile.flood(WANTS_PER_SECOND) => {}
        () = hostile.replay(&claims) => {}
    }
    Ok(())
}

/// Parses the manner's name.
///
/// # Errors
///
/// If there is none of that name.
pub(super) fn manner(text: &str) -> Result<Manner> {
    let named = MANNERS.iter().find(|(name, _)| *name == text).map(|(_, manner)| *manner);
    named.with_context(|| format!("`{text}` is none of {}", MANNERS.map(|(name, _)| name).join(", ")))
}

/// As [`manner`] reads it.
pub(super) fn name_of(manner: Manner) -> &'static str {
    let named = MANNERS.iter().find(|(_, other)| *other == manner);
    named.map(|(name, _)| *name).expect("every manner has a name")
}

const MANNERS: [(&str, Manner); 8] = [
    ("silent", Manner::Silent),
    ("mute", Manner::Mute),
    ("drips", Manner::Drips),
    ("garbage", Manner::Garbage),
    ("busy", Manner::Busy),
    ("cuts", Manner::Cuts),
    ("forges", Manner::Forges),
    ("any", Manner::Any),
];

const PORT: u16 = 4006;
const PATIENCE: Duration = Duration::from_secs(20);
const WANTS_PER_SECOND: u32 = 10_000;
