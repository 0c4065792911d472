//! The small files that the engine puts into each container.

use super::hostname;
use crate::network::Endpoint;
use crate::record::Record;

/// A file of the bundle and where the container sees it.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// Name in the bundle.
    pub name: &'static str,
    /// Path in the container.
    pub target: &'static str,
}

/// Name resolution.
pub const RESOLV_CONF: File = File {
    name: "resolv.conf",
    target: "/etc/resolv.conf",
};
/// The host name.
pub const HOSTNAME: File = File {
    name: "hostname",
    target: "/etc/hostname",
};
/// Fixed host addresses.
pub const HOSTS: File = File {
    name: "hosts",
    target: "/etc/hosts",
};
/// An empty file, by whose presence programs tell that a docker engine runs them.
pub const DOCKERENV: File = File {
    name: "dockerenv",
    target: "/.dockerenv",
};
/// All of them.
pub const ALL: [File; 4] = [RESOLV_CONF, HOSTNAME, HOSTS, DOCKERENV];

const LOCALHOST: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Content of [`HOSTNAME`].
pub fn hostname_file(record: &Record) -> String {
    format!("{}\n", hostname(record))
}

/// Content of [`HOSTS`]; `of_host`: what it is to begin with, if not as usual.
pub fn hosts_file(record: &Record, of_host: &str) -> String {
    let mut text = match of_host {
        "" => LOCALHOST.to_owned(),
        of_host => format!("{}\n", of_host.trim_end()),
    };
    let gateways = record.endpoints.iter();
    let mut gateways = gateways.filter_map(|end| end.gateways().next().or(end.resolver));
    let gateway = gateways.next();
    for entry in record.host.extra_hosts.iter().flatten() {
        if let Some((name, address)) = entry.split_once([':', '=']) {
            // The host, as the container reaches it.
            let address = match (address, gateway) {
                ("host-gateway", Some(gateway)) => gateway.to_string(),
                // It is on no network.
                ("host-gateway", None) => continue,
                _ => address.trim_matches(['[', ']']).to_owned(),
            };
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    // The host's file has the host's name.
    let own = record.endpoints.iter().filter(|_| of_host.is_empty());
    for line in own.flat_map(|end| hosts_lines(record, end)) {
        text.push_str(&format!("{line}\n"));
    }
    text
}

/// The lines of [`HOSTS`] that the container has for one of its ends.
pub(crate) fn hosts_lines(record: &Record, end: &Endpoint) -> Vec<String> {
    let names = own_names(record);
    end.addresses()
        .map(|address| format!("{address}\t{names}"))
        .collect()
}

/// The container's name in full and, where that has a domain, in short.
fn own_names(record: &Record) -> String {
    let mut names = hostname(record).to_owned();
    let domain = record.config.domainname.as_deref().unwrap_or_default();
    if !domain.is_empty() {
        names = format!("{names}.{domain}");
    }
    match names.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{names} {short}"),
        _ => names,
    }
}

/// Content of [`RESOLV_CONF`]: the host's, unless the container says otherwise.
pub fn resolv_conf_file(record: &Record, of_host: &str) -> String {
    let host = &record.host;
    let own: Option<String> = record
        .endpoints
        .iter()
        .find_map(|end| end.resolver)
        .map(|server| server.to_string());
    // Its network's server is asked, and asks the others.
    let servers: Vec<_> = match &own {
        Some(own) => vec![own],
        None => host.dns.iter().flatten().collect(),
    };
    let words = |list: &Option<Vec<String>>| -> Option<String> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.join(" "))
    };
    let search = words(&host.dns_search);
    let mut options = words(&host.dns_options);
    let mut text = String::new();
    for server in &servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let keep = |line: &&str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        match word {
            // A server on the host's own loopback interface is not the container's.
            "nameserver" => servers.is_empty() && (record.endpoints.is_empty() || !is_local(line)),
            "search" | "domain" => search.is_none(),
            "options" => options.is_none(),
            _ => false,
        }
    };
    let kept: Vec<&str> = of_host.lines().filter(keep).collect();
    for line in &kept {
        text.push_str(line);
        text.push('\n');
    }
    // A dot alone: there is nothing to search.
    if let Some(search) = search.filter(|search| search != ".") {
        text.push_str(&format!("search {search}\n"));
    }
    // A container's name has no dot, and is asked for as it is before a domain is added to it.
    let mut all = options.iter().map(String::as_str).chain(kept);
    if own.is_some() && !all.any(|words| words.contains("ndots:")) {
        let more = options.map_or_else(String::new, |options| format!("{options} "));
        options = Some(format!("{more}ndots:0"));
    }
    if let Some(options) = options {
        text.push_str(&format!("options {options}\n"));
    }
    text
}

