//! Connections to an engine: one for each request.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::endpoint::{Endpoint, SshHost, TlsFiles, OWN_SOCKET};
use crate::error::{CliError, Result};

mod ssh;

/// What a connection can do.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How connections are made.
#[derive(Clone)]
pub(crate) enum Transport {
    Unix(PathBuf),
    Tcp {
        host: String,
        port: u16,
        tls: Option<Tls>,
    },
    Ssh(SshHost),
}

#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Transport {
    /// Reads the certificates, if there are any.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self> {
        Ok(match endpoint {
            Endpoint::Own => Self::Unix(PathBuf::from(OWN_SOCKET)),
            Endpoint::Unix(path) => Self::Unix(path.clone()),
            Endpoint::Tcp { host, port, tls } => Self::Tcp {
                host: host.clone(),
                port: *port,
                tls: tls
                    .as_ref()
                    .map(|files| Tls::new(host, files))
                    .transpose()?,
            },
            Endpoint::Ssh(host) => Self::Ssh(host.clone()),
        })
    }

    /// As a user writes it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix://{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("tcp://[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("tcp://{host}:{port}"),
            Self::Ssh(host) => format!("ssh://{}", host.host),
        }
    }

    /// A new connection.
    pub(crate) async fn open(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Ssh(host) => Ok(Box::new(ssh::open(host)?)),
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Tcp { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                match tls {
                    None => Ok(Box::new(stream)),
                    Some(Tls { connector, server }) => {
                        Ok(Box::new(connector.connect(server.clone(), stream).await?))
                    }
                }
            }
        }
    }
}

impl Tls {
    fn new(host: &str, files: &TlsFiles) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| CliError::usage(format!("TLS: {error}"));
        let ca = files.ca.as_ref().ok_or_else(|| {
            failed(&"no certificate of the server's authority: name it with --tlscacert")
        })?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots);
        let config = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => {
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| failed(&format!("{}: {error}", key.display())))?;
                config
                    .with_client_auth_cert(certificates(certificate)?, key)
                    .map_err(|error| failed(&error))?
            }
            (None, None) => config.with_no_client_auth(),
            (Some(_), None) => return Err(failed(&"a certificate without its key (--tlskey)")),
            (None, Some(_)) => return Err(failed(&"a key without its certificate (--tlscert)")),
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            server: ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?,
        })
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |why: String| CliError::usage(format!("TLS: {}: {why}", path.display()));
    let all = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| bad(error.to_string()))?;
    match all.is_empty() {
        true => Err(bad("there is no certificate in it".to_owned())),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_pair_and_broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, "nothing").unwrap();
        let told = |files: &TlsFiles| Tls::new("h", files).err().unwrap().to_string();
        assert!(told(&TlsFiles::default()).contains("--tlscacert"));
        let files = TlsFiles {
            ca: Some(ca.clone()),
            ..TlsFiles::default()
        };
        assert!(
            told(&files).contains("there is no certificate"),
            "{}",
            told(&files)
        );
    }
}
