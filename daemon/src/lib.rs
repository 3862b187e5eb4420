//! What every Flotilla daemon does alike.
//!
//! A daemon reads one TOML file ([`config`]), proves who it is ([`identity`]), talks gRPC
//! over mutual TLS ([`rpc`]), follows its region's settings ([`settings`]), shows its
//! state ([`telemetry`]) and ends in order ([`shutdown`]). What it does between is its own. Who speaks to registries reads their
//! challenges and tokens with [`registry_auth`], and knows them by [`registry_tls`].

mod authority;
mod bandwidth;
pub mod bind;
pub mod config;
pub mod crowd;
pub mod files;
pub mod identity;
pub mod life;
pub mod memory;
pub mod net;
pub mod own_names;
pub mod owner;
pub mod registry_auth;
pub mod registry_tls;
pub mod rpc;
pub mod settings;
pub mod shutdown;
pub mod start;
pub mod systemd;
pub mod telemetry;
pub mod watched;
