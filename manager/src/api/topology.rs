//! Topology, for people: every call needs the role admin.

use std::time::{Duration, SystemTime};

use flotilla_daemon::rpc::{self, Topology};
use flotilla_daemon::settings::Upstream;
use flotilla_proto::wire::manager::{
    CreateTokenReply, CreateTokenRequest, Daemons, Empty, JoinToken, Name, Region, Regions, Registries,
    Registry, RemovedDaemon, Token, Tokens,
};
use flotilla_proto::{JoinTokenText, PeerId, RegistryHost, Role};
use tonic::{Request, Response, Status};

use super::Services;
use super::status::{parse, store_failed};
use crate::identity::{JoinSecret, random};
use crate::store::{NewToken, Removal, TokenRow};

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Topology for Services {
    async fn list_regions(&self, request: Request<Empty>) -> Reply<Regions> {
        admin(&request)?;
        let regions = self.topology.store().regions().await.map_err(|error| store_failed(&error))?;
        Ok(Response::new(Regions { regions }))
    }

    async fn add_region(&self, request: Request<Region>) -> Reply<Empty> {
        admin(&request)?;
        let Region { name, description } = request.into_inner();
        if description.chars().count() > MAX_DESCRIPTION_LEN {
            let message = format!("a description has at most {MAX_DESCRIPTION_LEN} characters");
            return Err(Status::invalid_argument(message));
        }
        self.topology.store().add_region(&parse("region", &name)?, &description).await?;
        tracing::info!(region = name, "region added");
        Ok(Response::new(Empty {}))
    }

    async fn remove_region(&self, request: Request<Name>) -> Reply<Empty> {
        admin(&request)?;
        let name = request.into_inner().name;
        self.topology.store().remove_region(&parse("region", &name)?).await?;
        tracing::info!(region = name, "region removed");
        Ok(Response::new(Empty {}))
    }

    async fn list_registries(&self, request: Request<Empty>) -> Reply<Registries> {
        admin(&request)?;
        let registries = self.topology.store().registries().await.map_err(|error| store_failed(&error))?;
        let health = self.endpoints.of_seeds(|seed| self.topology.is_connected(seed.as_str()));
        let revision = self.topology.store().revision().await.map_err(|error| store_failed(&error))?;
        Ok(Response::new(Registries { registries, health, revision }))
    }

    async fn set_registry(&self, request: Request<Registry>) -> Reply<Empty> {
        admin(&request)?;
        let upstream = Upstream::from_wire(request.get_ref())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.topology.set_registry(&upstream).await?;
        Ok(Response::new(Empty {}))
    }

    async fn remove_registry(&self, request: Request<Name>) -> Reply<Empty> {
        admin(&request)?;
        let host: RegistryHost = parse("registry", &request.get_ref().name)?;
        self.topology.remove_registry(&host).await?;
        Ok(Response::new(Empty {}))
    }

    async fn list_daemons(&self, request: Request<Empty>) -> Reply<Daemons> {
        admin(&request)?;
        let daemons = self.topology.daemons().await.map_err(|error| store_failed(&error))?;
        Ok(Response::new(Daemons { daemons }))
    }

    async fn remove_daemon(&self, request: Request<Name>) -> Reply<RemovedDaemon> {
        admin(&request)?;
        let id: PeerId = parse("daemon", &request.get_ref().name)?;
        let removed = self
            .topology
            .remove_daemon(&id, self.certificate_lifetime)
            .await
            .map_err(|error| store_failed(&error))?;
        let removal = removed.ok_or_else(|| Status::not_found(format!("there is no daemon `{id}`")))?;
        Ok(Response::new(match removal {
            Removal::Revoked(until) => RemovedDaemon { revoked: true, revoked_until: until.cast_unsigned() },
            Removal::KeyUnknown => RemovedDaemon::default(),
        }))
    }

    async fn list_tokens(&self, request: Request<Empty>) -> Reply<Tokens> {
        admin(&request)?;
        let tokens = self.topology.store().tokens().await.map_err(|error| store_failed(&error))?;
        Ok(Response::new(Tokens { tokens: tokens.into_iter().map(to_wire).collect() }))
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Reply<CreateTokenReply> {
        admin(&request)?;
        let CreateTokenRequest { region, role, lifetime_seconds, uses, unlimited } = request.into_inner();
        let secret = JoinSecret::generate();
        let token = NewToken {
            id: hex::encode(random::<4>()),
            secret_hash: secret.hash(),
            region: parse("region", &region)?,
            role: joining_role(&role)?,
            lifetime: token_lifetime(lifetime_seconds)?,
            uses: (!unlimited).then_some(uses.max(1)),
        };
        let expires_at = self.topology.store().add_token(&token, SystemTime::now()).await?;
        tracing::info!(token = token.id, region, role, uses = ?token.uses, "join token created");
        let text = JoinTokenText::from(JoinToken {
            manager: self.url.to_string(),
            ca_der: self.ca.certificate().to_vec().into(),
            secret: secret.expose().to_owned(),
            region,
            role,
        });
        let token_text = text.to_string();
        let expires_at = expires_at.cast_unsigned();
        Ok(Response::new(CreateTokenReply { id: token.id, token: token_text, expires_at }))
    }

    async fn revoke_token(&self, request: Request<Name>) -> Reply<Empty> {
        admin(&request)?;
        let id = request.into_inner().name;
        self.topology.store().revoke_token(&id).await?;
        tracing::info!(token = id, "join token revoked");
        Ok(Response::new(Empty {}))
    }
}

fn admin<T>(request: &Request<T>) -> Result<(), Status> {
    rpc::require(request, &[Role::Admin]).map(drop)
}

/// Managers and admins are not made by join tokens: they belong to no region.
fn joining_role(text: &str) -> Result<Role, Status> {
    match parse("role", text)? {
        role @ (Role::Scheduler | Role::Peer | Role::Seed) => Ok(role),
        Role::Manager | Role::Admin => Err(Status::invalid_argument(format!(
            "role `{text}`: a join token is for a scheduler, a peer or a seed"
        ))),
    }
}

fn token_lifetime(seconds: u64) -> Result<Duration, Status> {
    let lifetime = Duration::from_secs(seconds);
    if lifetime.is_zero() || lifetime > MAX_TOKEN_LIFETIME {
        return Err(Status::invalid_argument("a join token lives between 1 second and 366 days"));
    }
    Ok(lifetime)
}

fn to_wire(row: TokenRow) -> Token {
    Token {
        id: row.id,
        region: row.region,
        role: row.role,
        expires_at: row.expires_at.cast_unsigned(),
        uses_left: row.uses_left.unwrap_or(0),
        unlimited: row.uses_left.is_none(),
        created_at: row.created_at.cast_unsigned(),
        used_by: row.used_by.unwrap_or_default(),
    }
}

const MAX_DESCRIPTION_LEN: usize = 500;
const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(366 * 24 * 60 * 60);
