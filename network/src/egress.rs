//! Where a container may begin conversations to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::nft::{Header, Rule, Test, Verdict};
use crate::Prefix;

/// Protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Port of name servers.
const DNS: u16 = 53;
/// Protocol number of ICMPv6, and its types by which neighbours find each other (RFC 4861).
const ICMPV6: u8 = 58;
const NEIGHBOUR_TYPES: [u8; 2] = [135, 136];
/// Where clouds answer with their machines' secrets.
const SECRETS: [Prefix; 8] = [
    // IPv4's link-local addresses (RFC 3927), which nearly all use.
    v4([169, 254, 0, 0], 16),
    // Azure.
    v4([168, 63, 129, 16], 32),
    // Alibaba.
    v4([100, 100, 100, 200], 32),
    // Oracle.
    v4([192, 0, 0, 192], 32),
    // Amazon: of machines, of containers, of pods.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    // Google.
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    // Scaleway.
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    // Akamai.
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128),
];
/// Most entries of a list.
const MAX_ENTRIES: usize = 256;

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Prefix {
    Prefix {
        address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        length,
    }
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> Prefix {
    Prefix {
        address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)),
        length,
    }
}

/// Whether what a name has may be opened because the name is allowed. Its owner says what it has, so
/// that is never where clouds answer with secrets, nor an address that is nobody's outside.
pub fn may_be_named(address: IpAddr) -> bool {
    let secret = || SECRETS.iter().any(|secret| secret.contains(address));
    !address.is_loopback() && !address.is_multicast() && !address.is_unspecified() && !secret()
}

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Egress {
    /// To anywhere.
    #[default]
    All,
    /// To anywhere but the host itself and where clouds answer with secrets.
    Outside,
    /// To nowhere.
    None,
    /// To these only.
    Allow(Vec<Target>),
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The addresses, or a name for them.
    pub place: Place,
    /// A TCP or UDP port; `None`: any, by any protocol.
    pub port: Option<u16>,
}

/// What a [`Target`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Addresses.
    Network(Prefix),
    /// Whatever a name server says this name has.
    Name(Pattern),
}

/// A domain name, or with a leading `*.` all names below one; in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let usual = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(usual);
        // What has no letter is an address that was mistyped.
        let letters = name.bytes().any(|b| b.is_ascii_alphabetic());
        let valid =
            name.len() <= 253 && letters && name.contains('.') && name.split('.').all(label);
        valid.then_some(Self(text))
    }

    /// Whether a name, in lower case and without a last dot, is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(end) => name.ends_with(end) && end.len() < name.len(),
            None => name == self.0,
        }
    }
}

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEgress {
    /// Not one of the words.
    #[error("egress policy {text:?}: want all, outside, none or allow:CIDR-OR-NAME[:PORT],...")]
    Word {
        /// The text.
        text: String,
    },
    /// An entry of the list.
    #[error(
        "egress policy: {entry:?} is neither a network nor a domain name, with or without a port, \
         such as 10.0.0.0/8, 10.1.2.3:443, [2001:db8::/32]:443 or *.example.org:443"
    )]
    Entry {
        /// The entry.
        entry: String,
    },
    /// The list is too long.
    #[error("egress policy: {count} entries, there may be {MAX_ENTRIES}")]
    TooMany {
        /// How many.
        count: usize,
    },
}

impl FromStr for Egress {
    type Err = BadEgress;

    fn from_str(text: &str) -> Result<Self, BadEgress> {
        match text {
            "all" => return Ok(Self::All),
            "outside" => return Ok(Self::Outside),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let list = text.strip_prefix("allow:").ok_or_else(|| BadEgress::Word {
            text: text.to_owned(),
        })?;
        let count = list.split(',').count();
        if MAX_ENTRIES < count {
            return Err(BadEgress::TooMany { count });
        }
        let entry = |entry: &str| {
            target(entry).ok_or_else(|| BadEgress::Entry {
                entry: entry.to_owned(),
            })
        };
        Ok(Self::Allow(
            list.split(',').map(entry).collect::<Result<_, _>>()?,
        ))
    }
}

fn target(entry: &str) -> Option<Target> {
    let (network, port) = split_port(entry)?;
    let place = match (network.parse::<IpAddr>(), network.parse()) {
        (Ok(address), _) => Place::Network(Prefix::host(address)),
        (_, Ok(network)) => Place::Network(network),
        _ => Place::Name(Pattern::parse(network)?),
    };
    let port = match port {
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port != 0)?),
        None => None,
    };
    Some(Target { place, port })
}

