//! Packet rules: nftables tables of an engine's own, made whole from what there is.
//!
//! Nothing else of the host's rules is touched. Each change is one transaction, so there is no
//! moment with half of it. There are two tables of one name: in the family `inet`, what passes
//! between networks; in the family `netdev`, a chain per tap that pins what a guest may send to the
//! address that it was given ([`guard`]). A guest writes every byte of its frames.

mod conversations;
mod denied;
mod forwarding;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Once;

pub use denied::Denied;

use crate::egress::Restricted;
use crate::nft::{
    self, AddressSet, Chain, Change, Family, Header, Hook, Rule, Table, Test, Verdict,
};
use crate::pool::link_local_of;
use crate::Prefix;

/// The host's loopback interface.
const LOOPBACK: &str = "lo";
/// EtherTypes.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Protocol number of UDP, and the ports of DHCP servers.
const UDP: u8 = 17;
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;
/// Protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// What only a router says: a question about listeners, an advertisement, a redirection (RFC 2710,
/// RFC 4861).
const OF_ROUTERS: [u8; 3] = [130, 134, 137];
/// "This address is mine" (RFC 4861, 4.4), and where it names the address.
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ADVERTISED_ADDRESS: u32 = 8;
/// In an Ethernet frame: its sender.
const ETHERNET_SOURCE: u32 = 6;
/// In an ARP packet: the sender's hardware and IPv4 address.
const ARP_SENDER: u32 = 8;
const ARP_SENDER_ADDRESS: u32 = 14;
/// In an IPv4 or IPv6 packet: its sender.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;
/// Where neighbours find each other by IPv6: link-local and multicast addresses (RFC 4291).
const NEIGHBOURS: [Prefix; 2] = [
    Prefix {
        address: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)),
        length: 10,
    },
    Prefix {
        address: IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
        length: 8,
    },
];

/// Said once, on a kernel that can't count conversations.
const NO_LIMIT: &str = "the conversations of a container are not limited: that needs the kernel's \
                        module nft_connlimit";
static UNLIMITED: Once = Once::new();

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
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// A network, as far as rules go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its bridge.
    pub bridge: String,
    /// Its addresses, of both families.
    pub subnets: Vec<Prefix>,
    /// No way out.
    pub internal: bool,
    /// Containers on it reach each other.
    pub icc: bool,
    /// They reach others under the host's address.
    pub masquerade: bool,
    /// Containers on it reach those of other networks, as the host does.
    pub host: bool,
}

/// The table that holds for these networks and policies; without networks, it has no chains.
/// `limit`: conversations that the host keeps in mind for one container.
pub fn between(
    table: &str,
    networks: &[Network],
    restricted: &[Restricted],
    limit: Option<u32>,
) -> Table {
    let mut chains = Vec::new();
    let crowded: Vec<Rule> = limit.map_or_else(Vec::new, |limit| crowded(networks, limit));
    if !networks.is_empty() {
        let each =
            |rules: &dyn Fn(&Network) -> Vec<Rule>| networks.iter().flat_map(rules).collect();
        // What a policy allows never leads into another network: that is decided first.
        let mut rules: Vec<Rule> = each(&|network| forward(network, networks));
        rules.extend(crowded.iter().cloned());
        rules.extend(restricted.iter().flat_map(Restricted::forward));
        chains.push(Chain {
            name: "forward".into(),
            hook: Hook::Forward,
            rules,
        });
        let policies = restricted.iter().flat_map(Restricted::input);
        let mut rules: Vec<Rule> = each(&closed_to_others);
        rules.extend(each(&kept_inside));
        rules.extend(crowded.into_iter().chain(policies));
        chains.push(Chain {
            name: "input".into(),
            hook: Hook::Input,
            rules,
        });
        chains.push(Chain {
            name: "postrouting".into(),
            hook: Hook::Postrouting,
            rules: each(&masquerade),
        });
    }
    Table {
        family: Family::Inet,
        name: table.to_owned(),
        sets: limit.map_or_else(Vec::new, |_| vec![AddressSet::V4, AddressSet::V6]),
        chains,
    }
}

