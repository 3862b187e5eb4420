//! `flotilla token`.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use flotilla_proto::wire::manager as wire;
use flotilla_proto::{RegionName, Role};
use serde::Serialize;

use super::output::{or_dash, table, time};
use super::{CliError, ManagerArgs, request};

/// Join tokens: what a daemon shows the manager once, to become one of the cluster
#[derive(Debug, Clone, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a join token; its text is shown this once
    #[command(after_help = "Examples:\n  \
        flotilla token create --region eu-west --role peer\n  \
        flotilla token create --region eu-west --role peer --lifetime 8h --uses 50")]
    Create {
        /// The region that daemons join
        #[arg(long)]
        region: RegionName,
        /// What they join as
        #[arg(long, value_parser = joining_role())]
        role: Role,
        /// How long it can be used
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        lifetime: Duration,
        /// How many daemons may join with it: a number, or `unlimited` within its lifetime
        #[arg(long, value_name = "N", default_value = "1")]
        uses: Uses,
    },
    /// List the join tokens, without their secrets
    #[command(after_help = "Example:\n  flotilla token list")]
    List,
    /// Revoke a join token; who has used it stays
    #[command(after_help = "Example:\n  flotilla token revoke 1f00c0de")]
    Revoke {
        /// Its id, as `flotilla token list` shows it
        id: String,
    },
}

/// How many daemons may join with a token; `None`: any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses(Option<NonZeroU32>);

impl FromStr for Uses {
    type Err = ParseUsesError;

    fn from_str(text: &str) -> Result<Self, ParseUsesError> {
        match text {
            UNLIMITED => Ok(Self(None)),
            number => number.parse().map(|uses| Self(Some(uses))).map_err(|_| ParseUsesError),
        }
    }
}

/// A text that is no number of uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a number from 1 on, or `{UNLIMITED}`")]
pub struct ParseUsesError;

const UNLIMITED: &str = "unlimited";

/// The manager founds the cluster and a person is no daemon: neither joins by a token.
fn joining_role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new([Role::Scheduler, Role::Peer, Role::Seed].map(Role::as_str))
        .try_map(|text| text.parse::<Role>())
}

impl TokenCommand {
    /// Does it, and returns what to print.
    ///
    /// # Errors
    ///
    /// If the manager cannot be reached, or refuses.
    pub async fn execute(self, args: &ManagerArgs) -> Result<String, CliError> {
        match self {
            Self::Create { region, role, lifetime, uses } => {
                let token = wire::CreateTokenRequest {
                    region: region.to_string(),
                    role: role.to_string(),
                    lifetime_seconds: lifetime.as_secs(),
                    uses: uses.0.map_or(0, NonZeroU32::get),
                    unlimited: uses.0.is_none(),
                };
                create(args, token).await
            }
            Self::List => list(args).await,
            Self::Revoke { id } => {
                let named = wire::Name { name: id.clone() };
                let reply = args.connect().await?.revoke_token(request(named)).await;
                reply.map_err(|status| args.refused(&status))?;
                Ok(args.output.done(format!("join token {id} revoked"))?)
            }
        }
    }
}

async fn create(args: &ManagerArgs, token: wire::CreateTokenRequest) -> Result<String, CliError> {
    let (region, role) = (token.region.clone(), token.role.clone());
    let uses_left = (!token.unlimited).then_some(token.uses);
    let reply = args.connect().await?.create_token(request(token)).await;
    let reply = reply.map_err(|status| args.refused(&status))?.into_inner();
    let expires_at = time(reply.expires_at);
    let created = CreatedView { id: reply.id, region, role, uses_left, expires_at, token: reply.token };
    Ok(args.output.render(&created, |created| {
        let who = match created.uses_left {
            Some(1) => "one daemon".to_owned(),
            Some(uses) => format!("{uses} daemons"),
            None => "any number of daemons".to_owned(),
        };
        format!(
            "join token {} for {who} of the role {} in {}, until {}; its text is not shown again:\n{}",
            created.id,
            created.role,
            created.region,
            or_dash(created.expires_at.as_deref()),
            created.token
        )
    })?)
}

async fn list(args: &ManagerArgs) -> Result<String, CliError> {
    let reply = args.connect().await?.list_tokens(request(wire::Empty {})).await;
    let tokens = reply.map_err(|status| args.refused(&status))?.into_inner().tokens;
    let tokens: Vec<_> = tokens.into_iter().map(TokenView::from).collect();
    let headings = ["id", "region", "role", "uses left", "last used by", "expires", "created"];
    Ok(args.output.render(&tokens, |tokens| table(headings, tokens.iter().map(TokenView::row)))?)
}

/// The one view that holds a secret, and so has no `Debug`.
#[derive(Serialize)]
struct CreatedView {
    id: String,
    region: String,
    role: String,
    /// `None`: any number.
    uses_left: Option<u32>,
    expires_at: Option<String>,
    token: String,
}

#[derive(Debug, Serialize)]
struct TokenView {
    id: String,
    region: String,
    role: String,
    /// `None`: any number.
    uses_left: Option<u32>,
    /// The daemon that joined with it last.
    used_by: Option<String>,
    expires_at: Option<String>,
    created_at: Option<String>,
}

impl TokenView {
    fn row(&self) -> [String; 7] {
        [
            self.id.clone(),
            self.region.clone(),
            self.role.clone(),
            self.uses_left.map_or_else(|| UNLIMITED.to_owned(), |uses| uses.to_string()),
            or_dash(self.used_by.as_deref()),
            or_dash(self.expires_at.as_deref()),
            or_dash(self.created_at.as_deref()),
        ]
    }
}

impl From<wire::Token> for TokenView {
    fn from(token: wire::Token) -> Self {
        Self {
            id: token.id,
            region: token.region,
            role: token.role,
            uses_left: (!token.unlimited).then_some(token.uses_left),
            used_by: (!token.used_by.is_empty()).then_some(token.used_by),
            expires_at: time(token.expires_at),
            created_at: time(token.created_at),
        }
    }
}
