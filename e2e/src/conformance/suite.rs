//! Plays a table: each row through each door, held against the registry's own answer.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

use super::column::{Account, Column, Way};
use super::judge::Case;
use super::row::Row;
use super::rows::Registry;
use crate::exchange::Server;
use crate::region::Region;
use crate::stage::{REGISTRY_HOST, REGISTRY_IP, STORAGE_HOST, STORAGE_IP, Stage};

/// The doors of a region of two peers, and the registry behind it.
pub(super) struct Suite<'a> {
    stage: &'a Stage,
    registry: Registry,
    columns: Vec<Pair<'a>>,
}

/// What a suite is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) registry: Registry,
    /// The authority of the registry's certificate.
    pub(super) ca: &'a Path,
    /// Each goes through each door.
    pub(super) accounts: &'a [Option<Account>],
    /// Those that tokens are asked for.
    pub(super) repositories: &'a [&'a str],
    /// Whether the registry sends readers of blobs to its object store.
    pub(super) stores_elsewhere: bool,
}

/// A door, and the way around it with the same credential.
struct Pair<'a> {
    door: Column<'a>,
    direct: Column<'a>,
}

/// How a column went.
struct Played<'a> {
    name: &'a str,
    /// In the order of the rows, which all columns have alike.
    results: Vec<(String, Result<(), String>)>,
}

impl<'a> Suite<'a> {
    /// One peer is a mirror and the other takes prefixes, so that both are asked for what they
    /// have not.
    pub(super) fn new(stage: &'a Stage, region: &Region<'_>, plan: Plan<'_>) -> Result<Self> {
        let direct = |account| {
            let server = |address, host| Server::at_origin(stage, address, host, plan.ca);
            let store = plan.stores_elsewhere.then(|| server(STORAGE_IP, STORAGE_HOST)).transpose()?;
            Column::new(Way::Direct(store), server(REGISTRY_IP, REGISTRY_HOST)?, account, plan.repositories)
        };
        let mut columns = Vec::new();
        for (peer, is_mirror) in region.peers().zip([true, false]) {
            for account in plan.accounts {
                let way = if is_mirror { Way::Mirror } else { Way::Prefix };
                let door = Column::new(way, Server::door(peer)?, *account, plan.repositories)?;
                columns.push(Pair { door, direct: direct(*account)? });
            }
        }
        Ok(Self { stage, registry: plan.registry, columns })
    }

    /// Asks all rows, which are made for a column by its index, and reports the table.
    ///
    /// # Errors
    /// If a row fails, with what was asked, expected and got.
    pub(super) fn play(&self, rows: impl Fn(usize) -> Vec<Row>) -> Result<()> {
        let start = Instant::now();
        let column = |(index, pair): (usize, &'_ Pair<'a>)| {
            rows(index).into_iter().map(|row| (row.name.clone(), self.ask(&row, pair))).collect()
        };
        let results = self.columns.iter().enumerate().map(column);
        let names = self.columns.iter().map(|pair| &pair.door.name[..]);
        let played: Vec<_> = names.zip(results).map(|(name, results)| Played { name, results }).collect();
        let seconds = start.elapsed().as_secs_f32();
        self.stage.report(&format!("\n{}{seconds:.1} s\n", table(&played)))?;
        let faults: Vec<_> = played.iter().flat_map(Played::faults).collect();
        if !faults.is_empty() {
            bail!("{} failed:\n{}", faults.len(), faults.join("\n"));
        }
        Ok(())
    }

    fn ask(&self, row: &Row, Pair { door, direct }: &Pair<'_>) -> Result<(), String> {
        let asked = || -> Result<_> {
            let reply = door.run(row)?;
            let own = row.differs.is_none().then(|| direct.run(row)).transpose()?;
            Ok((reply, own))
        };
        let said = |faults: &str| {
            let request = door.on_the_way(&row.request, &row.who);
            let Row { name, why, reference, .. } = row;
            format!("{name} through {}: {request}\n  it matters: {why} ({reference})\n{faults}", door.name)
        };
        let (reply, own) = asked().map_err(|error| said(&format!("  {error:#}")))?;
        let (registry, host) = (self.registry, door.host());
        let faults = Case { row, registry, host, reply: &reply, direct: own.as_ref() }.faults();
        if faults.is_empty() {
            return Ok(());
        }
        let faults: Vec<_> = faults.iter().map(|fault| format!("  {fault}")).collect();
        Err(said(&format!("{}\n  the reply: {reply}", faults.join("\n"))))
    }
}

impl Played<'_> {
    fn faults(&self) -> impl Iterator<Item = &str> {
        self.results.iter().filter_map(|(_, result)| result.as_ref().err().map(String::as_str))
    }
}

/// A line for each row, a word for each column.
fn table(columns: &[Played<'_>]) -> String {
    let rows = columns.first().map(|column| &column.results[..]).unwrap_or_default();
    let mut table = format!("{:NAME_WIDTH$}", format!("{} rows", rows.len()));
    for column in columns {
        let _ = write!(table, "{:WIDTH$}", column.name);
    }
    table.push('\n');
    for (index, (name, _)) in rows.iter().enumerate() {
        let _ = write!(table, "{name:NAME_WIDTH$}");
        for column in columns {
            let word = if column.results[index].1.is_ok() { "ok" } else { "FAILED" };
            let _ = write!(table, "{word:WIDTH$}");
        }
        table.push('\n');
    }
    table
}

const NAME_WIDTH: usize = 32;
const WIDTH: usize = 14;
