//! Packet rules: one nftables table of an engine's own, made whole from what networks there are.
//!
//! Nothing else of the host's rules is touched. The table is written in one transaction, so there
//! is no moment with half of it.

use std::io;
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::Prefix;

/// Why the rules can't be made.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The program is missing.
    #[error("failed to run nft, which writes packet rules; install the package nftables")]
    Run {
        /// Why.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("nft refused the packet rules: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// Forwarding can't be switched on.
    #[error("failed to let this host forward packets ({path})")]
    Forwarding {
        /// The setting.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A network, as far as rules go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its bridge.
    pub bridge: String,
    /// Its addresses.
    pub subnet: Prefix,
    /// No way out.
    pub internal: bool,
    /// Containers on it reach each other.
    pub icc: bool,
}

/// The whole table for these networks, as `nft --json` takes it; without networks, no table.
pub fn ruleset(table: &str, networks: &[Network]) -> Value {
    let add = json!({"add": {"table": {"family": "inet", "name": table}}});
    let mut commands = vec![
        // Added first, so that there is one to delete.
        add.clone(),
        json!({"delete": {"table": {"family": "inet", "name": table}}}),
    ];
    if !networks.is_empty() {
        commands.push(add);
        commands.push(chain(table, "forward", "filter", "forward", 0));
        commands.push(chain(table, "postrouting", "nat", "postrouting", 100));
    }
    for network in networks {
        for path in forward_paths(network, networks) {
            commands.push(rule(table, "forward", path));
        }
        if !network.internal {
            commands.push(rule(table, "postrouting", masquerade(network)));
        }
    }
    json!({ "nftables": commands })
}

fn chain(table: &str, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
    json!({"add": {"chain": {
        "family": "inet", "table": table, "name": name,
        "type": kind, "hook": hook, "prio": priority, "policy": "accept",
    }}})
}

fn rule(table: &str, chain: &str, expressions: Value) -> Value {
    json!({"add": {"rule": {
        "family": "inet", "table": table, "chain": chain, "expr": expressions,
    }}})
}

fn interface(which: &str, name: &str) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": which}}, "right": name}})
}

fn other_interface(which: &str, name: &str) -> Value {
    json!({"match": {"op": "!=", "left": {"meta": {"key": which}}, "right": name}})
}

/// What goes from a network's bridge to elsewhere, and into it.
fn forward_paths(network: &Network, all: &[Network]) -> Vec<Value> {
    let bridge = &network.bridge;
    let mut paths = Vec::new();
    for other in all.iter().filter(|other| other.bridge != *bridge) {
        let path = [
            interface("iifname", bridge),
            interface("oifname", &other.bridge),
            json!({"drop": null}),
        ];
        paths.push(json!(path));
    }
    if !network.icc {
        let path = [
            interface("iifname", bridge),
            interface("oifname", bridge),
            json!({"drop": null}),
        ];
        paths.push(json!(path));
    }
    if network.internal {
        for (ours, theirs) in [("iifname", "oifname"), ("oifname", "iifname")] {
            let path = [
                interface(ours, bridge),
                other_interface(theirs, bridge),
                json!({"drop": null}),
            ];
            paths.push(json!(path));
        }
    } else {
        // Nobody outside begins a conversation with a container: ports are published by the host.
        let answers = json!({"match": {
            "op": "!=",
            "left": {"ct": {"key": "state"}},
            "right": {"set": ["established", "related"]},
        }});
        let path = [
            interface("oifname", bridge),
            other_interface("iifname", bridge),
            answers,
            json!({"drop": null}),
        ];
        paths.push(json!(path));
    }
    paths
}

fn masquerade(network: &Network) -> Value {
    let (low, _) = network.subnet.range_v4().unwrap_or_default();
    let source = json!({"match": {
        "op": "==",
        "left": {"payload": {"protocol": "ip", "field": "saddr"}},
        "right": {"prefix": {
            "addr": std::net::Ipv4Addr::from(low).to_string(),
            "len": network.subnet.length,
        }},
    }});
    let path = [
        source,
        other_interface("oifname", &network.bridge),
        json!({"masquerade": null}),
    ];
    json!(path)
}

/// Puts the table into the kernel, in place of the one that is there, and lets the host forward.
pub fn apply(table: &str, networks: &[Network]) -> Result<(), RulesError> {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    run(&ruleset(table, networks))?;
    if networks.is_empty() {
        return Ok(());
    }
    std::fs::write(FORWARD, "1").map_err(|source| RulesError::Forwarding {
        path: FORWARD,
        source,
    })
}

fn run(ruleset: &Value) -> Result<(), RulesError> {
    let failed = |source| RulesError::Run { source };
    // As an argument: what nft reads from standard input it opens by a path in /dev.
    let output = Command::new("nft")
        .arg("--json")
        .arg(ruleset.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let reason = reason.lines().next().unwrap_or("it did not say why");
    Err(RulesError::Refused {
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_two_networks() {
        let network = |bridge: &str, subnet: &str, internal| Network {
            bridge: bridge.into(),
            subnet: subnet.parse().unwrap(),
            internal,
            icc: true,
        };
        let networks = [
            network("hull0", "172.17.0.1/16", false),
            network("hull-ab", "172.18.0.1/16", true),
        ];
        insta::assert_json_snapshot!(ruleset("hull", &networks));
    }
}