/// The host has room for so many conversations in all: one container must not take it from others
/// and from the host itself.
fn crowded(networks: &[Network], limit: u32) -> Vec<Rule> {
    let of = |network: &Network, family: Test, set| {
        let from = Test::From(true, network.bridge.clone());
        let crowded = Test::Crowded { set, limit };
        drop_if(vec![from, family, Test::NewConversation, crowded])
    };
    let rules = networks.iter().flat_map(|network| {
        [
            of(network, Test::Ipv4, AddressSet::V4),
            of(network, Test::Ipv6, AddressSet::V6),
        ]
    });
    rules.collect()
}

fn drop_if(tests: Vec<Test>) -> Rule {
    Rule {
        tests,
        verdict: Verdict::Drop,
        owner: String::new(),
        dropped: 0,
    }
}

/// What goes from a network's bridge to elsewhere, and into it.
fn forward(network: &Network, all: &[Network]) -> Vec<Rule> {
    let from = |equal| Test::From(equal, network.bridge.clone());
    let to = |equal| Test::To(equal, network.bridge.clone());
    // Those that the host reaches answer.
    let meet = |a: &Network, b: &Network| a.host && !b.internal;
    let others = all.iter().filter(|other| {
        other.bridge != network.bridge && !meet(network, other) && !meet(other, network)
    });
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
        let mut begun_outside = vec![to(true), from(false)];
        let as_host = all.iter().filter(|other| other.host && !network.host);
        begun_outside.extend(as_host.map(|host| Test::From(false, host.bridge.clone())));
        begun_outside.push(Test::NewConversation);
        rules.push(drop_if(begun_outside));
    }
    rules
}

/// What the host has at its own address on its network is for the containers there: services that
/// listen for the host alone.
fn closed_to_others(network: &Network) -> Vec<Rule> {
    let subnets = network.subnets.iter().filter(|_| network.host);
    let rules = subnets.map(|subnet| {
        drop_if(vec![
            Test::family(subnet.address),
            Test::destination(true, *subnet),
            Test::From(false, network.bridge.clone()),
            Test::From(false, LOOPBACK.to_owned()),
            Test::NewConversation,
        ])
    });
    rules.collect()
}

/// Who is on an internal network reaches the host at its address there alone, whatever routes it gives
/// itself.
fn kept_inside(network: &Network) -> Vec<Rule> {
    let subnets = network.subnets.iter().filter(|_| network.internal);
    let rules = subnets.map(|subnet| {
        let family = Test::family(subnet.address);
        let mut tests = vec![Test::From(true, network.bridge.clone()), family];
        let neighbours = NEIGHBOURS.iter().filter(|_| subnet.address.is_ipv6());
        let inside = std::iter::once(subnet).chain(neighbours);
        tests.extend(inside.map(|inside| Test::destination(false, *inside)));
        tests.push(Test::NewConversation);
        drop_if(tests)
    });
    rules.collect()
}

fn masquerade(network: &Network) -> Vec<Rule> {
    let masked = network.masquerade && !network.internal;
    let subnets = network.subnets.iter().filter(|_| masked);
    subnets
        .map(|subnet| Rule {
            tests: vec![
                Test::family(subnet.address),
                Test::source(true, *subnet),
                Test::To(false, network.bridge.clone()),
                // What the host sends itself has the right address already.
                Test::To(false, LOOPBACK.to_owned()),
            ],
            verdict: Verdict::Masquerade,
            owner: String::new(),
            dropped: 0,
        })
        .collect()
}

/// The addresses that a tap is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its IPv4 address; `None`: it sends neither IPv4 nor ARP.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address; `None`: it sends no IPv6.
    pub v6: Option<Ipv6Addr>,
    /// It is on an interface of the host: what a guest sends does not enter by it but leaves by it.
    pub leaves: bool,
}

