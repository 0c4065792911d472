//! Docker's `-H`.

use std::path::PathBuf;
use std::str::FromStr;

/// Port of an address without one: with TLS, as Docker's.
const TLS_PORT: u16 = 2376;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:///path`.
    Unix(PathBuf),
    /// `tcp://host:port`.
    Tcp(String),
    /// `fd://`: what systemd hands over.
    Activated,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(PathBuf::from(path))),
                false => Err(format!("{text:?}: the path has to begin with a slash")),
            };
        }
        if let Some(place) = text.strip_prefix("tcp://") {
            return tcp(place.trim_end_matches('/')).ok_or_else(|| {
                format!("{text:?}: it has to be tcp://ADDRESS[:PORT], IPv6 addresses in brackets")
            });
        }
        match text {
            "fd://" => Ok(Self::Activated),
            _ => Err(format!(
                "{text:?}: it has to be unix:///path, tcp://address:port or fd://"
            )),
        }
    }
}

fn tcp(place: &str) -> Option<Address> {
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (place, TLS_PORT),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let fits = bracketed || (!host.contains([':', '/', '[', ']']) && !host.is_empty());
    fits.then(|| Address::Tcp(format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_dockers() {
        let tcp = |text: &str| Ok(Address::Tcp(text.to_owned()));
        assert_eq!("unix:///run/x".parse(), Ok(Address::Unix("/run/x".into())));
        assert_eq!("fd://".parse(), Ok(Address::Activated));
        assert_eq!("tcp://127.0.0.1:2375".parse(), tcp("127.0.0.1:2375"));
        assert_eq!("tcp://0.0.0.0".parse(), tcp("0.0.0.0:2376"));
        assert_eq!("tcp://[::1]".parse(), tcp("[::1]:2376"));
        assert_eq!("tcp://[::1]:1/".parse(), tcp("[::1]:1"));
        for bad in [
            "",
            "unix://x",
            "tcp://",
            "tcp://a:b",
            "tcp://a/b:1",
            "tcp://::1",
            "ssh://x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
