//! An address with the length of its network prefix, such as `172.17.0.2/16`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An address and its prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The address; the bits of a host may be set.
    pub address: IpAddr,
    /// Bits of the network.
    pub length: u8,
}

/// A text that is no [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address with a prefix length, such as 172.17.0.0/16")]
pub struct BadPrefix {
    /// The text.
    pub text: String,
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let length: u8 = length.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            (length <= most).then_some(Self { address, length })
        };
        parse().ok_or_else(|| BadPrefix {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Prefix {
    /// The lowest and the highest address of an IPv4 network; `None` for IPv6.
    pub fn range_v4(&self) -> Option<(u32, u32)> {
        let IpAddr::V4(address) = self.address else {
            return None;
        };
        let mask = u32::MAX
            .checked_shl(32 - u32::from(self.length))
            .unwrap_or(0);
        let low = u32::from(address) & mask;
        Some((low, low | !mask))
    }

    /// Whether the IPv4 networks have an address in common.
    pub fn overlaps_v4(&self, other: &Self) -> bool {
        match (self.range_v4(), other.range_v4()) {
            (Some((low, high)), Some((other_low, other_high))) => {
                low <= other_high && other_low <= high
            }
            _ => false,
        }
    }

    /// Whether an address is in the IPv4 network.
    pub fn contains_v4(&self, address: Ipv4Addr) -> bool {
        self.range_v4()
            .is_some_and(|(low, high)| (low..=high).contains(&u32::from(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        for text in ["172.17.0.2/16", "fd00::1/64", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "::/129", "a/8"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_and_overlaps() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let (low, high) = prefix("10.1.2.3/24").range_v4().unwrap();
        assert_eq!(Ipv4Addr::from(low), Ipv4Addr::new(10, 1, 2, 0));
        assert_eq!(Ipv4Addr::from(high), Ipv4Addr::new(10, 1, 2, 255));
        assert!(prefix("10.0.0.0/8").overlaps_v4(&prefix("10.9.0.0/16")));
        assert!(!prefix("10.0.0.0/16").overlaps_v4(&prefix("10.1.0.0/16")));
        assert!(prefix("0.0.0.0/0").overlaps_v4(&prefix("10.1.0.0/16")));
    }
}
