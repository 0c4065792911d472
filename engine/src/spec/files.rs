//! The small files that the engine puts into each container.

use super::hostname;
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
/// All of them.
pub const ALL: [File; 3] = [RESOLV_CONF, HOSTNAME, HOSTS];

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

/// Content of [`HOSTS`].
pub fn hosts_file(record: &Record) -> String {
    let mut text = LOCALHOST.to_owned();
    let gateway = record.endpoints.iter().find_map(|end| end.gateway);
    for entry in record.host.extra_hosts.iter().flatten() {
        if let Some((name, address)) = entry.split_once([':', '=']) {
            // The host, as the container reaches it.
            let address = match (address, gateway) {
                ("host-gateway", Some(gateway)) => gateway.to_string(),
                _ => address.to_owned(),
            };
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    for end in &record.endpoints {
        text.push_str(&format!("{}\t{}\n", end.address, hostname(record)));
    }
    text
}

/// Content of [`RESOLV_CONF`]: the host's, unless the container names servers.
pub fn resolv_conf_file(record: &Record, of_host: &str) -> String {
    let host = &record.host;
    let own: Option<String> = record
        .endpoints
        .iter()
        .find_map(|end| end.resolver)
        .map(|server| server.to_string());
    // On a network with names of its own, that network's server is asked, and asks the others.
    let servers: Vec<_> = match &own {
        Some(own) => vec![own],
        None => host.dns.iter().flatten().collect(),
    };
    let search: Vec<_> = host
        .dns_search
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let options: Vec<_> = host
        .dns_options
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let mut text = String::new();
    for server in &servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let keep = |line: &&str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        match word {
            // A server on the host's own loopback interface is not the container's.
            "nameserver" => servers.is_empty() && (record.endpoints.is_empty() || !is_local(line)),
            "search" | "domain" => search.is_empty(),
            "options" => options.is_empty(),
            _ => false,
        }
    };
    for line in of_host.lines().filter(keep) {
        text.push_str(line);
        text.push('\n');
    }
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

fn is_local(line: &str) -> bool {
    let address = line.split_whitespace().nth(1).unwrap_or_default();
    address
        .parse()
        .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