/// A network and a port. An IPv6 network has to be in brackets where a port follows.
fn split_port(entry: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = entry.strip_prefix('[') {
        let (network, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((network, None)),
            rest => rest.strip_prefix(':').map(|port| (network, Some(port))),
        };
    }
    match entry.split_once(':') {
        Some((network, port)) if !port.contains(':') => Some((network, Some(port))),
        _ => Some((entry, None)),
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Outside => f.write_str("outside"),
            Self::None => f.write_str("none"),
            Self::Allow(targets) => {
                f.write_str("allow:")?;
                for (index, target) in targets.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{target}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.port) {
            (Place::Network(network), Some(_)) if network.address.is_ipv6() => {
                write!(f, "[{network}]")?;
            }
            (Place::Network(network), _) => write!(f, "{network}")?,
            (Place::Name(pattern), _) => f.write_str(&pattern.0)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl Egress {
    /// The names that it allows.
    pub fn names(&self) -> impl Iterator<Item = &Pattern> {
        let targets = match self {
            Self::Allow(targets) => targets.as_slice(),
            _ => &[],
        };
        targets.iter().filter_map(|target| match &target.place {
            Place::Name(pattern) => Some(pattern),
            Place::Network(_) => None,
        })
    }

    /// Whether somebody outside may be asked for a name, in lower case and without a last dot. Where
    /// names are listed it is for these only: a question is a message, too.
    pub fn may_ask(&self, name: &str) -> bool {
        match self {
            Self::All | Self::Outside => true,
            Self::None => false,
            Self::Allow(_) => {
                let mut names = self.names().peekable();
                names.peek().is_none() || names.any(|pattern| pattern.matches(name))
            }
        }
    }

    /// The same with addresses in the place of names; `addresses` are the ones that a name has.
    pub fn resolve(&self, addresses: &dyn Fn(&Pattern) -> Vec<IpAddr>) -> Self {
        let Self::Allow(targets) = self else {
            return self.clone();
        };
        let resolved = targets.iter().flat_map(|target| match &target.place {
            Place::Network(_) => vec![target.clone()],
            Place::Name(pattern) => addresses(pattern)
                .into_iter()
                .map(|address| Target {
                    place: Place::Network(Prefix::host(address)),
                    port: target.port,
                })
                .collect(),
        });
        Self::Allow(resolved.collect())
    }
}

/// An address of a container with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restricted {
    /// Bridge of its network.
    pub bridge: String,
    /// Its tap.
    pub tap: String,
    /// The address, which is pinned to its tap.
    pub address: IpAddr,
    /// Its policy.
    pub egress: Egress,
    /// The name server of its network. Others that the host has may ask the world for whoever asks
    /// them.
    pub name_server: Option<IpAddr>,
    /// Packets that it was denied so far, by rules between networks. One of a tap's addresses
    /// carries them.
    pub denied: u64,
}

impl Restricted {
    fn origin(&self) -> Vec<Test> {
        vec![
            Test::From(true, self.bridge.clone()),
            Test::family(self.address),
            Test::source(true, Prefix::host(self.address)),
        ]
    }

    fn rule(&self, more: Vec<Test>, verdict: Verdict) -> Rule {
        let mut tests = self.origin();
        tests.extend(more);
        Rule {
            tests,
            verdict,
            owner: self.tap.clone(),
            dropped: 0,
        }
    }

    /// For packets that leave its network.
    pub(crate) fn forward(&self) -> Vec<Rule> {
        let mine = |network: &Prefix| network.address.is_ipv4() == self.address.is_ipv4();
        match &self.egress {
            Egress::All => Vec::new(),
            Egress::Outside => {
                let secrets = SECRETS.into_iter().filter(mine);
                let to = |network| vec![Test::destination(true, network)];
                secrets
                    .map(|network| self.rule(to(network), Verdict::Drop))
                    .collect()
            }
            Egress::None => vec![self.closed()],
            Egress::Allow(targets) => {
                let mine = targets.iter().filter_map(|target| match target.place {
                    Place::Network(network) if mine(&network) => Some((network, target.port)),
                    _ => None,
                });
                let mut rules: Vec<Rule> =
                    mine.flat_map(|(to, port)| self.open(to, port)).collect();
                rules.push(self.closed());
                rules
            }
        }
    }

    /// Answers to conversations that others began still leave.
    fn closed(&self) -> Rule {
        let away = Test::To(false, self.bridge.clone());
        self.rule(vec![away, Test::NewConversation], Verdict::Drop)
    }

    fn open(&self, network: Prefix, port: Option<u16>) -> Vec<Rule> {
        let there = Test::destination(true, network);
        let Some(port) = port else {
            return vec![self.rule(vec![there], Verdict::Accept)];
        };
        [TCP, UDP]
            .map(|protocol| {
                let tests = vec![there.clone(), Test::Transport(protocol), to_port(port)];
                self.rule(tests, Verdict::Accept)
            })
            .into()
    }

    /// For packets to the host itself: only the name server of its network.
    pub(crate) fn input(&self) -> Vec<Rule> {
        if self.egress == Egress::All {
            return Vec::new();
        }
        let server = self
            .name_server
            .filter(|server| server.is_ipv4() == self.address.is_ipv4());
        let mut rules: Vec<Rule> = server
            .into_iter()
            .flat_map(|server| self.open(Prefix::host(server), Some(DNS)))
            .collect();
        if self.address.is_ipv6() {
            // Without them it reaches nobody, the name server included.
            rules.extend(NEIGHBOUR_TYPES.map(|kind| {
                let kind = Test::bytes(true, Header::Transport, 0, &[kind]);
                self.rule(vec![Test::Transport(ICMPV6), kind], Verdict::Accept)
            }));
        }
        // Each policy ends with this rule, so it is the one that goes on counting.
        rules.push(Rule {
            dropped: self.denied,
            ..self.rule(vec![Test::NewConversation], Verdict::Drop)
        });
        rules
    }
}

fn to_port(port: u16) -> Test {
    Test::bytes(true, Header::Transport, 2, &port.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_and_written() {
        for text in [
            "all",
            "outside",
            "none",
            "allow:10.0.0.0/8,192.168.1.2/32:443",
            "allow:fd00::/8,[2001:db8::1/128]:443",
            "allow:example.org,*.example.org:443,10.0.0.0/8",
        ] {
            assert_eq!(text.parse::<Egress>().unwrap().to_string(), text);
        }
        let short: Egress = "allow:10.1.2.3:53".parse().unwrap();
        assert_eq!(short.to_string(), "allow:10.1.2.3/32:53");
    }

    #[test]
    fn what_is_no_policy_is_named() {
        for bad in [
            "",
            "some",
            "allow:",
            "allow:x",
            "allow:10.0.0.0/33",
            "allow:10.0.0.1:0",
            "allow:10.0.0.1:99999",
            "allow:example",
            "allow:1.2.3",
            "allow:10.0.0.1/x",
            "allow:a..b",
            "allow:*.*.b",
            "allow:[fd00::/8",
            "allow:[fd00::/8]443",
            "allow:fd00::/129",
        ] {
            assert!(bad.parse::<Egress>().is_err(), "{bad}");
        }
        let many = format!("allow:{}", vec!["10.0.0.1"; 300].join(","));
        assert_eq!(
            many.parse::<Egress>(),
            Err(BadEgress::TooMany { count: 300 })
        );
    }

    #[test]
    fn names_stand_for_addresses() {
        let policy: Egress = "allow:Example.org:443,*.example.net,10.0.0.0/8"
            .parse()
            .unwrap();
        for (name, asked) in [
            ("example.org", true),
            ("www.example.org", false),
            ("example.net", false),
            ("a.b.example.net", true),
            ("badexample.net", false),
        ] {
            assert_eq!(policy.may_ask(name), asked, "{name}");
        }
        let known = |pattern: &Pattern| match pattern.matches("example.org") {
            true => vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            false => Vec::new(),
        };
        let resolved = policy.resolve(&known).to_string();
        let want = "allow:192.0.2.1/32:443,[2001:db8::1/128]:443,10.0.0.0/8";
        assert_eq!(resolved, want);
        let addresses: Egress = "allow:10.0.0.0/8".parse().unwrap();
        assert!(addresses.may_ask("example.org"));
    }

    #[test]
    fn a_list_ends_closed() {
        let restricted = Restricted {
            bridge: "b".into(),
            tap: "t".into(),
            address: [172, 17, 0, 2].into(),
            egress: "allow:10.0.0.0/8,1.2.3.4:53,fd00::/8".parse().unwrap(),
            name_server: Some([172, 17, 0, 1].into()),
            denied: 3,
        };
        let verdicts: Vec<_> = restricted.forward().iter().map(|r| r.verdict).collect();
        use Verdict::{Accept, Drop};
        assert_eq!(verdicts, [Accept, Accept, Accept, Drop]);
        let last = restricted.input().pop().unwrap();
        assert_eq!((last.verdict, last.dropped), (Drop, 3));
        let v6 = Restricted {
            address: "fd12::2".parse().unwrap(),
            name_server: Some("fd12::1".parse().unwrap()),
            ..restricted
        };
        let verdicts: Vec<_> = v6.forward().iter().map(|r| r.verdict).collect();
        assert_eq!(verdicts, [Accept, Drop]);
        // Its name server by UDP and TCP, and neighbours.
        assert_eq!(v6.input().len(), 5);
        let named = Test::destination(true, "fd12::1/128".parse().unwrap());
        assert!(v6.input()[..2]
            .iter()
            .all(|rule| rule.tests.contains(&named)));
    }

    #[test]
    fn only_the_name_server_of_its_family_is_open() {
        let restricted = Restricted {
            bridge: "b".into(),
            tap: "t".into(),
            address: "fd12::2".parse().unwrap(),
            egress: Egress::Outside,
            name_server: Some([172, 17, 0, 1].into()),
            denied: 0,
        };
        // Neighbours, and the end.
        assert_eq!(restricted.input().len(), 3);
    }

    #[test]
    fn outside_is_all_but_where_secrets_are() {
        let closed = |address: &str| {
            let restricted = Restricted {
                bridge: "b".into(),
                tap: "t".into(),
                address: address.parse().unwrap(),
                egress: Egress::Outside,
                name_server: None,
                denied: 0,
            };
            let rules = restricted.forward();
            assert!(rules.iter().all(|rule| rule.verdict == Verdict::Drop));
            rules
                .into_iter()
                .filter_map(|rule| rule.tests.last().cloned())
                .collect::<Vec<_>>()
        };
        let to = |networks: &[&str]| {
            let each = networks.iter().map(|text| text.parse().unwrap());
            each.map(|network| Test::destination(true, network))
                .collect::<Vec<_>>()
        };
        let v4 = [
            "169.254.0.0/16",
            "168.63.129.16/32",
            "100.100.100.200/32",
            "192.0.0.192/32",
        ];
        assert_eq!(closed("172.17.0.2"), to(&v4));
        let v6 = [
            "fd00:ec2::/32",
            "fd20:ce::254/128",
            "fd00:42::42/128",
            "fd00:a9fe:a9fe::1/128",
        ];
        assert_eq!(closed("fd12::2"), to(&v6));
        for named in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd12::2"] {
            assert!(may_be_named(named.parse().unwrap()), "{named}");
        }
        for secret in [
            "169.254.169.254",
            "100.100.100.200",
            "fd00:ec2::254",
            "127.0.0.1",
            "::1",
            "224.0.0.1",
            "0.0.0.0",
        ] {
            assert!(!may_be_named(secret.parse().unwrap()), "{secret}");
        }
    }
}
