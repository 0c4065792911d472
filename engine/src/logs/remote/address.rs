//! Where a log server is.

use std::path::{Path, PathBuf};

/// Sockets of a host's own syslog server.
pub(super) const LOCAL_SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// This host's own syslog server.
    Local,
    Udp(HostPort),
    Tcp(HostPort),
    Tls(HostPort),
    /// A socket of streams.
    Unix(PathBuf),
    UnixDatagram(PathBuf),
}

/// A name or an address of a host, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// The socket that the address names.
    pub(super) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) | Self::UnixDatagram(path) => Some(path),
            _ => None,
        }
    }
}

/// Which addresses a driver takes.
pub(super) struct Form {
    /// The option's name, for messages.
    pub(super) option: &'static str,
    pub(super) port: u16,
    /// With TLS.
    pub(super) secure_port: u16,
}

impl Form {
    /// Reads what the option says.
    pub(super) fn read(&self, text: &str) -> Result<Address, String> {
        let option = self.option;
        let form = || format!("{option} should be in form proto://address, got {text}");
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        let path = || match rest.starts_with('/') {
            true => Ok(PathBuf::from(rest)),
            false => Err(format!("{option} {text}: want an absolute path")),
        };
        let host = |port| {
            HostPort::parse(rest, port).ok_or_else(|| format!("{option} {text}: bad host or port"))
        };
        match scheme {
            "udp" => Ok(Address::Udp(host(self.port)?)),
            "tcp" => Ok(Address::Tcp(host(self.port)?)),
            "tcp+tls" => Ok(Address::Tls(host(self.secure_port)?)),
            "unix" => Ok(Address::Unix(path()?)),
            "unixgram" => Ok(Address::UnixDatagram(path()?)),
            _ => Err(form()),
        }
    }
}

impl HostPort {
    pub(super) fn parse(text: &str, default_port: u16) -> Option<Self> {
        let text = text.split('/').next().unwrap_or_default();
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                match rest {
                    "" => (host, None),
                    rest => (host, Some(rest.strip_prefix(':')?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let host = if host.is_empty() { "localhost" } else { host };
        Some(Self {
            host: host.to_owned(),
            port: port.map_or(Some(default_port), |port| port.parse().ok())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_forms_are_read() {
        let at = |host: &str, port| HostPort {
            host: host.to_owned(),
            port,
        };
        let form = Form {
            option: "syslog-address",
            port: 514,
            secure_port: 6514,
        };
        for (text, address) in [
            ("udp://10.0.0.1", Address::Udp(at("10.0.0.1", 514))),
            (
                "tcp://logs.example:1514/",
                Address::Tcp(at("logs.example", 1514)),
            ),
            ("tcp+tls://[::1]", Address::Tls(at("::1", 6514))),
            ("udp://[fd00::1]:99", Address::Udp(at("fd00::1", 99))),
            ("udp://:514", Address::Udp(at("localhost", 514))),
            ("unix:///dev/log", Address::Unix("/dev/log".into())),
            ("unixgram:///x y", Address::UnixDatagram("/x y".into())),
        ] {
            assert_eq!(form.read(text), Ok(address), "{text}");
        }
        for bad in [
            "",
            "host:514",
            "http://x",
            "unix://relative",
            "tcp://x:port",
            "tcp://x:99999",
            "tcp://[x]:5",
            "tcp://[::1]5",
            "udp://::1",
        ] {
            assert!(form.read(bad).is_err(), "{bad}");
        }
    }
}
