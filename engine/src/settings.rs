//! The daemon's configuration file: the flags of `hulld` by other means.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where it is read from unless a flag says otherwise.
pub const DEFAULT_FILE: &str = "/etc/hull/hulld.json";
/// Most bytes of it.
const MAX_BYTES: u64 = 1 << 20;

/// What the file and the command line can say; each may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen.
    pub hosts: Vec<String>,
    /// Directory of what lasts.
    pub root: Option<PathBuf>,
    /// Directory of what lives.
    pub exec_root: Option<PathBuf>,
    /// Whose members may use the API's socket.
    pub group: Option<String>,
    /// Registries without TLS.
    pub insecure_registries: Vec<String>,
    /// Registries that are asked before others.
    pub registry_mirrors: Vec<String>,
    /// Ask clients that come by TCP for a certificate.
    #[serde(rename = "tlsverify")]
    pub tls_verify: Option<bool>,
    /// Authorities of such clients.
    #[serde(rename = "tlscacert")]
    pub tls_ca: Option<PathBuf>,
    /// The server's certificate.
    #[serde(rename = "tlscert")]
    pub tls_certificate: Option<PathBuf>,
    /// Its key.
    #[serde(rename = "tlskey")]
    pub tls_key: Option<PathBuf>,
    /// Containers that don't say have an init process.
    pub init: Option<bool>,
    /// The host's kernel may serve network interfaces.
    pub vhost_net: Option<bool>,
    /// The host's kernel may serve disks.
    pub io_uring: Option<bool>,
    /// No container is on the network `host`.
    pub no_host_network: Option<bool>,
    /// They are untrusted.
    pub untrusted: Option<bool>,
    /// Where they may begin conversations to.
    pub egress: Option<String>,
    /// The log driver of those that don't say.
    pub log_driver: Option<String>,
    /// Options of that driver.
    pub log_opts: HashMap<String, String>,
    /// Log more.
    pub debug: Option<bool>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("failed to read the configuration file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Its text is wrong: no JSON, an unknown key, a value of another type.
    #[error("the configuration file {path:?} is wrong")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The reason and the place.
        source: serde_json::Error,
    },
    /// A flag says it too.
    #[error("{0} is set both by a flag and in the configuration file: leave one of them out")]
    Twice(&'static str),
}

impl Settings {
    /// Reads a file. One that is not there is empty, unless it was asked for by name.
    pub fn read(path: &Path, asked: bool) -> Result<Self, SettingsError> {
        use std::io::Read as _;
        let failed = |source| SettingsError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => {
                return Ok(Self::default());
            }
            other => other.map_err(failed)?,
        };
        let mut text = String::new();
        file.take(MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        // An object: a list would be taken for the keys' values in order.
        serde_json::from_str::<serde_json::Map<_, _>>(&text)
            .and_then(|_| serde_json::from_str(&text))
            .map_err(|source| SettingsError::Parse {
                path: path.to_owned(),
                source,
            })
    }

    /// Joins what the command line says with what the file says.
    pub fn join(self, file: Self) -> Result<Self, SettingsError> {
        fn one<T>(
            name: &'static str,
            flag: Option<T>,
            file: Option<T>,
        ) -> Result<Option<T>, SettingsError> {
            match (flag, file) {
                (Some(_), Some(_)) => Err(SettingsError::Twice(name)),
                (flag, file) => Ok(flag.or(file)),
            }
        }
        let list = |name, flag: Vec<String>, file: Vec<String>| {
            let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
            one(name, some(flag), some(file)).map(Option::unwrap_or_default)
        };
        Ok(Self {
            hosts: list("hosts", self.hosts, file.hosts)?,
            root: one("root", self.root, file.root)?,
            exec_root: one("exec-root", self.exec_root, file.exec_root)?,
            group: one("group", self.group, file.group)?,
            insecure_registries: list(
                "insecure-registries",
                self.insecure_registries,
                file.insecure_registries,
            )?,
            registry_mirrors: list(
                "registry-mirrors",
                self.registry_mirrors,
                file.registry_mirrors,
            )?,
            tls_verify: one("tlsverify", self.tls_verify, file.tls_verify)?,
            tls_ca: one("tlscacert", self.tls_ca, file.tls_ca)?,
            tls_certificate: one("tlscert", self.tls_certificate, file.tls_certificate)?,
            tls_key: one("tlskey", self.tls_key, file.tls_key)?,
            init: one("init", self.init, file.init)?,
            vhost_net: one("vhost-net", self.vhost_net, file.vhost_net)?,
            io_uring: one("io-uring", self.io_uring, file.io_uring)?,
            no_host_network: one(
                "no-host-network",
                self.no_host_network,
                file.no_host_network,
            )?,
            untrusted: one("untrusted", self.untrusted, file.untrusted)?,
            egress: one("egress", self.egress, file.egress)?,
            log_driver: one("log-driver", self.log_driver, file.log_driver)?,
            log_opts: {
                let some = |map: HashMap<_, _>| (!map.is_empty()).then_some(map);
                one("log-opts", some(self.log_opts), some(file.log_opts))?.unwrap_or_default()
            },
            debug: one("debug", self.debug, file.debug)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hulld.json");
        std::fs::write(&path, text).unwrap();
        Settings::read(&path, true)
    }

    #[test]
    fn the_packaged_file_has_every_key_and_is_read() {
        let sample = include_str!("../../packaging/hulld.json");
        read(sample).unwrap();
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_errors() {
        for bad in [r#"{"rooot": "/x"}"#, r#"{"hosts": "x"}"#, "[]", "{"] {
            let error = read(bad).unwrap_err();
            assert!(
                matches!(error, SettingsError::Parse { .. }),
                "{bad}: {error}"
            );
        }
        assert_eq!(read("").unwrap(), Settings::default());
        assert!(Settings::read(Path::new("/nowhere/x"), true).is_err());
        assert!(Settings::read(Path::new("/nowhere/x"), false).is_ok());
    }

    #[test]
    fn a_key_is_said_once() {
        let debug = |value| Settings {
            debug: value,
            ..Settings::default()
        };
        assert_eq!(
            debug(Some(true)).join(debug(None)).unwrap(),
            debug(Some(true))
        );
        assert_eq!(
            debug(None).join(debug(Some(false))).unwrap(),
            debug(Some(false))
        );
        let twice = debug(Some(true)).join(debug(Some(true))).unwrap_err();
        assert!(
            twice.to_string().starts_with("debug is set both"),
            "{twice}"
        );
    }
}
