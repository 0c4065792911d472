//! The registry client (OCI distribution specification).

mod auth;
mod client;
mod error;
mod fetch;
mod platform;
mod search;
mod upload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use client::RegistryClient;
pub use error::RegistryError;
pub(crate) use fetch::{BlobSink, FetchError};
pub use platform::Platform;
pub use search::Found;
pub(crate) use upload::{Blob, Uploaded};

/// Reads a challenge, for fuzzing.
#[cfg(feature = "fuzz")]
pub(super) fn fuzz_challenge(header: &str) {
    drop(auth::parse_challenge(header));
}

/// A user name and a password (or token) for one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name; `<token>` if `password` is an identity token (docker's convention).
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries (`host` or `host:port`) that may be talked to over plain HTTP; loopback
    /// addresses and `localhost` always may.
    pub insecure: Vec<String>,
    /// Credentials by registry; they come before those of `docker_config`.
    pub credentials: BTreeMap<String, Credentials>,
    /// Docker's `config.json` with `auths`, `credHelpers` and `credsStore`. A file that does not
    /// exist is no error.
    pub docker_config: Option<PathBuf>,
    /// Tries per request, the first included, before a transient failure is reported.
    pub attempts: u32,
    /// The longest pause that a registry's `Retry-After` can make this client wait.
    pub max_retry_after: Duration,
    /// The first pause between tries where the registry names none; doubled each time.
    pub backoff: Duration,
    /// Layers fetched at once per pull.
    pub parallel_layers: usize,
    /// No bytes for this long ends a connection (it is then resumed).
    pub stall_timeout: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            credentials: BTreeMap::new(),
            docker_config: default_docker_config(),
            attempts: 5,
            max_retry_after: Duration::from_secs(60),
            backoff: Duration::from_millis(500),
            parallel_layers: 3,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

fn default_docker_config() -> Option<PathBuf> {
    std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))
        .map(|folder| folder.join("config.json"))
}
