//! The command line's verbs for the topology.
//!
//! A verb asks the manager and returns what to print; the root binary prints it. Every
//! verb says the same in three forms: a table or a sentence for people, JSON and YAML for
//! scripts.

mod output;
mod peer;
mod region;
mod registry;
mod token;
mod topology;

use std::path::PathBuf;

use flotilla_daemon::identity::{ManagerUrl, NodeIdentity, OpenIdentityError, manager_id};
use flotilla_daemon::rpc::{self, TopologyClient};
use flotilla_daemon::settings::ParseRegistryError;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

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
    /// The manager to ask
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "FLOTILLA_MANAGER",
        default_value = "https://127.0.0.1:4000"
    )]
    pub manager: ManagerUrl,
    /// The directory of the administrator's identity
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "FLOTILLA_IDENTITY",
        default_value = "/var/lib/flotilla/manager/admin"
    )]
    pub identity: PathBuf,
    /// How to print the answer
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,
}

impl ManagerArgs {
    /// A client of the manager, connected at its first call.
    ///
    /// # Errors
    ///
    /// If the identity cannot be read or used.
    pub fn connect(&self) -> Result<TopologyClient<Channel>, CliError> {
        let identity = NodeIdentity::load(&self.identity).map_err(|source| match source {
            OpenIdentityError::Absent { dir } => CliError::NoIdentity { dir },
            source => CliError::Identity { source: Box::new(source) },
        })?;
        Ok(TopologyClient::new(rpc::channel(&identity, self.manager.address(), &manager_id())))
    }

    fn refused(&self, status: &Status) -> CliError {
        let reason = rpc::reason(status);
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                CliError::Unreachable { manager: self.manager.clone(), reason }
            }
            _ => CliError::Refused { reason },
        }
    }
}

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
         `admin` directory and name the copy with --identity (or FLOTILLA_IDENTITY)",
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
        "the manager at {manager} does not answer ({reason}); --manager (or FLOTILLA_MANAGER) says where it is"
    )]
    Unreachable {
        /// Where it was looked for.
        manager: ManagerUrl,
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
