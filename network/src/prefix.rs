//! An address with the length of its network prefix, such as `172.17.0.2/16`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
    /// One address alone.
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            length: bits(address),
        }
    }

    /// The mask of its network, as a number of as many bits as the address has.
    fn mask(&self) -> u128 {
        let width = u32::from(bits(self.address));
        let host_bits = width.saturating_sub(self.length.into());
        let all = u128::MAX >> (128 - width);
        all & u128::MAX.checked_shl(host_bits).unwrap_or(0)
    }

    /// The mask of its network, as it is in a packet.
    pub fn mask_bytes(&self) -> Vec<u8> {
        octets(number_to(self.mask(), self.address))
    }

    /// The network's own address, which is the lowest, with the same length.
    pub fn network(&self) -> Self {
        Self {
            address: self.first(),
            length: self.length,
        }
    }

    /// The lowest address of the network.
    pub fn first(&self) -> IpAddr {
        number_to(self.range().0, self.address)
    }

    /// The highest address of the network.
    pub fn last(&self) -> IpAddr {
        number_to(self.range().1, self.address)
    }

    /// The lowest and the highest address, as numbers.
    pub(crate) fn range(&self) -> (u128, u128) {
        let mask = self.mask();
        let low = number(self.address) & mask;
        let width = u32::from(bits(self.address));
        (low, low | !mask & (u128::MAX >> (128 - width)))
    }

    /// Whether two networks of one family have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let ((low, high), (other_low, other_high)) = (self.range(), other.range());
        let family = self.address.is_ipv4() == other.address.is_ipv4();
        family && low <= other_high && other_low <= high
    }

    /// Whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.overlaps(&Self::host(address))
    }
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address of a number, of the family of `like`.
pub(crate) fn number_to(number: u128, like: IpAddr) -> IpAddr {
    match like {
        // No more than 32 bits come from an IPv4 network.
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// The bytes of an address, as they are in a packet.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
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
        for (text, first, last, mask) in [
            (
                "10.1.2.3/24",
                "10.1.2.0",
                "10.1.2.255",
                vec![255, 255, 255, 0],
            ),
            ("10.1.2.3/0", "0.0.0.0", "255.255.255.255", vec![0; 4]),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.3", vec![255; 4]),
            ("fd00::9/126", "fd00::8", "fd00::b", {
                let mut mask = vec![255; 15];
                mask.push(252);
                mask
            }),
        ] {
            let prefix = prefix(text);
            assert_eq!(prefix.first().to_string(), first);
            assert_eq!(prefix.last().to_string(), last);
            assert_eq!(prefix.mask_bytes(), mask, "{text}");
        }
        for (one, other, overlap) in [
            ("10.0.0.0/8", "10.9.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "10.1.0.0/16", true),
            ("fd00::/8", "fd12:3::/64", true),
            ("fd00:1::/64", "fd00:2::/64", false),
            // Another family, though the numbers are near.
            ("::/0", "10.0.0.0/8", false),
        ] {
            assert_eq!(
                prefix(one).overlaps(&prefix(other)),
                overlap,
                "{one} {other}"
            );
        }
        assert!(prefix("fd00::/64").contains("fd00::7".parse().unwrap()));
    }
}
