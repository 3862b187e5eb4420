//! curl: one request through a door, with any credential, and all that comes back.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::FrontDoor;
use crate::region::Peer;
use crate::stage::{REGISTRY_HOST, Side, Stage};

/// Who asks, through which door.
#[derive(Debug, Clone, Copy)]
pub struct Curl<'a> {
    /// Where.
    pub stage: &'a Stage,
    /// Through whom.
    pub peer: &'a Peer,
    /// Which way in.
    pub front_door: FrontDoor,
    /// The value of the `Authorization` header, if it is sent.
    pub authorization: Option<&'a str>,
}

/// What came back.
#[derive(Debug)]
pub struct Heard {
    /// The status code; 0 if none came.
    pub status: u16,
    /// What came of the body.
    pub body: Vec<u8>,
    /// Whether the answer came to its end.
    pub is_whole: bool,
}

impl Curl<'_> {
    /// GETs `/v2/<path>` of the registry.
    pub fn get(&self, path: &str) -> Result<Heard> {
        self.run(self.command(path)?)
    }

    /// GETs any URL by way of the proxy door.
    pub fn get_by_proxy(&self, url: &str) -> Result<Heard> {
        let mut command = self.stage.command(Side::Client, "curl");
        command.args(["--proxy", &self.peer.door, url]).arg("--cacert").arg(&self.peer.ca);
        self.run(command)
    }

    fn run(&self, mut command: Command) -> Result<Heard> {
        command.args(["--silent", "--max-time", MAX_SECONDS, "--header", ACCEPT]);
        if let Some(authorization) = self.authorization {
            command.args(["--header", &format!("Authorization: {authorization}")]);
        }
        command.args(["--write-out", "\n%{http_code}"]);
        let output = command.output().context("run curl")?;
        let end = output.stdout.iter().rposition(|byte| *byte == b'\n').context("curl wrote no status")?;
        let status = std::str::from_utf8(&output.stdout[end + 1..])?.parse().context("read curl's status")?;
        Ok(Heard { status, body: output.stdout[..end].to_vec(), is_whole: output.status.success() })
    }

    fn command(&self, path: &str) -> Result<Command> {
        let Self { stage, peer, front_door, .. } = self;
        let mut command = stage.command(Side::Client, "curl");
        let tls = format!("https://{REGISTRY_HOST}/v2/{path}");
        let door = peer.door_authority();
        match front_door {
            FrontDoor::Proxy => {
                command.args(["--proxy", &peer.door, &tls]).arg("--cacert").arg(&peer.ca);
            }
            FrontDoor::Mirror => {
                command.arg(format!("http://{door}/v2/{path}?ns={REGISTRY_HOST}"));
            }
            FrontDoor::Prefix => {
                command.arg(format!("http://{door}/v2/{REGISTRY_HOST}/{path}"));
            }
            FrontDoor::Sni => {
                let resolve = format!("{REGISTRY_HOST}:443:{}", peer.sni()?);
                command.args(["--resolve", &resolve, &tls]).arg("--cacert").arg(&peer.ca);
            }
        }
        Ok(command)
    }
}

impl Heard {
    /// The message of an error in the registries' own form (OCI distribution-spec, "Error Codes").
    pub fn error_message(&self) -> Result<String> {
        let text = String::from_utf8_lossy(&self.body);
        let body: Value = serde_json::from_str(&text).with_context(|| format!("not an OCI error: {text}"))?;
        let error = &body["errors"][0];
        ensure!(error["code"].is_string(), "no code: {text}");
        Ok(error["message"].as_str().with_context(|| format!("no message: {text}"))?.to_owned())
    }
}

/// More than any door may take for its answer's head, and a blob's body.
const MAX_SECONDS: &str = "30";
/// A registry hides a manifest whose type the caller does not name.
const ACCEPT: &str = "Accept: application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
