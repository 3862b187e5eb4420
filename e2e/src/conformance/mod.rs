//! The distribution spec's conformance suites, as far as they read, through the front doors.
//!
//! Neither suite can be installed where tests run, and neither compares a byte when it may not
//! push. So their checks are rows of a table here ([`rows`]). Each row is asked through each
//! door, and of the registry itself on its own side of the stage. It is good if the reply is
//! what the row wants, what every reply through a door must be, and the registry's own
//! ([`judge`]).

mod column;
mod content;
mod judge;
mod push;
mod row;
mod rows;
mod security;
mod suite;

use anyhow::{Context as _, Result, ensure};

use self::column::Account;
use self::content::{BLOCKED, Content, OTHER, REPOSITORY};
use self::rows::{Registry, Subject};
pub(crate) use self::security::on_a_warm_cache;
use self::suite::{Plan, Suite};
use crate::exchange::Server;
use crate::harbor::{Access, Harbor};
use crate::origin::{Origin, Setup, USER};
use crate::region::Region;
use crate::stage::{REGION_IP, REGISTRY_HOST, REGISTRY_IP, Stage};

/// Plays the table in front of the fake Harbor, whose projects are private.
pub(crate) fn of_harbor(stage: &Stage) -> Result<()> {
    let content = Content::new();
    let harbor = Harbor::start(stage)?;
    fill_harbor(&harbor, &content);
    let (name, password) = ROBOT;
    let account = |by_token| Some(Account { name, password, by_token });
    let plan = Plan {
        registry: Registry::Harbor,
        ca: harbor.ca(),
        accounts: &[account(true), account(false)],
        repositories: &[REPOSITORY, OTHER, BLOCKED],
        stores_elsewhere: false,
    };
    play(stage, plan, &content, Some("Bearer"))?;
    let log = harbor.log();
    let pushes = log.filter(|request| !matches!(&request.method[..], "GET" | "HEAD"));
    ensure!(pushes.requests.is_empty(), "Harbor was asked for more than reads:\n{pushes}");
    // Had the manifest granted it, nobody would have asked for leave.
    let foreign = content.foreign.digest().to_string();
    let asked = log.from(REGION_IP).filter(|request| request.path.contains(&foreign));
    let for_leave = asked.filter(|request| request.range.as_deref() == Some("bytes=0-0"));
    ensure!(!asked.requests.is_empty() && asked == for_leave, "a layer with urls was granted:\n{asked}");
    Ok(())
}

/// Plays the table in front of a docker-registry.
pub(crate) fn of_docker_registry(stage: &Stage, setup: Setup) -> Result<()> {
    let content = Content::new();
    let mut origin = Origin::start(stage)?;
    let ca = origin.ca();
    let refused = push::all(&Server::at_origin(stage, REGISTRY_IP, REGISTRY_HOST, &ca)?, &content)?;
    stage.report(&format!("not taken by the registry when it was filled: {refused:#?}\n"))?;
    origin.set_up(setup)?;
    let (name, password) = USER;
    let account = (setup == Setup::Htpasswd).then_some(Account { name, password, by_token: false });
    let plan = Plan {
        registry: Registry::DockerRegistry,
        ca: &ca,
        accounts: &[account],
        repositories: &[],
        stores_elsewhere: setup == Setup::S3,
    };
    play(stage, plan, &content, account.map(|_| "Basic"))
}

/// Plays all rows; `challenge` is the scheme that strangers are shown.
fn play(stage: &Stage, plan: Plan<'_>, content: &Content, challenge: Option<&'static str>) -> Result<()> {
    let region = Region::up(stage, plan.ca, 2)?;
    stage.assert_fenced()?;
    let registry = plan.registry;
    Suite::new(stage, &region, plan)?.play(|column| {
        let loose = content.loose.get(column).expect("there is one for each column");
        rows::all(Subject { content, registry, challenge, loose })
    })?;
    region.assert_no_error_logged().context("all rows are good, but")
}

fn fill_harbor(harbor: &Harbor, content: &Content) {
    for project in ["priv", "blocked"] {
        harbor.add_project(project, Access::Private);
    }
    harbor.add_robot(ROBOT.0, ROBOT.1, &["priv", "blocked"]);
    for (image, tag) in content.images() {
        harbor.publish(image, tag);
    }
    for blob in content.blobs() {
        harbor.publish_blob(REPOSITORY, blob.content());
    }
    let (sha512, bytes) = &content.other_algorithm;
    harbor.publish_blob_as(REPOSITORY, sha512, bytes);
    for manifest in &content.manifests {
        harbor.publish_manifest(REPOSITORY, manifest.tag, manifest.media_type, manifest.blob.content());
    }
    let image = &content.image;
    harbor.publish_manifest(BLOCKED, "v1", image.media_type, image.manifest.content());
    harbor.set_policy("blocked", Some("current image with 3 vulnerabilities cannot be pulled"));
}

const ROBOT: (&str, &str) = ("robot$x", "secret");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::content::MAX_COLUMNS;
    use super::*;

    #[test]
    fn no_row_is_without_name_reason_reference_and_expectation() {
        let content = Content::new();
        for registry in [Registry::Harbor, Registry::DockerRegistry] {
            let subject =
                Subject { content: &content, registry, challenge: Some("Basic"), loose: &content.loose[0] };
            let rows = rows::all(subject);
            let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
            assert_eq!(names.len(), rows.len(), "a name stands for two rows");
            for row in &rows {
                assert!(!row.name.is_empty() && !row.why.is_empty() && !row.reference.is_empty(), "{row:?}");
                assert!(!row.expects.is_empty(), "{} expects nothing", row.name);
                let is_judged = row.differs.is_none() || row.docker_registry_fails.is_none();
                assert!(is_judged, "{} is held against nothing at docker-registry", row.name);
            }
        }
    }

    #[test]
    fn there_is_a_loose_blob_for_each_column() {
        assert_eq!(Content::new().loose.len() as u64, MAX_COLUMNS);
    }
}
