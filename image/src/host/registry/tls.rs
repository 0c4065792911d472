//! HTTP clients by registry: each may have an authority and a certificate of its own, in docker's
//! layout, `FOLDER/HOST[:PORT]/{NAME.crt, NAME.cert, NAME.key}`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::{redirect, Certificate, Client, Identity};

use super::request::is_loopback;
use super::RegistryError;

const USER_AGENT: &str = concat!("hull/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Most bytes of one file of certificates.
const MAX_FILE: u64 = 1 << 20;

/// The files for one registry, with what tells a changed one.
type Files = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// A registry, and what its client is like.
type Key = (String, Trust, Waits);

#[derive(Debug)]
pub(super) struct Clients {
    folders: Vec<PathBuf>,
    stall_timeout: Duration,
    made: Mutex<HashMap<Key, (Files, Client)>>,
}

/// Whether the server has to prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    Verified,
    Anybody,
}

/// How long a request waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Waits {
    /// The stall timeout, which begins with the request and again with each piece of the answer.
    ForAnswer,
    /// As long as whoever sends it does.
    WhileSent,
}

/// Why a registry's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error("{0:?} has no key: {1:?} is missing")]
    NoKey(PathBuf, PathBuf),
    #[error("{0:?} has no certificate: {1:?} is missing")]
    NoCertificate(PathBuf, PathBuf),
    #[error("{0:?} holds no certificate or key in PEM: {1}")]
    Content(PathBuf, reqwest::Error),
}

impl Clients {
    /// Later folders are for registries that earlier ones say nothing of.
    pub(super) fn new(folders: Vec<PathBuf>, stall_timeout: Duration) -> Self {
        Self {
            folders,
            stall_timeout,
            made: Mutex::default(),
        }
    }

    /// The client for a registry (`host[:port]`), made anew when its files have changed.
    pub(super) fn of(
        &self,
        host: &str,
        trust: Trust,
        waits: Waits,
    ) -> Result<Client, RegistryError> {
        let failed = |source| RegistryError::Certificates {
            registry: host.to_owned(),
            source,
        };
        let files = self.files(host).map_err(failed)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), trust, waits);
        if let Some((before, client)) = made.get(&key) {
            if *before == files {
                return Ok(client.clone());
            }
        }
        let client = self.make(host, &files, trust, waits, failed)?;
        made.insert(key, (files, client.clone()));
        Ok(client)
    }

    fn files(&self, host: &str) -> io::Result<Files> {
        // A name from a reference or an address; it must not lead elsewhere.
        if host.contains('/') || host.starts_with('.') {
            return Ok(Files::new());
        }
        for folder in &self.folders {
            let entries = match folder.join(host).read_dir() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let mut files = Files::new();
            for entry in entries {
                let path = entry?.path();
                let metadata = path.metadata()?;
                files.push((path, metadata.len(), metadata.modified().ok()));
            }
            files.sort();
            return Ok(files);
        }
        Ok(Files::new())
    }

    fn make(
        &self,
        host: &str,
        files: &Files,
        trust: Trust,
        waits: Waits,
        failed: impl Fn(io::Error) -> RegistryError,
    ) -> Result<Client, RegistryError> {
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(no_downgrade())
            .tls_danger_accept_invalid_certs(trust == Trust::Anybody);
        if waits == Waits::ForAnswer {
            builder = builder.read_timeout(self.stall_timeout);
        }
        // No proxy reaches what is this host's own.
        if is_loopback(host) {
            builder = builder.no_proxy();
        }
        let paths: Vec<&Path> = files.iter().map(|(path, ..)| path.as_path()).collect();
        let authorities = authorities(&paths).map_err(&failed)?;
        if !authorities.is_empty() {
            builder = builder.tls_certs_merge(authorities);
        }
        if let Some(identity) = identity(&paths).map_err(&failed)? {
            builder = builder.identity(identity);
        }
        builder
            .build()
            .map_err(|source| RegistryError::Client { source })
    }
}

fn with_ending<'a>(paths: &'a [&Path], ending: &'a str) -> impl Iterator<Item = &'a Path> {
    let is = move |path: &&Path| path.extension().is_some_and(|found| found == ending);
    paths.iter().copied().filter(is)
}

fn authorities(paths: &[&Path]) -> io::Result<Vec<Certificate>> {
    let mut all = Vec::new();
    for path in with_ending(paths, "crt") {
        let found = Certificate::from_pem_bundle(&read(path)?)
            .map_err(|error| invalid(CertificateError::Content(path.to_owned(), error)))?;
        all.extend(found);
    }
    Ok(all)
}

/// What this side shows where it is asked for it: the first pair.
fn identity(paths: &[&Path]) -> io::Result<Option<Identity>> {
    for key in with_ending(paths, "key") {
        let certificate = key.with_extension("cert");
        if !paths.contains(&certificate.as_path()) {
            let missing = CertificateError::NoCertificate(key.to_owned(), certificate);
            return Err(invalid(missing));
        }
    }
    let mut first = None;
    for certificate in with_ending(paths, "cert") {
        let key = certificate.with_extension("key");
        if !paths.contains(&key.as_path()) {
            let missing = CertificateError::NoKey(certificate.to_owned(), key);
            return Err(invalid(missing));
        }
        if first.is_none() {
            let pem = [read(certificate)?, read(&key)?].join(&b'\n');
            let content = |error| invalid(CertificateError::Content(certificate.to_owned(), error));
            first = Some(Identity::from_pem(&pem).map_err(content)?);
        }
    }
    Ok(first)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_FILE)
        .read_to_end(&mut content)?;
    Ok(content)
}

fn invalid(error: CertificateError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn no_downgrade() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let from_https = attempt
            .previous()
            .last()
            .is_some_and(|url| url.scheme() == "https");
        if from_https && attempt.url().scheme() != "https" {
            attempt.error("redirect from HTTPS to plain HTTP")
        } else if attempt.previous().len() > 10 {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(folder: &Path) -> Clients {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Clients::new(
            vec![folder.join("own"), folder.join("docker")],
            Duration::from_secs(1),
        )
    }

    fn problem(clients: &Clients, host: &str) -> String {
        let error = clients
            .of(host, Trust::Verified, Waits::ForAnswer)
            .unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        format!("{error}: {source}")
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let clients = clients(folder.path());
        assert!(clients
            .of("reg:5000", Trust::Verified, Waits::ForAnswer)
            .is_ok());
        let own = folder.path().join("docker/reg:5000");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("client.cert"), "x").unwrap();
        assert!(problem(&clients, "reg:5000").contains("client.key\" is missing"));
        std::fs::write(own.join("client.key"), "x").unwrap();
        assert!(problem(&clients, "reg:5000").contains("client.cert\" holds no certificate"));
        std::fs::remove_file(own.join("client.cert")).unwrap();
        assert!(problem(&clients, "reg:5000").contains("client.cert\" is missing"));
        // What Hull's own folder says of a registry is all that counts.
        std::fs::create_dir_all(folder.path().join("own/reg:5000")).unwrap();
        assert!(clients
            .of("reg:5000", Trust::Verified, Waits::ForAnswer)
            .is_ok());
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("own/a")).unwrap();
        std::fs::write(folder.path().join("own/a/x.key"), "x").unwrap();
        let clients = clients(folder.path());
        for host in ["../own/a", "..", "a/", "./a"] {
            assert!(
                clients.of(host, Trust::Verified, Waits::ForAnswer).is_ok(),
                "{host}"
            );
        }
        assert!(clients.of("a", Trust::Verified, Waits::ForAnswer).is_err());
    }
}
