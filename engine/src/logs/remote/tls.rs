//! TLS to a syslog server.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature, CryptoProvider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::logs::options::flag;

/// Most bytes of a file in PEM.
const MAX_PEM_BYTES: u64 = 1 << 20;
pub(super) const CA: &str = "syslog-tls-ca-cert";
pub(super) const CERTIFICATE: &str = "syslog-tls-cert";
pub(super) const KEY: &str = "syslog-tls-key";
pub(super) const SKIP_VERIFY: &str = "syslog-tls-skip-verify";

/// Files in PEM, and whether the server's certificate is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsOptions {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    skip_verify: bool,
}

/// A certificate or a key that can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("{option}: {path:?} can't be used: {why}")]
    File {
        option: &'static str,
        path: PathBuf,
        why: String,
    },
    #[error("this host trusts no authority: name that of the server by {CA}")]
    NoAuthority,
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsOptions {
    pub(super) fn parse(options: &HashMap<String, String>) -> Result<Self, String> {
        let path = |key| {
            let text = options.get(key).filter(|text| !text.is_empty());
            text.map(PathBuf::from)
        };
        let skip_verify = match options.get(SKIP_VERIFY).map(String::as_str) {
            None => false,
            Some("") => true,
            Some(text) => {
                flag(text).ok_or_else(|| format!("invalid value for {SKIP_VERIFY}: {text:?}"))?
            }
        };
        let parsed = Self {
            ca: path(CA),
            certificate: path(CERTIFICATE),
            key: path(KEY),
            skip_verify,
        };
        match (&parsed.certificate, &parsed.key) {
            (Some(_), None) => Err(format!("{CERTIFICATE} needs {KEY}")),
            (None, Some(_)) => Err(format!("{KEY} needs {CERTIFICATE}")),
            _ => Ok(parsed),
        }
    }
}

/// Reads the files. Without an authority it is those that the host trusts.
pub(super) fn connector(options: &TlsOptions) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match options.skip_verify {
        true => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider))),
        false => builder.with_root_certificates(roots(options.ca.as_deref())?),
    };
    let config = match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(CERTIFICATE, certificate)?;
            let secret = PrivateKeyDer::from_pem_slice(&read(KEY, key)?)
                .map_err(|error| unusable(KEY, key, &error))?;
            builder.with_client_auth_cert(chain, secret)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(CA, path)? {
                roots
                    .add(certificate)
                    .map_err(|error| unusable(CA, path, &error))?;
            }
        }
        None => {
            // Some of a host's may be such that nobody can use.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::NoAuthority);
            }
        }
    }
    Ok(roots)
}

fn unusable(option: &'static str, path: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        option,
        path: path.to_owned(),
        why: why.to_string(),
    }
}

fn certificates(
    option: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(option, path)?;
    let all = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(option, path, &error))?;
    match all.is_empty() {
        true => Err(unusable(option, path, &"there is none in it")),
        false => Ok(all),
    }
}

/// A device or a pipe would never end.
fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        let mut text = Vec::new();
        std::fs::File::open(path)?
            .take(MAX_PEM_BYTES)
            .read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| unusable(option, path, &error))
}

/// Takes any certificate, as `syslog-tls-skip-verify` asks for; the handshake is real all the same.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[(&str, &str)]) -> Result<TlsOptions, String> {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        TlsOptions::parse(&options.collect())
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named_by_its_option() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "nothing").unwrap();
        for path in [file.to_str().unwrap(), "/nowhere/ca.pem", "/dev/zero"] {
            let options = parsed(&[(CA, path)]).unwrap();
            let text = connector(&options).err().unwrap().to_string();
            assert!(text.contains(CA) && text.contains(path), "{text}");
        }
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert!(parsed(&[(CERTIFICATE, "/c")]).is_err());
        assert!(parsed(&[(KEY, "/k")]).is_err());
        assert!(parsed(&[(SKIP_VERIFY, "perhaps")]).is_err());
        assert!(parsed(&[(SKIP_VERIFY, "true")]).unwrap().skip_verify);
        assert!(!parsed(&[(SKIP_VERIFY, "false")]).unwrap().skip_verify);
    }
}
