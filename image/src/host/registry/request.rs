//! A request to a registry, before it is known how to reach it.

use reqwest::Url;

use super::stall::Moving;
use super::RegistryError;

/// One GET below `/v2/`.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    /// `HOST[:PORT]`; of a mirror with its scheme.
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    /// `manifests/TAG` or `blobs/DIGEST`.
    pub(crate) path: String,
    pub(crate) accept: &'a [&'a str],
    /// Another repository of the registry that a blob is to come from.
    pub(crate) mounts: Option<&'a str>,
    /// First byte wanted.
    pub(crate) from: u64,
    /// For messages: `image reg/repo:tag`, `layer sha256:...`.
    pub(crate) what: &'a str,
}

impl<'a> Request<'a> {
    /// Of the registry itself, not of one of its repositories.
    pub(super) fn of_registry(registry: &'a str, what: &'a str) -> Self {
        Self {
            registry,
            repository: "",
            path: String::new(),
            accept: &[],
            mounts: None,
            from: 0,
            what,
        }
    }
}

/// What makes a body, once for each try.
pub(crate) type MakeBody = Box<dyn Fn() -> std::io::Result<reqwest::Body> + Send + Sync>;

/// A request that is no GET.
pub(crate) struct Sent {
    pub(crate) method: reqwest::Method,
    /// In the place of the request's own.
    pub(crate) url: Option<Url>,
    pub(crate) headers: Vec<(reqwest::header::HeaderName, String)>,
    pub(crate) body: Option<MakeBody>,
    /// Of a large body.
    pub(crate) moving: Option<Moving>,
}

impl Sent {
    /// Without a body.
    pub(crate) fn empty(method: reqwest::Method) -> Self {
        Self {
            method,
            url: None,
            headers: Vec::new(),
            body: None,
            moving: None,
        }
    }
}

pub(super) fn protocol(request: &Request<'_>, detail: String) -> RegistryError {
    RegistryError::Protocol {
        registry: request.registry.to_owned(),
        what: request.what.to_owned(),
        detail,
    }
}

/// Whether it is this host's own, `HOST[:PORT]`.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = host(authority);
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The host alone.
pub(super) fn host(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority
            .split_once(':')
            .map_or(authority, |(host, _)| host),
    }
}

/// Host and port of a registry that may be named with its scheme.
pub(super) fn authority(registry: &str) -> &str {
    registry
        .split_once("://")
        .map_or(registry, |(_, host)| host)
}
