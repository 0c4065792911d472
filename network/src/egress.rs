//! Where a container may begin conversations to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::nft::{Header, Rule, Test, Verdict};
use crate::Prefix;

/// Protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Port of name servers.
const DNS: u16 = 53;
/// Where clouds answer with their machines' secrets (RFC 3927 addresses).
const LINK_LOCAL: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 0, 0), 16);
/// Most entries of a list.
const MAX_ENTRIES: usize = 256;

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Egress {
    /// To anywhere.
    #[default]
    All,
    /// To anywhere but the host itself and link-local addresses.
    Outside,
    /// To nowhere.
    None,
    /// To these only.
    Allow(Vec<Target>),
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Addresses.
    pub network: Ipv4Addr,
    /// Bits of `network` that count.
    pub length: u8,
    /// A TCP or UDP port; `None`: any, by any protocol.
    pub port: Option<u16>,
}

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEgress {
    /// Not one of the words.
    #[error("egress policy {text:?}: want all, outside, none or allow:CIDR[:PORT],...")]
    Word {
        /// The text.
        text: String,
    },
    /// An entry of the list.
    #[error(
        "egress policy: {entry:?} is not an IPv4 network with or without a port, such as \
         10.0.0.0/8 or 10.1.2.3:443"
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
    let (address, port) = match entry.rsplit_once(':') {
        Some((address, port)) => (address, Some(port)),
        None => (entry, None),
    };
    let port = match port {
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port != 0)?),
        None => None,
    };
    if let Ok(address) = address.parse::<Ipv4Addr>() {
        return Some(Target {
            network: address,
            length: 32,
            port,
        });
    }
    let prefix: Prefix = address.parse().ok()?;
    match prefix.address {
        IpAddr::V4(network) => Some(Target {
            network,
            length: prefix.length,
            port,
        }),
        IpAddr::V6(_) => None,
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
                    write!(f, "{comma}{}/{}", target.network, target.length)?;
                    if let Some(port) = target.port {
                        write!(f, ":{port}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// A container with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restricted {
    /// Bridge of its network.
    pub bridge: String,
    /// Its address, which is pinned to its tap.
    pub address: Ipv4Addr,
    /// Its policy.
    pub egress: Egress,
}

impl Restricted {
    fn origin(&self) -> Vec<Test> {
        vec![
            Test::From(true, self.bridge.clone()),
            Test::Ipv4,
            Test::source(true, self.address, 32),
        ]
    }

    fn rule(&self, more: Vec<Test>, verdict: Verdict) -> Rule {
        let mut tests = self.origin();
        tests.extend(more);
        Rule { tests, verdict }
    }

    /// For packets that leave its network.
    pub(crate) fn forward(&self) -> Vec<Rule> {
        let link_local = Test::destination(true, LINK_LOCAL.0, LINK_LOCAL.1);
        match &self.egress {
            Egress::All => Vec::new(),
            Egress::Outside => vec![self.rule(vec![link_local], Verdict::Drop)],
            Egress::None => vec![self.closed()],
            Egress::Allow(targets) => {
                let mut rules: Vec<Rule> = targets.iter().flat_map(|t| self.open(t)).collect();
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

    fn open(&self, target: &Target) -> Vec<Rule> {
        let there = Test::destination(true, target.network, target.length);
        let Some(port) = target.port else {
            return vec![self.rule(vec![there], Verdict::Accept)];
        };
        [TCP, UDP]
            .map(|protocol| {
                let tests = vec![there.clone(), Test::Transport(protocol), to_port(port)];
                self.rule(tests, Verdict::Accept)
            })
            .into()
    }

    /// For packets to the host itself: only its name server.
    pub(crate) fn input(&self) -> Vec<Rule> {
        if self.egress == Egress::All {
            return Vec::new();
        }
        let mut rules: Vec<Rule> = [TCP, UDP]
            .map(|protocol| {
                let tests = vec![Test::Transport(protocol), to_port(DNS)];
                self.rule(tests, Verdict::Accept)
            })
            .into();
        rules.push(self.rule(vec![Test::NewConversation], Verdict::Drop));
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
            "allow:example.org",
            "allow:fd00::/8",
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
    fn a_list_ends_closed() {
        let restricted = Restricted {
            bridge: "b".into(),
            address: Ipv4Addr::new(172, 17, 0, 2),
            egress: "allow:10.0.0.0/8,1.2.3.4:53".parse().unwrap(),
        };
        let verdicts: Vec<_> = restricted.forward().iter().map(|r| r.verdict).collect();
        use Verdict::{Accept, Drop};
        assert_eq!(verdicts, [Accept, Accept, Accept, Drop]);
        assert_eq!(restricted.input().last().unwrap().verdict, Drop);
    }
}
