//! What a client says of one end by the driver options of its network, as Docker has them.

use std::collections::{BTreeMap, HashMap};

use crate::error::{EngineError, Result};

const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
const IFNAME: &str = "com.docker.network.endpoint.ifname";
/// All that mean anything; others are kept and shown.
pub(crate) const KNOWN: [&str; 2] = [SYSCTLS, IFNAME];

/// Stands for the interface's name in the name of a kernel parameter.
const PLACEHOLDER: &str = "IFNAME";
/// `IFNAMSIZ` of the kernel, without the byte that ends it.
const MOST_NAME_BYTES: usize = 15;

/// What is said of one end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointOptions {
    /// What its interface is called.
    pub(super) ifname: Option<String>,
    /// Kernel parameters of the interface, the name's place held by [`PLACEHOLDER`].
    pub(super) sysctls: BTreeMap<String, String>,
}

impl EndpointOptions {
    pub(super) fn parse(options: &HashMap<String, String>) -> Result<Self> {
        let ifname = options.get(IFNAME).filter(|name| !name.is_empty());
        let sysctls = options.get(SYSCTLS).map(String::as_str).unwrap_or_default();
        let sysctls = sysctls.split(',').filter(|setting| !setting.is_empty());
        Ok(Self {
            ifname: ifname.map(|name| parse_ifname(name)).transpose()?,
            sysctls: sysctls.map(parse_sysctl).collect::<Result<_>>()?,
        })
    }
}

fn parse_ifname(name: &str) -> Result<String> {
    let usual = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    let is_name = name.len() <= MOST_NAME_BYTES
        && name.bytes().all(usual)
        && !matches!(name, "." | ".." | "lo" | "all" | "default");
    match is_name {
        true => Ok(name.to_owned()),
        false => Err(EngineError::BadRequest(format!(
            "invalid driver option {IFNAME}: {name:?} can't be an interface's name"
        ))),
    }
}

/// `net.FAMILY.GROUP.IFNAME.PARAMETER=VALUE`.
fn parse_sysctl(setting: &str) -> Result<(String, String)> {
    let bad = || {
        EngineError::BadRequest(format!(
            "invalid driver option {SYSCTLS}: {setting:?} is not as in \
             net.ipv4.conf.{PLACEHOLDER}.log_martians=1"
        ))
    };
    let (name, value) = setting.split_once('=').ok_or_else(bad)?;
    let parts: Vec<&str> = name.split('.').collect();
    let usual = |part: &&str| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        !part.is_empty() && part.bytes().all(word)
    };
    match parts.as_slice() {
        ["net", "ipv4" | "ipv6" | "mpls", _, PLACEHOLDER, _] if parts.iter().all(usual) => {
            Ok((name.to_owned(), value.trim().to_owned()))
        }
        _ => Err(bad()),
    }
}

/// The parameters of an interface, as paths below `/proc/sys`: its name may have dots.
pub(super) fn of_interface(
    sysctls: &BTreeMap<String, String>,
    name: &str,
) -> BTreeMap<String, String> {
    let path = |key: &String| {
        let parts = key.split('.').map(|part| match part {
            PLACEHOLDER => name,
            part => part,
        });
        parts.collect::<Vec<_>>().join("/")
    };
    let all = sysctls.iter();
    all.map(|(key, value)| (path(key), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<EndpointOptions> {
        let options = options.iter();
        let options = options.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        EndpointOptions::parse(&options.collect())
    }

    #[test]
    fn options_are_read_and_others_left() {
        let parsed = parse(&[
            (
                SYSCTLS,
                "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0",
            ),
            (IFNAME, "wan0"),
            ("other", "x"),
        ])
        .unwrap();
        assert_eq!(parsed.ifname.as_deref(), Some("wan0"));
        let paths: Vec<_> = of_interface(&parsed.sysctls, "wan.0").into_iter().collect();
        let expected = [
            ("net/ipv4/conf/wan.0/log_martians", "1"),
            ("net/ipv6/conf/wan.0/accept_ra", "0"),
        ];
        assert_eq!(paths, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(
            parse(&[("other", "x")]).unwrap(),
            EndpointOptions::default()
        );
    }

    #[test]
    fn bad_options_are_refused() {
        for bad in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.eth0.log_martians=1",
            "kernel.a.b.IFNAME.c=1",
            "net.ipv4.conf.IFNAME.log_martians",
            "net.ipv4.conf.IFNAME.a/../b=1",
            "net.ipv4..IFNAME.x=1",
        ] {
            let text = parse(&[(SYSCTLS, bad)]).unwrap_err().to_string();
            assert!(text.contains(bad), "{text}");
        }
        for bad in ["a/b", "..", "lo", "sixteen-letters-", "a b", "\u{e9}"] {
            let text = parse(&[(IFNAME, bad)]).unwrap_err().to_string();
            assert!(text.contains("interface's name"), "{text}");
        }
    }
}
