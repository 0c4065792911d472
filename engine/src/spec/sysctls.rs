//! The kernel parameters of a container's network, and those that its user asks for.

use std::collections::BTreeMap;

use bollard_stubs::models::HostConfig;

use crate::container::joins;
use crate::network::is_host_mode;

/// What docker sets in each network namespace that is a container's own: as any user, a process may
/// listen on ports below 1024 and send echo requests.
const OF_AN_OWN_NETWORK: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// All that `host` sets, in the order of their names; what the user asks for goes before.
pub(super) fn sysctls(host: &HostConfig) -> BTreeMap<&str, &str> {
    let own = !is_host_mode(host) && !joins(host);
    let defaults = OF_AN_OWN_NETWORK.into_iter().filter(|_| own);
    let asked = host.sysctls.iter().flatten();
    defaults
        .chain(asked.map(|(name, value)| (name.as_str(), value.as_str())))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn of(mode: &str, asked: &[(&str, &str)]) -> HostConfig {
        let asked = asked
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        HostConfig {
            network_mode: Some(mode.to_owned()),
            sysctls: Some(asked.collect::<HashMap<_, _>>()),
            ..HostConfig::default()
        }
    }

    #[test]
    fn an_own_network_is_open_to_every_user() {
        let host = of("bridge", &[("net.ipv4.ip_unprivileged_port_start", "80")]);
        let expected = [
            ("net.ipv4.ip_unprivileged_port_start", "80"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ];
        assert_eq!(sysctls(&host), expected.into());
    }

    #[test]
    fn anothers_network_is_left_as_it_is() {
        assert!(sysctls(&of("host", &[])).is_empty());
        assert!(sysctls(&of("container:a", &[])).is_empty());
    }
}
