//! The registry client (OCI distribution specification).

mod answer;
mod auth;
mod client;
mod error;
mod fetch;
mod mirror;
mod platform;
mod request;
mod search;
mod stall;
mod tags;
mod tls;
mod token;
mod upload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::credentials::Credentials;
pub(crate) use client::RegistryClient;
pub use error::RegistryError;
pub(crate) use fetch::{BlobSink, FetchError};
pub use mirror::{Mirror, MirrorError};
pub use platform::{ParsePlatformError, Platform};
pub use search::Found;
pub(crate) use upload::{Blob, Uploaded};

/// Reads a challenge, for fuzzing.
#[cfg(feature = "fuzz")]
pub(super) fn fuzz_challenge(header: &str) {
    drop(auth::parse_challenge(header));
}

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries (`host` or `host:port`) that may be talked to over plain HTTP, or whose
    /// certificate is not looked at where they speak TLS. Loopback addresses and `localhost`
    /// always may.
    pub insecure: Vec<String>,
    /// Asked before the registries that they are mirrors of, in this order.
    pub mirrors: Vec<Mirror>,
    /// Folders with certificates by registry, in docker's layout
    /// (`HOST[:PORT]/{ca.crt, client.cert, client.key}`); the first that knows a registry counts.
    pub certificates: Vec<PathBuf>,
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
            mirrors: Vec::new(),
            certificates: vec!["/etc/hull/certs.d".into(), "/etc/docker/certs.d".into()],
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
