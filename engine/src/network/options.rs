//! What a client says of a network by its driver's options, as Docker's bridge has them.

use std::net::IpAddr;

use super::manage::CreateNetwork;
use super::records::NetworkRecord;
use crate::error::{EngineError, Result};
use crate::logs::flag;

pub(super) const ICC: &str = "com.docker.network.bridge.enable_icc";
pub(super) const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
pub(super) const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const GATEWAY_MODES: [&str; 2] = [
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
];
/// Of Docker's, and what Hull does anyway: another value of them is refused.
const AS_IT_IS: [(&str, &[&str]); 6] = [
    (GATEWAY_MODES[0], &["", "nat"]),
    (GATEWAY_MODES[1], &["", "nat"]),
    ("com.docker.network.bridge.inhibit_ipv4", &["false"]),
    ("com.docker.network.bridge.default_bridge", &["false"]),
    ("com.docker.network.bridge.trusted_host_interfaces", &[""]),
    ("com.docker.network.container_iface_prefix", &["", "eth"]),
];
/// Read elsewhere.
const OTHERS: [&str; 3] = [
    super::bridge::MTU_OPTION,
    "com.docker.network.enable_ipv4",
    "com.docker.network.enable_ipv6",
];
/// Where Docker's own options begin: one that is not known is a slip.
const NAMESPACE: &str = "com.docker.network.";

/// What is said of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetworkOptions {
    /// Containers reach each other.
    pub(super) icc: bool,
    /// They reach others under the host's address.
    pub(super) masquerade: bool,
    /// Where ports are published that name no address; `None`: on all of the host's.
    pub(super) host_binding: Option<IpAddr>,
}

impl NetworkOptions {
    /// Has a network that was made before Hull knew these options be as they say.
    pub(super) fn apply_to(network: &mut NetworkRecord) {
        if network.driver() != super::DEFAULT {
            return;
        }
        let wanted = CreateNetwork {
            options: network.options.clone(),
            ..CreateNetwork::default()
        };
        match Self::parse(&wanted) {
            Ok(options) => {
                network.unmasked |= !options.masquerade;
                network.host_binding = network.host_binding.or(options.host_binding);
            }
            Err(error) => {
                tracing::warn!(
                    network = network.name,
                    error = error.message(),
                    "its options"
                );
            }
        }
    }

    pub(super) fn parse(wanted: &CreateNetwork) -> Result<Self> {
        let option = |key: &str| wanted.options.get(key).map(String::as_str);
        if is_bridge(wanted) {
            for (key, usual) in AS_IT_IS {
                check_usual(key, option(key), usual)?;
            }
        }
        let binding = option(HOST_BINDING).filter(|text| !text.is_empty());
        let binding = binding.map(|text| {
            text.parse::<IpAddr>().map_err(|_| {
                EngineError::BadRequest(format!(
                    "invalid driver-opt {HOST_BINDING}: {text:?} is no address"
                ))
            })
        });
        // With Docker this one stands for all addresses.
        let all = |address: &IpAddr| address.is_ipv4() && address.is_unspecified();
        Ok(Self {
            icc: asked(ICC, option(ICC))?,
            masquerade: asked(MASQUERADE, option(MASQUERADE))?,
            host_binding: binding.transpose()?.filter(|address| !all(address)),
        })
    }
}

fn is_bridge(wanted: &CreateNetwork) -> bool {
    matches!(wanted.driver.as_str(), "" | "bridge")
}

fn asked(key: &str, text: Option<&str>) -> Result<bool> {
    match text {
        None => Ok(true),
        Some(text) => flag(text).ok_or_else(|| {
            EngineError::BadRequest(format!("driver-opt {key:?} is not a valid bool: {text:?}"))
        }),
    }
}

