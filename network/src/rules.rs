//! Packet rules: nftables tables of an engine's own, made whole from what there is.
//!
//! Nothing else of the host's rules is touched. Each change is one transaction, so there is no
//! moment with half of it. There are two tables of one name: in the family `inet`, what passes
//! between networks; in the family `netdev`, a chain per tap that pins what a guest may send to the
//! address that it was given ([`guard`]). A guest writes every byte of its frames.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::egress::Restricted;
use crate::nft::{self, Chain, Change, Family, Header, Hook, Rule, Table, Test, Verdict};
use crate::Prefix;

/// EtherTypes.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
/// Protocol number of UDP, and the port of DHCP servers.
const UDP: u8 = 17;
const DHCP_SERVER: u16 = 67;
/// In an Ethernet frame: its sender.
const ETHERNET_SOURCE: u32 = 6;
/// In an ARP packet: the sender's hardware and IPv4 address.
const ARP_SENDER: u32 = 8;
const ARP_SENDER_ADDRESS: u32 = 14;
/// In an IPv4 packet: its sender.
const IPV4_SOURCE: u32 = 12;

/// Why the rules can't be made.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The kernel refused.
    #[error(
        "failed to {action}; the kernel needs nf_tables (modules nf_tables, nft_ct, nft_masq, \
         nft_chain_nat)"
    )]
    Refused {
        /// What was tried.
        action: String,
        /// Why.
        source: io::Error,
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

/// The table that holds for these networks and policies; without networks, it has no chains.
pub fn between(table: &str, networks: &[Network], restricted: &[Restricted]) -> Table {
    let mut chains = Vec::new();
    if !networks.is_empty() {
        let each =
            |rules: &dyn Fn(&Network) -> Vec<Rule>| networks.iter().flat_map(rules).collect();
        // What a policy allows never leads into another network: that is decided first.
        let mut rules: Vec<Rule> = each(&|network| forward(network, networks));
        rules.extend(restricted.iter().flat_map(Restricted::forward));
        chains.push(Chain {
            name: "forward".into(),
            hook: Hook::Forward,
            rules,
        });
        let rules: Vec<Rule> = restricted.iter().flat_map(Restricted::input).collect();
        if !rules.is_empty() {
            chains.push(Chain {
                name: "input".into(),
                hook: Hook::Input,
                rules,
            });
        }
        chains.push(Chain {
            name: "postrouting".into(),
            hook: Hook::Postrouting,
            rules: each(&|network| masquerade(network).into_iter().collect()),
        });
    }
    Table {
        family: Family::Inet,
        name: table.to_owned(),
        chains,
    }
}

fn drop_if(tests: Vec<Test>) -> Rule {
    Rule {
        tests,
        verdict: Verdict::Drop,
    }
}

/// What goes from a network's bridge to elsewhere, and into it.
fn forward(network: &Network, all: &[Network]) -> Vec<Rule> {
    let from = |equal| Test::From(equal, network.bridge.clone());
    let to = |equal| Test::To(equal, network.bridge.clone());
    let others = all.iter().filter(|other| other.bridge != network.bridge);
    let mut rules: Vec<Rule> = others
        .map(|other| drop_if(vec![from(true), Test::To(true, other.bridge.clone())]))
        .collect();
    if !network.icc {
        rules.push(drop_if(vec![from(true), to(true)]));
    }
    if network.internal {
        rules.push(drop_if(vec![from(true), to(false)]));
        rules.push(drop_if(vec![to(true), from(false)]));
    } else {
        // Nobody outside begins a conversation with a container: ports are published by the host.
        rules.push(drop_if(vec![to(true), from(false), Test::NewConversation]));
    }
    rules
}

fn masquerade(network: &Network) -> Option<Rule> {
    let IpAddr::V4(address) = network.subnet.address else {
        return None;
    };
    (!network.internal).then(|| Rule {
        tests: vec![
            Test::Ipv4,
            Test::source(true, address, network.subnet.length),
            Test::To(false, network.bridge.clone()),
        ],
        verdict: Verdict::Masquerade,
    })
}

/// The chain of one tap: only IPv4 and ARP, from its own hardware and IPv4 address, and no DHCP
/// server. So no guest answers for another's address, routes others' packets to itself, or has a
/// neighbour configure itself by what it says (DHCP, IPv6 router advertisements).
pub fn guard(table: &str, tap: &str, mac: [u8; 6], address: Ipv4Addr) -> Table {
    let octets = address.octets();
    let differs = |header, offset, value: &[u8]| Test::bytes(false, header, offset, value);
    let is = |kind| Test::EtherType(true, kind);
    let rules = vec![
        drop_if(vec![differs(Header::Link, ETHERNET_SOURCE, &mac)]),
        drop_if(vec![
            Test::EtherType(false, IPV4),
            Test::EtherType(false, ARP),
        ]),
        drop_if(vec![is(ARP), differs(Header::Network, ARP_SENDER, &mac)]),
        // Who asks whether an address is free names no address of its own (RFC 5227).
        drop_if(vec![
            is(ARP),
            differs(Header::Network, ARP_SENDER_ADDRESS, &octets),
            differs(Header::Network, ARP_SENDER_ADDRESS, &[0; 4]),
        ]),
        drop_if(vec![
            is(IPV4),
            differs(Header::Network, IPV4_SOURCE, &octets),
        ]),
        drop_if(vec![
            is(IPV4),
            Test::Transport(UDP),
            Test::bytes(true, Header::Transport, 0, &DHCP_SERVER.to_be_bytes()),
        ]),
    ];
    Table {
        family: Family::Netdev,
        name: table.to_owned(),
        chains: vec![Chain {
            name: tap.to_owned(),
            hook: Hook::Ingress(tap.to_owned()),
            rules,
        }],
    }
}

/// Puts a network's rules into the kernel, in place of the ones that are there, and lets the host
/// forward packets.
pub fn apply(
    table: &str,
    networks: &[Network],
    restricted: &[Restricted],
) -> Result<(), RulesError> {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    commit(
        &Change::Replace(between(table, networks, restricted)),
        "write packet rules".into(),
    )?;
    if networks.is_empty() {
        return Ok(());
    }
    std::fs::write(FORWARD, "1").map_err(|source| RulesError::Forwarding {
        path: FORWARD,
        source,
    })
}

/// Pins what comes from a tap that is still down. The chain goes with the tap, or by [`unpin`].
pub fn pin(table: &str, tap: &str, mac: [u8; 6], address: Ipv4Addr) -> Result<(), RulesError> {
    // What an earlier tap of this name left would come first.
    unpin(table, tap);
    commit(
        &Change::Extend(guard(table, tap, mac, address)),
        format!("pin the addresses of the tap {tap}"),
    )
}

/// Removes the chain of a tap, before the tap goes; not all kernels do that by themselves.
pub fn unpin(table: &str, tap: &str) {
    let change = Change::Remove {
        family: Family::Netdev,
        table: table.to_owned(),
        chain: tap.to_owned(),
    };
    // It may never have been there.
    if let Err(error) = nft::commit(&change) {
        tracing::debug!(tap, %error, "removing a chain");
    }
}

/// Removes both tables.
pub fn clear(table: &str) -> Result<(), RulesError> {
    for family in [Family::Inet, Family::Netdev] {
        let empty = Table {
            family,
            name: table.to_owned(),
            chains: Vec::new(),
        };
        commit(&Change::Replace(empty), "remove packet rules".into())?;
    }
    Ok(())
}

fn commit(change: &Change, action: String) -> Result<(), RulesError> {
    nft::commit(change).map_err(|source| RulesError::Refused { action, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(bridge: &str, subnet: &str, internal: bool) -> Network {
        Network {
            bridge: bridge.into(),
            subnet: subnet.parse().unwrap(),
            internal,
            icc: true,
        }
    }

    #[test]
    fn the_table_of_two_networks() {
        let networks = [
            network("hull0", "172.17.0.1/16", false),
            network("hull-ab", "172.18.0.1/16", true),
        ];
        insta::assert_debug_snapshot!(between("hull", &networks, &[]));
    }

    #[test]
    fn without_networks_there_is_no_chain() {
        assert!(between("hull", &[], &[]).chains.is_empty());
    }

    #[test]
    fn a_tap_is_pinned() {
        let address = Ipv4Addr::new(172, 17, 0, 2);
        let mac = [2, 0x42, 172, 17, 0, 2];
        insta::assert_debug_snapshot!(guard("hull", "h0abc", mac, address));
    }
}