/// The lines of [`RESOLV_CONF`] that go, and those that come, when a container's networks change.
pub fn resolver_changes(
    before: &Record,
    now: &Record,
    of_host: &str,
) -> (Vec<String>, Vec<String>) {
    let (old, new) = (
        resolv_conf_file(before, of_host),
        resolv_conf_file(now, of_host),
    );
    let only_in = |one: &str, other: &str| {
        let lines = one
            .lines()
            .filter(|line| !other.lines().any(|it| it == *line));
        lines.map(str::to_owned).collect()
    };
    (only_in(&old, &new), only_in(&new, &old))
}

fn is_local(line: &str) -> bool {
    let address = line.split_whitespace().nth(1).unwrap_or_default();
    address
        .parse()
        .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use bollard_stubs::models::HostConfig;
    use serde_json::json;

    use super::*;

    /// What resolved writes where it serves the host itself.
    const STUB: &str = "# local\nnameserver 127.0.0.53\nsearch lan.test\noptions edns0 ndots:2\n";

    fn end(resolver: Option<&str>) -> Endpoint {
        let end = json!({
            "network_id": "n", "network_name": "n", "id": "", "mac": "", "mtu": 1500,
            "tap": "h0tap", "names": [], "resolver": resolver,
        });
        serde_json::from_value(end).unwrap()
    }

    fn record(ends: &[Endpoint], host: HostConfig) -> Record {
        Record {
            endpoints: ends.to_vec(),
            host,
            ..crate::record::tests::record()
        }
    }

    fn words(all: &[&str]) -> Option<Vec<String>> {
        Some(all.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn the_networks_server_asks_those_that_only_the_host_reaches() {
        let plain = record(&[end(Some("172.17.0.1"))], HostConfig::default());
        let text = resolv_conf_file(&plain, STUB);
        let rest = "search lan.test\noptions edns0 ndots:2\n";
        assert_eq!(text, format!("nameserver 172.17.0.1\n{rest}"));
        // Where nobody asks for it, a server on the host's loopback interface is of no use.
        let elsewhere = record(&[end(None)], HostConfig::default());
        assert!(!resolv_conf_file(&elsewhere, STUB).contains("nameserver"));
        // Without a network the file is the host's.
        let none = record(&[], HostConfig::default());
        assert!(resolv_conf_file(&none, STUB).contains("nameserver 127.0.0.53\n"));
    }

    #[test]
    fn what_the_container_says_takes_the_place_of_what_the_host_says() {
        let host = HostConfig {
            dns: words(&["192.0.2.1", "2001:db8::1"]),
            dns_search: words(&["corp.test", "other.test"]),
            dns_options: words(&["timeout:3", "ndots:3"]),
            ..HostConfig::default()
        };
        let own = record(&[end(None)], host.clone());
        assert_eq!(
            resolv_conf_file(&own, STUB),
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch corp.test other.test\n\
             options timeout:3 ndots:3\n"
        );
        // The network's server asks the others for it.
        let ours = record(&[end(Some("10.0.0.1"))], host.clone());
        let text = resolv_conf_file(&ours, STUB);
        assert!(text.starts_with("nameserver 10.0.0.1\nsearch"), "{text}");
        let nothing = HostConfig {
            dns_search: words(&["."]),
            dns_options: words(&["attempts:1"]),
            ..host
        };
        let text = resolv_conf_file(&record(&[end(Some("10.0.0.1"))], nothing), STUB);
        assert_eq!(text, "nameserver 10.0.0.1\noptions attempts:1 ndots:0\n");
    }

    #[test]
    fn only_lines_that_differ_are_changed() {
        let on = |server| record(&[end(Some(server))], HostConfig::default());
        let (remove, add) = resolver_changes(&on("10.0.0.1"), &on("10.0.1.1"), STUB);
        assert_eq!(
            (remove, add),
            (
                vec!["nameserver 10.0.0.1".to_owned()],
                vec!["nameserver 10.0.1.1".to_owned()]
            )
        );
        let (remove, add) = resolver_changes(&on("10.0.0.1"), &on("10.0.0.1"), STUB);
        assert!(remove.is_empty() && add.is_empty());
    }
}
