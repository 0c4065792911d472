//! Mirrors: other registries that are asked first.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

/// How long a mirror that could not be reached is left alone.
const REST: Duration = Duration::from_secs(60);
/// What docker's form of the setting is about.
const DOCKER_HUB: &str = "docker.io";

/// A registry that holds what another one has. Written `URL` for a mirror of Docker Hub, as docker
/// writes it, or `REGISTRY=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    of: String,
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    address: String,
}

/// A text that names no mirror.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid mirror {text:?}: {problem} (write https://HOST[:PORT], or REGISTRY=https://HOST[:PORT] for one that is not of docker.io)")]
pub struct MirrorError {
    text: String,
    problem: &'static str,
}

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let bad = |problem| MirrorError {
            text: text.to_owned(),
            problem,
        };
        let (of, address) = match text.split_once('=') {
            Some((of, address)) => (of.trim(), address.trim()),
            None => (DOCKER_HUB, text.trim()),
        };
        if of.is_empty() || of.contains('/') {
            return Err(bad("the registry before = is no HOST[:PORT]"));
        }
        let url = Url::parse(address).map_err(|_| bad("it is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("its scheme is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it holds a user name or password: log in instead"));
        }
        let more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
        let host = url.host_str().filter(|_| !more);
        let host = host.ok_or_else(|| bad("there is more than a host and a port"))?;
        let port = url.port().map(|port| format!(":{port}"));
        Ok(Self {
            of: of.to_owned(),
            address: format!("{}://{host}{}", url.scheme(), port.unwrap_or_default()),
        })
    }
}

impl Mirror {
    /// The registry that it is a mirror of.
    pub fn of(&self) -> &str {
        &self.of
    }

    /// Scheme, host and port.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// The mirrors that could not be reached, and until when they are left alone.
#[derive(Debug, Default)]
pub(super) struct Resting(Mutex<HashMap<String, Instant>>);

impl Resting {
    pub(super) fn is_awake(&self, mirror: &Mirror) -> bool {
        let resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        resting
            .get(&mirror.address)
            .is_none_or(|until| *until <= Instant::now())
    }

    pub(super) fn put(&self, mirror: &Mirror) {
        let mut resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        resting.insert(mirror.address.clone(), Instant::now() + REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_form_and_one_for_any_registry() {
        let mirror: Mirror = "https://mirror.example:5000/".parse().unwrap();
        assert_eq!(
            (mirror.of(), mirror.address()),
            ("docker.io", "https://mirror.example:5000")
        );
        let mirror: Mirror = "quay.io=http://[::1]:80".parse().unwrap();
        assert_eq!((mirror.of(), mirror.address()), ("quay.io", "http://[::1]"));
    }

    #[test]
    fn what_is_no_mirror_is_named() {
        for (text, problem) in [
            ("mirror.example", "it is no URL"),
            ("ftp://mirror", "scheme"),
            ("https://user:word@mirror", "log in instead"),
            ("https://mirror/path", "more than a host"),
            ("https://mirror/?q", "more than a host"),
            ("=https://mirror", "before ="),
            ("a/b=https://mirror", "before ="),
        ] {
            let error = text.parse::<Mirror>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains(text), "{error}");
        }
    }
}