/// The chain of one tap: only what it was given the addresses for, from these, and nothing of a
/// router or a DHCP server. So no guest answers for another's address, routes others' packets to
/// itself, or has a neighbour configure itself by what it says.
///
/// `denied`: packets that the rules before these dropped.
pub fn guard(table: &str, tap: &str, pinned: &Pinned, denied: u64) -> Table {
    let mac = differs(Header::Link, ETHERNET_SOURCE, &pinned.mac);
    let mut known = Vec::new();
    known.extend(pinned.v4.iter().flat_map(|_| [is_not(IPV4), is_not(ARP)]));
    known.extend(pinned.v6.map(|_| is_not(IPV6)));
    let mut rules = vec![drop_if(vec![mac]), drop_if(known)];
    let (v4, v6) = (pinned.v4.into_iter(), pinned.v6.into_iter());
    rules.extend(v4.flat_map(|v4| guard_v4(pinned.mac, v4)));
    rules.extend(v6.flat_map(|v6| guard_v6(&[v6, link_local_of(pinned.mac)])));
    for rule in &mut rules {
        tap.clone_into(&mut rule.owner);
    }
    if let Some(first) = rules.first_mut() {
        first.dropped = denied;
    }
    Table {
        family: Family::Netdev,
        name: table.to_owned(),
        sets: Vec::new(),
        chains: vec![Chain {
            name: tap.to_owned(),
            hook: match pinned.leaves {
                true => Hook::Egress(tap.to_owned()),
                false => Hook::Ingress(tap.to_owned()),
            },
            rules,
        }],
    }
}

fn is(kind: u16) -> Test {
    Test::EtherType(true, kind)
}

fn is_not(kind: u16) -> Test {
    Test::EtherType(false, kind)
}

fn differs(header: Header, offset: u32, value: &[u8]) -> Test {
    Test::bytes(false, header, offset, value)
}

fn from_udp_port(port: u16) -> [Test; 2] {
    let source = Test::bytes(true, Header::Transport, 0, &port.to_be_bytes());
    [Test::Transport(UDP), source]
}

fn guard_v4(mac: [u8; 6], address: Ipv4Addr) -> Vec<Rule> {
    let octets = address.octets();
    let [udp, dhcp] = from_udp_port(DHCP_SERVER);
    vec![
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
        drop_if(vec![is(IPV4), udp, dhcp]),
    ]
}

fn guard_v6(own: &[Ipv6Addr]) -> Vec<Rule> {
    let none_of = |header: Header, offset| {
        let each = own.iter().map(move |own| (header, offset, own.octets()));
        each.map(|(header, offset, octets)| differs(header, offset, &octets))
    };
    let icmp = |kind: u8| {
        let kind = Test::bytes(true, Header::Transport, 0, &[kind]);
        vec![is(IPV6), Test::Transport(ICMPV6), kind]
    };
    let mut other_source = vec![is(IPV6)];
    other_source.extend(none_of(Header::Network, IPV6_SOURCE));
    let mut other_neighbour = icmp(NEIGHBOUR_ADVERTISEMENT);
    other_neighbour.extend(none_of(Header::Transport, ADVERTISED_ADDRESS));
    let [udp, dhcp] = from_udp_port(DHCPV6_SERVER);
    let mut rules = vec![
        drop_if(other_source),
        drop_if(other_neighbour),
        drop_if(vec![is(IPV6), udp, dhcp]),
    ];
    rules.extend(OF_ROUTERS.map(|kind| drop_if(icmp(kind))));
    rules
}

