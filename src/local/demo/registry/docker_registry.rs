//! `docker-registry serve` as a child process.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hyper::Uri;
use tokio::time::sleep;

use crate::http::HttpClient;
use crate::local::child::{Child, Program};
use crate::local::free_port::free_port;

/// A running docker-registry; it ends when this is dropped.
pub(crate) struct DockerRegistry {
    url: String,
    child: Child,
}

impl DockerRegistry {
    /// Starts one that keeps its files in `home`; done when it answers.
    pub(crate) async fn start(executable: &Path, home: &Path) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(&[])?));
        let config_file = home.join("config.yml");
        let storage = home.join("storage");
        let write =
            || fs::create_dir_all(&storage).and_then(|()| fs::write(&config_file, config(address, &storage)));
        write().with_context(|| format!("write {}", config_file.display()))?;

        let arguments = ["serve".as_ref(), config_file.as_os_str()];
        let program = Program::new("docker-registry", executable, arguments, home.join("log")).tethered();
        let mut child = Child::start(&program).context("start it")?;
        let url = format!("http://{address}");
        let ready = tokio::time::timeout(READY_WITHIN, answers(&url));
        let failure = tokio::select! {
            Ok(()) = ready => return Ok(Self { url, child }),
            status = child.ended() => format!("it ended ({})", status?),
            else => format!("it does not answer within {} s", READY_WITHIN.as_secs()),
        };
        child.stop(STOP_WITHIN).await;
        anyhow::bail!("{failure}; its log ends:\n{}", program.log_tail())
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.child.stop(STOP_WITHIN).await;
    }
}

/// The `docker-registry` on PATH.
pub(crate) fn find() -> Option<PathBuf> {
    let is_executable = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join("docker-registry")).find(is_executable)
}

async fn answers(url: &str) {
    let http = HttpClient::loopback();
    let uri: Uri = format!("{url}/v2/").parse().expect("an address makes a URI");
    while !http.get_text(uri.clone(), READY_WITHIN).await.is_ok_and(|(status, _)| status.is_success()) {
        sleep(ASK_AGAIN_AFTER).await;
    }
}

fn config(address: SocketAddr, storage: &Path) -> String {
    let storage = serde_json::Value::from(storage.to_string_lossy());
    format!(
        "version: 0.1\n\
         log: {{ level: info, accesslog: {{ disabled: false }} }}\n\
         storage: {{ filesystem: {{ rootdirectory: {storage} }} }}\n\
         http: {{ addr: \"{address}\", secret: flotilla }}\n"
    )
}

/// It starts in a tenth of a second.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Between two questions.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// It has nothing to save.
const STOP_WITHIN: Duration = Duration::from_secs(2);
