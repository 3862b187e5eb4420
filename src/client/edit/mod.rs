//! Edits of the files that clients read: text in, text out.
//!
//! Each adds what is missing and keeps what is there: keys, comments, order. Applied to its
//! own answer it gives the same text again.

mod auth_json;
mod buildkitd_toml;
mod containerd_config;
mod daemon_json;
mod hosts;
mod hosts_toml;
mod json;
mod registries_conf;
mod systemd;
mod toml;

use toml_edit::TomlError;

pub(crate) use auth_json::key_of;
pub(super) use auth_json::{has_auth, with_auth_of};
pub(super) use buildkitd_toml::with_buildkit_mirror;
pub(super) use containerd_config::{ConfigPath, config_path, with_config_path};
pub(super) use daemon_json::{https_proxy, with_proxy, with_registry_mirror};
pub(super) use hosts::with_host;
pub(super) use hosts_toml::{with_ca, with_mirror_host};
pub(super) use registries_conf::{names_registry, with_mirror};
pub(super) use systemd::{proxy_in_unit, with_proxy_environment};

/// Why a text cannot be edited.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    /// It is no TOML.
    #[error("it is no TOML: {0}")]
    Toml(#[from] TomlError),
    /// It is no JSON.
    #[error("it is no JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// A key holds something else than its reader takes.
    #[error("`{key}` is no {wanted}")]
    Kind {
        /// Which.
        key: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// containerd refuses to start with both.
    #[error(
        "it sets `{key}`, and containerd takes that together with `config_path` in no version: move it into \
         hosts.toml files first"
    )]
    Legacy {
        /// What stands in the way.
        key: String,
    },
    /// A configuration version that is not known.
    #[error("its version is {0}; 1, 2 and 3 are known")]
    Version(i64),
    /// A name with two addresses would be read at random.
    #[error("it says that {name} is {address}")]
    HostTaken {
        /// The registry's.
        name: String,
        /// What it says.
        address: String,
    },
}
