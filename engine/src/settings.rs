//! The daemon's configuration file: the flags of `hulld` by other means.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bollard_stubs::models::ResourcesUlimits;
use hull_network::pool::{AddressPool, BadAddressPool};
use hull_network::{BadPrefix, Prefix};
use serde::Deserialize;

use crate::default_bridge::{DefaultBridge, FamilyOfBridge};

/// Where it is read from unless a flag says otherwise.
pub const DEFAULT_FILE: &str = "/etc/hull/hulld.json";
/// Most bytes of it.
const MAX_BYTES: u64 = 1 << 20;

/// How much the daemon says of what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// All.
    Debug,
    /// What is usual, too.
    Info,
    /// What may be wrong.
    Warn,
    /// What is wrong.
    Error,
    /// The same: what ends the daemon is said whatever the level.
    Fatal,
}

impl LogLevel {
    /// As filters of logs have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error | Self::Fatal => "error",
        }
    }
}

/// How a line of the daemon's log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// A pool of addresses as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, try_from = "PoolText")]
pub struct PoolSetting(pub AddressPool);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolText {
    base: String,
    size: u8,
}

impl TryFrom<PoolText> for PoolSetting {
    type Error = BadAddressPool;

    fn try_from(text: PoolText) -> Result<Self, BadAddressPool> {
        let syntax = |_| BadAddressPool::Syntax(text.base.clone());
        let base: Prefix = text.base.parse().map_err(syntax)?;
        AddressPool::new(base, text.size).map(Self)
    }
}

/// Bytes as a number, or as a text with a unit, such as `64m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BytesText")]
pub struct Bytes(pub i64);

#[derive(Deserialize)]
#[serde(untagged)]
enum BytesText {
    Number(i64),
    Text(String),
}

impl TryFrom<BytesText> for Bytes {
    type Error = String;

    fn try_from(text: BytesText) -> Result<Self, String> {
        match text {
            BytesText::Number(bytes) if 0 < bytes => Ok(Self(bytes)),
            BytesText::Number(bytes) => Err(format!("invalid size {bytes}: want at least a byte")),
            BytesText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        hull_units::binary(text, 1..=i64::MAX.unsigned_abs())
            .and_then(|bytes| i64::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| format!("invalid size {text:?}: want bytes, such as 64m"))
    }
}

/// An address with the length of its network prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr(pub Prefix);

impl TryFrom<String> for Cidr {
    type Error = BadPrefix;

    fn try_from(text: String) -> Result<Self, BadPrefix> {
        text.parse()
    }
}

impl std::str::FromStr for Cidr {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        text.parse().map(Self)
    }
}