fn check_usual(key: &str, text: Option<&str>, usual: &[&str]) -> Result<()> {
    let is_usual = |text: &str| {
        let same_flag = || {
            usual
                .iter()
                .any(|one| flag(one).is_some() && flag(one) == flag(text))
        };
        usual.contains(&text) || same_flag()
    };
    match text.filter(|text| !is_usual(text)) {
        None => Ok(()),
        Some(text) => Err(EngineError::NotBuilt(format!(
            "the driver option {key}={text} of a network"
        ))),
    }
}

/// What a client is told of options that change nothing.
pub(crate) fn warnings(wanted: &CreateNetwork, bridge_name: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let bridge = is_bridge(wanted);
    for (key, value) in &wanted.options {
        let known = [ICC, MASQUERADE, HOST_BINDING].contains(&key.as_str())
            || AS_IT_IS.iter().any(|(one, _)| one == key);
        if key == BRIDGE_NAME && bridge {
            warnings.push(format!(
                "The bridge is not called {value:?} but {bridge_name}: Hull names its bridges \
                 itself, rules of a firewall that name it do not hold."
            ));
        } else if key.starts_with(NAMESPACE)
            && !(known && bridge)
            && !OTHERS.contains(&key.as_str())
        {
            warnings.push(format!(
                "The driver option {key} is not known: it changes nothing."
            ));
        }
    }
    warnings.sort();
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(driver: &str, options: &[(&str, &str)]) -> CreateNetwork {
        let options = options.iter();
        CreateNetwork {
            driver: driver.into(),
            options: options
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..CreateNetwork::default()
        }
    }

    fn parse(key: &str, value: &str) -> Result<NetworkOptions> {
        NetworkOptions::parse(&wanted("bridge", &[(key, value)]))
    }

    #[test]
    fn flags_are_read_in_all_their_spellings() {
        for off in ["0", "f", "F", "false", "FALSE", "False"] {
            assert!(!parse(ICC, off).unwrap().icc, "{off}");
            assert!(!parse(MASQUERADE, off).unwrap().masquerade, "{off}");
        }
        for on in ["1", "t", "true", "True"] {
            assert!(parse(ICC, on).unwrap().icc, "{on}");
        }
        for bad in ["maybe", "", "no", "fAlse"] {
            let error = parse(ICC, bad).unwrap_err().to_string();
            assert!(error.contains("not a valid bool"), "{error}");
        }
        assert!(NetworkOptions::parse(&wanted("", &[])).unwrap().icc);
    }

    #[test]
    fn an_address_for_published_ports_is_read() {
        let binding = |text| parse(HOST_BINDING, text).map(|options| options.host_binding);
        assert_eq!(binding("127.0.0.1").unwrap(), "127.0.0.1".parse().ok());
        assert_eq!(binding("0.0.0.0").unwrap(), None);
        assert_eq!(binding("").unwrap(), None);
        assert!(binding("localhost")
            .unwrap_err()
            .to_string()
            .contains("localhost"));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (key, value) in [
            (GATEWAY_MODES[0], "isolated"),
            (GATEWAY_MODES[1], "routed"),
            (AS_IT_IS[2].0, "true"),
            (AS_IT_IS[4].0, "eth0"),
            (AS_IT_IS[5].0, "net"),
        ] {
            let error = parse(key, value).unwrap_err().to_string();
            assert!(error.contains(&format!("{key}={value}")), "{error}");
        }
        for (key, value) in [
            (GATEWAY_MODES[0], "nat"),
            (AS_IT_IS[2].0, "0"),
            (AS_IT_IS[5].0, "eth"),
        ] {
            assert!(parse(key, value).is_ok(), "{key}");
        }
    }

    #[test]
    fn options_that_change_nothing_are_told_of() {
        let told = |driver, key| warnings(&wanted(driver, &[(key, "x")]), "hb1").join(" ");
        assert!(told("", BRIDGE_NAME).contains("but hb1"));
        assert!(told("bridge", "com.docker.network.bridge.enable_ic").contains("not known"));
        assert!(told("macvlan", ICC).contains("not known"));
        for silent in [ICC, MASQUERADE, OTHERS[0], "of.another", "parent"] {
            assert_eq!(told("bridge", silent), "");
        }
    }
}
