//! TLS in which both sides show a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::error::{EngineError, Result};

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities whose clients are let in.
    pub ca: PathBuf,
    /// The server's certificate, followed by those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Reads the files. A client without a certificate of the authority is refused in the handshake.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let bad = |what: &str, path: &Path, why: &dyn std::fmt::Display| {
        EngineError::Listen(format!("the {what} {path:?} can't be used: {why}"))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca, "authority's certificate")? {
        roots
            .add(certificate)
            .map_err(|error| bad("authority's certificate", &files.ca, &error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| bad("authority's certificate", &files.ca, &error))?;
    let own = certificates(&files.certificate, "certificate")?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| bad("private key", &files.key, &error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("certificate", &files.certificate, &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(own, key)
        .map_err(|error| bad("certificate", &files.certificate, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let bad =
        |why: String| EngineError::Listen(format!("the {what} {path:?} can't be used: {why}"));
    let all = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| bad(error.to_string()))?;
    match all.is_empty() {
        true => Err(bad("there is none in it".to_owned())),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_certificates_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "nothing").unwrap();
        let files = |ca: &Path| TlsFiles {
            ca: ca.to_owned(),
            certificate: file.clone(),
            key: file.clone(),
        };
        for (ca, text) in [
            (&*file, "there is none"),
            (Path::new("/nowhere/ca"), "/nowhere/ca"),
        ] {
            let error = acceptor(&files(ca)).err().unwrap().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