/// A limit as dockerd's file has it, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Ulimit {
    /// The same name again, which may be left out.
    pub name: Option<String>,
    /// What the kernel holds a process to; -1: no limit.
    pub soft: i64,
    /// Up to where a process may raise it.
    pub hard: i64,
}

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
    /// Whom they ask for names.
    pub dns: Vec<String>,
    /// Options of that, such as `ndots:1`.
    pub dns_opts: Vec<String>,
    /// Domains of that.
    pub dns_search: Vec<String>,
    /// Limits of processes, by name.
    pub default_ulimits: HashMap<String, Ulimit>,
    /// Their `/dev/shm`.
    pub default_shm_size: Option<Bytes>,
    /// What networks' addresses are chosen from.
    pub default_address_pools: Vec<PoolSetting>,
    /// Size of packets of the default network, in bytes.
    pub mtu: Option<u16>,
    /// The host's address on the default network, and its subnet.
    pub bip: Option<Cidr>,
    /// The same of IPv6.
    pub bip6: Option<Cidr>,
    /// The part of that subnet which containers get addresses of.
    pub fixed_cidr: Option<Cidr>,
    /// The same of IPv6.
    pub fixed_cidr_v6: Option<Cidr>,
    /// The default network has IPv6.
    pub ipv6: Option<bool>,
    /// Containers on it reach each other.
    pub icc: Option<bool>,
    /// They reach others under the host's address.
    pub ip_masq: Option<bool>,
    /// Where their ports are published that name no address.
    pub ip: Option<IpAddr>,
    /// What is said of this engine.
    pub labels: Vec<String>,
    /// How much is logged.
    pub log_level: Option<LogLevel>,
    /// How a line is written.
    pub log_format: Option<LogFormat>,
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
    /// A limit has two names.
    #[error("default-ulimits: the limit {key:?} has the name {name:?}: want the same, or none")]
    Ulimit {
        /// One.
        key: String,
        /// The other.
        name: String,
    },
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
        fn list<T>(
            name: &'static str,
            flag: Vec<T>,
            file: Vec<T>,
        ) -> Result<Vec<T>, SettingsError> {
            let some = |list: Vec<T>| (!list.is_empty()).then_some(list);
            one(name, some(flag), some(file)).map(Option::unwrap_or_default)
        }
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
            dns: list("dns", self.dns, file.dns)?,
            dns_opts: list("dns-opts", self.dns_opts, file.dns_opts)?,
            dns_search: list("dns-search", self.dns_search, file.dns_search)?,
            default_ulimits: file.default_ulimits,
            default_shm_size: one(
                "default-shm-size",
                self.default_shm_size,
                file.default_shm_size,
            )?,
            default_address_pools: list(
                "default-address-pools",
                self.default_address_pools,
                file.default_address_pools,
            )?,
            mtu: one("mtu", self.mtu, file.mtu)?,
            bip: one("bip", self.bip, file.bip)?,
            bip6: one("bip6", self.bip6, file.bip6)?,
            fixed_cidr: one("fixed-cidr", self.fixed_cidr, file.fixed_cidr)?,
            fixed_cidr_v6: one("fixed-cidr-v6", self.fixed_cidr_v6, file.fixed_cidr_v6)?,
            ipv6: one("ipv6", self.ipv6, file.ipv6)?,
            icc: one("icc", self.icc, file.icc)?,
            ip_masq: one("ip-masq", self.ip_masq, file.ip_masq)?,
            ip: one("ip", self.ip, file.ip)?,
            labels: list("labels", self.labels, file.labels)?,
            log_level: one("log-level", self.log_level, file.log_level)?,
            log_format: one("log-format", self.log_format, file.log_format)?,
            debug: one("debug", self.debug, file.debug)?,
        })
    }

    /// What is said of the default network.
    pub fn bridge(&self) -> DefaultBridge {
        let prefix = |said: Option<Cidr>| said.map(|cidr| cidr.0);
        let family = |host, range| FamilyOfBridge {
            host: prefix(host),
            range: prefix(range),
        };
        // With Docker this one stands for all addresses.
        let all = |address: &IpAddr| address.is_ipv4() && address.is_unspecified();
        DefaultBridge {
            families: [
                family(self.bip, self.fixed_cidr),
                family(self.bip6, self.fixed_cidr_v6),
            ],
            ipv6: self.ipv6.unwrap_or(false),
            icc: self.icc.unwrap_or(true),
            masquerade: self.ip_masq.unwrap_or(true),
            host_binding: self.ip.filter(|address| !all(address)),
        }
    }

    /// The limits of processes, as the API has them.
    ///
    /// # Errors
    ///
    /// One is called otherwise by its key.
    pub fn ulimits(&self) -> Result<Vec<ResourcesUlimits>, SettingsError> {
        let mut all = Vec::new();
        for (key, limit) in &self.default_ulimits {
            if let Some(name) = limit.name.as_ref().filter(|name| *name != key) {
                return Err(SettingsError::Ulimit {
                    key: key.clone(),
                    name: name.clone(),
                });
            }
            all.push(ResourcesUlimits {
                name: Some(key.clone()),
                soft: Some(limit.soft),
                hard: Some(limit.hard),
            });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
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
        let sample: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(sample).unwrap();
        // What serde says of an unknown key names all of them.
        let known = read(r#"{"": 0}"#).unwrap_err();
        let known = std::error::Error::source(&known).unwrap().to_string();
        let (_, known) = known.split_once("expected one of ").unwrap();
        let (known, _) = known.split_once(" at line").unwrap();
        let mut known: Vec<_> = known.split(", ").map(|key| key.trim_matches('`')).collect();
        known.sort_unstable();
        let mut keys: Vec<_> = sample.keys().collect();
        keys.sort_unstable();
        assert_eq!(keys, known);
    }

    #[test]
    fn a_file_of_dockerds_is_read() {
        let settings = read(
            r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64000, "Soft": 1000}, "core": {"Hard": -1, "Soft": 0}},
            "default-address-pools": [{"base": "10.10.0.0/16", "size": 24}], "default-shm-size": "128M",
            "log-level": "warn", "log-format": "json",
            "bip": "10.9.0.1/16", "fixed-cidr": "10.9.8.0/24", "icc": false, "ip-masq": false, "ip": "0.0.0.0"}"#,
        )
        .unwrap();
        let bridge = settings.bridge();
        assert_eq!(bridge.families[0].host, "10.9.0.1/16".parse().ok());
        assert_eq!(bridge.families[0].range, "10.9.8.0/24".parse().ok());
        assert_eq!((bridge.icc, bridge.masquerade), (false, false));
        assert_eq!((bridge.ipv6, bridge.host_binding), (false, None));
        let limits = settings.ulimits().unwrap();
        let named =
            |limit: &ResourcesUlimits| (limit.name.clone().unwrap(), limit.soft, limit.hard);
        assert_eq!(
            limits.iter().map(named).collect::<Vec<_>>(),
            [
                ("core".to_owned(), Some(0), Some(-1)),
                ("nofile".to_owned(), Some(1000), Some(64000))
            ]
        );
        assert_eq!(settings.default_shm_size, Some(Bytes(128 << 20)));
        assert_eq!(settings.default_address_pools.len(), 1);
        assert_eq!(
            (settings.log_level, settings.log_format),
            (Some(LogLevel::Warn), Some(LogFormat::Json))
        );
    }

    #[test]
    fn values_that_cannot_hold_are_errors() {
        for bad in [
            r#"{"default-address-pools": [{"base": "10.0.0.1/8", "size": 24}]}"#,
            r#"{"default-address-pools": [{"base": "10.0.0.0/8"}]}"#,
            r#"{"default-shm-size": "many"}"#,
            r#"{"default-shm-size": -1}"#,
            r#"{"mtu": 70000}"#,
            r#"{"bip": "10.0.0.1"}"#,
            r#"{"fixed-cidr": "10.0.0.0/40"}"#,
            r#"{"ip": "localhost"}"#,
            r#"{"icc": "no"}"#,
            r#"{"log-level": "loud"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let renamed =
            read(r#"{"default-ulimits": {"core": {"Name": "cpu", "Soft": 0, "Hard": 0}}}"#);
        assert!(renamed.unwrap().ulimits().is_err());
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
