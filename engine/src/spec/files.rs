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

fn is_local(line: &str) -> bool {
    let address = line.split_whitespace().nth(1).unwrap_or_default();
    address
        .parse()
        .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
