//! The command line's verbs for the topology.
//!
//! A verb asks the manager and returns what to print; the root binary prints it. Every
//! verb says the same in three forms: a table or a sentence for people, JSON and YAML for
//! scripts.

mod context;
mod output;
mod peer;
mod region;
mod registry;
mod token;
mod topology;
mod waiting;

use std::fmt;
use std::path::PathBuf;

use flotilla_daemon::identity::{
    ManagerUrl, NodeIdentity, OpenIdentityError, ParseManagerUrlError, manager_id,
};
use flotilla_daemon::rpc::{self, TopologyClient};
use flotilla_daemon::settings::ParseRegistryError;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

pub use context::{ContextCommand, ContextError};
pub use output::{OutputFormat, RenderError};
pub use peer::PeerCommand;
pub use region::RegionCommand;
pub use registry::{
    EndpointArgs, EndpointSpec, Key, KeyError, ParseEndpointError, RegistryCommand, RegistryOptions,
};
pub use token::TokenCommand;
pub use topology::TopologyCommand;

/// Which manager, as whom, and in what form to answer.
#[derive(Debug, Clone, clap::Args)]
pub struct ManagerArgs {
    /// The manager to ask, or several places where it may be; without one, the context's, or
    /// this machine's
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "FLOTILLA_MANAGER",
        value_delimiter = ',',
        value_parser = parse_manager
    )]
    pub manager: Vec<ManagerUrl>,
    /// The directory of the administrator's identity; without one, the context's, or this
    /// machine's manager's
    #[arg(long, global = true, value_name = "DIR", env = "FLOTILLA_IDENTITY")]
    pub identity: Option<PathBuf>,
    /// The context to use, as `flotilla context list` shows them
    #[arg(long, global = true, value_name = "NAME", env = "FLOTILLA_CONTEXT")]
    pub context: Option<String>,
    /// How many seconds to wait for a manager of this machine that is only starting
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10)]
    pub wait: u64,
    /// How to print the answer
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,
}

impl ManagerArgs {
    /// A client of the manager, connected at its first call. A manager of this machine that is
    /// only starting is waited for.
    ///
    /// # Errors
    ///
    /// If the identity cannot be read or used.
    pub async fn connect(&self) -> Result<TopologyClient<Channel>, CliError> {
        let Target { managers, identity } = self.target()?;
        waiting::until_started(&managers, &identity, self.wait).await;
        let identity = NodeIdentity::load(&identity).map_err(|source| match source {
            OpenIdentityError::Absent { dir } => CliError::NoIdentity { dir },
            source => CliError::Identity { source: Box::new(source) },
        })?;
        let addresses: Vec<_> = managers.iter().map(ManagerUrl::address).collect();
        let tls = identity.client_config(&[rpc::ALPN_GRPC]);
        Ok(TopologyClient::new(rpc::channel_over(tls, &addresses, &manager_id())))
    }

    /// Options and variables first, then the context, then this machine's manager.
    fn target(&self) -> Result<Target, CliError> {
        let context = self.used_context()?;
        let mut managers = self.manager.clone();
        if managers.is_empty() {
            managers = context.as_ref().map(|context| context.managers.clone()).unwrap_or_default();
        }
        if managers.is_empty() {
            managers.push(LOCAL_MANAGER.parse().expect("it is a URL"));
        }
        let identity = self.identity.clone().or_else(|| context?.identity);
        Ok(Target { managers, identity: identity.unwrap_or_else(|| LOCAL_IDENTITY.into()) })
    }

    fn used_context(&self) -> Result<Option<context::Context>, CliError> {
        // Not even read where it is not needed: a damaged file must not stand in the way.
        if self.context.is_none() && !self.manager.is_empty() && self.identity.is_some() {
            return Ok(None);
        }
        let Some(file) = context::Contexts::file() else { return Ok(None) };
        let contexts = context::Contexts::read(&file)?;
        let Some(name) = self.context.as_ref().or(contexts.current.as_ref()) else { return Ok(None) };
        Ok(Some(contexts.context(name)?.clone()))
    }

    fn refused(&self, status: &Status) -> CliError {
        let reason = rpc::reason(status);
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => match self
                .target()
            {
                Ok(Target { managers, .. }) => CliError::Unreachable { managers: Managers(managers), reason },
                Err(error) => error,
            },
            _ => CliError::Refused { reason },
        }
    }
}

/// Who is asked, and as whom.
struct Target {
    managers: Vec<ManagerUrl>,
    identity: PathBuf,
}

/// Where the manager was looked for.
#[derive(Debug, Clone)]
pub struct Managers(Vec<ManagerUrl>);

impl fmt::Display for Managers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, manager) in self.0.iter().enumerate() {
            write!(f, "{}{manager}", if index == 0 { "" } else { " or " })?;
        }
        Ok(())
    }
}

/// `host:port` will do.
fn parse_manager(text: &str) -> Result<ManagerUrl, ParseManagerUrlError> {
    text.to_owned().try_into()
}

const LOCAL_MANAGER: &str = "https://127.0.0.1:4000";
const LOCAL_IDENTITY: &str = "/var/lib/flotilla/manager/admin";

/// A request that does not wait for ever.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(rpc::CALL_TIMEOUT);
    request
}

/// Why a verb did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The directory holds no identity.
    #[error(
        "no identity in {}: run this on the manager's machine as the manager's user, or copy its \
         `admin` directory and name the copy with --identity (or FLOTILLA_IDENTITY); if the manager should \
         run here: systemctl status flotilla-manager; journalctl -u flotilla-manager",
        dir.display()
    )]
    NoIdentity {
        /// The directory.
        dir: PathBuf,
    },
    /// What the directory holds cannot be used.
    #[error(
        "{source}; --identity (or FLOTILLA_IDENTITY) names the directory of the administrator's identity"
    )]
    Identity {
        /// Why.
        source: Box<OpenIdentityError>,
    },
    /// No answer.
    #[error(
        "the manager at {managers} does not answer ({reason}); --manager (or FLOTILLA_MANAGER) says where it is{}",
        if managers.0.iter().all(ManagerUrl::is_loopback) {
            "; if it should run here: systemctl status flotilla-manager; journalctl -u flotilla-manager"
        } else {
            ""
        }
    )]
    Unreachable {
        /// Where it was looked for.
        managers: Managers,
        /// What went wrong on the way.
        reason: String,
    },
    /// The manager said no.
    #[error("{reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
    /// A file that was named cannot be read.
    #[error("read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no such context, or none can be kept.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// What was said of a registry makes none.
    #[error(transparent)]
    Registry(#[from] ParseRegistryError),
    /// The manager has a registry that this version cannot show.
    #[error("read the manager's answer: {source}")]
    Answer {
        /// What of it.
        source: ParseRegistryError,
    },
    /// The options do not fit each other.
    #[error("{0}")]
    Usage(&'static str),
    /// The answer cannot be printed.
    #[error(transparent)]
    Render(#[from] RenderError),
}