/// Puts all networks' rules into the kernel, in place of the ones that are there, and lets the host
/// forward packets. Conversations that are counted go on being counted.
pub fn apply(
    table: &str,
    networks: &[Network],
    restricted: &[Restricted],
) -> Result<(), RulesError> {
    if networks.is_empty() {
        return remove(table, Family::Inet);
    }
    let write = |limit| {
        let change = Change::Rewrite(between(table, networks, restricted, limit));
        commit(&change, "write packet rules".into())
    };
    match write(Some(conversations::limit())) {
        Err(RulesError::Refused { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            UNLIMITED.call_once(|| tracing::warn!("{NO_LIMIT}"));
            write(None)?;
        }
        result => result?,
    }
    let subnets = || networks.iter().flat_map(|network| &network.subnets);
    if subnets().any(|subnet| subnet.address.is_ipv4()) {
        forwarding::switch_on_v4()?;
    }
    if subnets().any(|subnet| subnet.address.is_ipv6()) {
        forwarding::switch_on_v6()?;
    }
    Ok(())
}

/// Pins what comes from a tap, in one step with the end of what an earlier tap of this name left.
/// The chain goes with the tap, or by [`unpin`].
pub fn pin(table: &str, tap: &str, pinned: &Pinned, denied: u64) -> Result<(), RulesError> {
    commit(
        &Change::Extend(guard(table, tap, pinned, denied)),
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
    remove(table, Family::Inet)?;
    remove(table, Family::Netdev)
}

fn remove(table: &str, family: Family) -> Result<(), RulesError> {
    let table = table.to_owned();
    let change = Change::Clear { family, table };
    commit(&change, "remove packet rules".into())
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
            subnets: subnet.split(' ').map(|one| one.parse().unwrap()).collect(),
            internal,
            icc: true,
            masquerade: true,
            host: false,
        }
    }

    #[test]
    fn the_table_of_two_networks() {
        let networks = [
            network("hull0", "172.17.0.1/16", false),
            network("hull-ab", "172.18.0.1/16", true),
            network("hull-cd", "172.19.0.1/16 fd00:1::1/64", false),
        ];
        insta::assert_debug_snapshot!(between("hull", &networks, &[], Some(8192)));
    }

    #[test]
    fn from_the_hosts_network_others_are_reached() {
        let networks = [
            network("hull0", "172.17.0.1/16", false),
            network("hull-ab", "172.18.0.1/16", true),
            Network {
                icc: false,
                host: true,
                ..network("hull-h", "192.168.240.1/20", false)
            },
        ];
        insta::assert_debug_snapshot!(between("hull", &networks, &[], None));
    }

    #[test]
    fn an_internal_network_reaches_the_host_at_its_own_address() {
        let inner = network("hull-ab", "172.18.0.1/16 fd00:1::1/64", true);
        let table = between("hull", &[inner], &[], None);
        let input = table.chains.iter().find(|chain| chain.name == "input");
        let [v4, v6] = input.unwrap().rules.as_slice() else {
            panic!("a rule of each family: {input:?}");
        };
        let not_to = |network: &str| Test::destination(false, network.parse().unwrap());
        assert!(v4.tests.contains(&not_to("172.18.0.0/16")));
        for inside in ["fd00:1::/64", "fe80::/10", "ff00::/8"] {
            assert!(v6.tests.contains(&not_to(inside)), "{inside}");
        }
        assert_eq!((v4.tests.len(), v6.tests.len()), (4, 6));
    }

    #[test]
    fn a_network_is_masked_unless_it_is_asked_not_to_be() {
        let masked = network("hull0", "172.17.0.1/16", false);
        let bare = Network {
            masquerade: false,
            ..masked.clone()
        };
        assert_eq!((masquerade(&masked).len(), masquerade(&bare).len()), (1, 0));
    }

    #[test]
    fn without_networks_there_is_no_chain() {
        assert!(between("hull", &[], &[], Some(8192)).chains.is_empty());
    }

    #[test]
    fn a_tap_is_pinned() {
        let pinned = Pinned {
            mac: [2, 0x42, 172, 17, 0, 2],
            v4: Some(Ipv4Addr::new(172, 17, 0, 2)),
            v6: None,
            leaves: false,
        };
        insta::assert_debug_snapshot!(guard("hull", "h0abc", &pinned, 0));
        let both = Pinned {
            v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
            ..pinned
        };
        insta::assert_debug_snapshot!(guard("hull", "h0abc", &both, 9));
        let v6_only = guard("hull", "h0abc", &Pinned { v4: None, ..both }, 0);
        insta::assert_debug_snapshot!(v6_only);
        let on_uplink = Pinned {
            leaves: true,
            ..pinned
        };
        let hook = &guard("hull", "h0abc", &on_uplink, 0).chains[0].hook;
        assert_eq!(*hook, Hook::Egress("h0abc".into()));
    }
}
