//! Address pools: which network a bridge gets, and which address a container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::prefix::{number, number_to};
use crate::Prefix;

/// Networks of one size, next to each other, to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    base: Prefix,
    size: u8,
}

/// A text that is no [`AddressPool`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddressPool {
    /// It is written otherwise.
    #[error("{0:?} is no address pool, such as base=10.10.0.0/16,size=24")]
    Syntax(String),
    /// The base is an address of a host.
    #[error("the base {base} of an address pool should be {network}")]
    Base {
        /// As it is.
        base: Prefix,
        /// As it should be.
        network: Prefix,
    },
    /// Networks would be larger than what they are in, or too small for a gateway and a container.
    #[error("the networks of address pool {base} can't have prefixes of {size}: want {} to {most}", base.length)]
    Size {
        /// What they are in.
        base: Prefix,
        /// Bits of their prefixes.
        size: u8,
        /// Most bits.
        most: u8,
    },
}

impl AddressPool {
    /// The networks of `base` whose prefixes have `size` bits.
    pub fn new(base: Prefix, size: u8) -> Result<Self, BadAddressPool> {
        let network = base.network();
        if base != network {
            return Err(BadAddressPool::Base { base, network });
        }
        let most = if base.address.is_ipv4() { 30 } else { 126 };
        if !(base.length..=most).contains(&size) {
            return Err(BadAddressPool::Size { base, size, most });
        }
        Ok(Self { base, size })
    }

    /// Whether they are of IPv6.
    pub fn is_v6(&self) -> bool {
        self.base.address.is_ipv6()
    }

    /// The lowest first.
    pub fn networks(self) -> impl DoubleEndedIterator<Item = Prefix> {
        let width = if self.is_v6() { 128 } else { 32 };
        let count = 1u128.checked_shl(u32::from(self.size - self.base.length));
        let (low, _) = self.base.range();
        let address = self.base.address;
        (0..count.unwrap_or(u128::MAX)).map(move |place| Prefix {
            address: number_to(low | place << (width - u32::from(self.size)), address),
            length: self.size,
        })
    }
}

impl FromStr for AddressPool {
    type Err = BadAddressPool;

    fn from_str(text: &str) -> Result<Self, BadAddressPool> {
        let (mut base, mut size) = (None, None);
        for word in text.split(',') {
            match word.trim().split_once('=') {
                Some(("base", value)) => base = value.parse().ok(),
                Some(("size", value)) => size = value.parse().ok(),
                _ => return Err(BadAddressPool::Syntax(text.to_owned())),
            }
        }
        match (base, size) {
            (Some(base), Some(size)) => Self::new(base, size),
            _ => Err(BadAddressPool::Syntax(text.to_owned())),
        }
    }
}

/// Networks to choose from, as Docker has them: 172.17 to 172.31, then 192.168.0.0/20 and on.
pub fn candidates() -> impl DoubleEndedIterator<Item = Prefix> {
    let large = (17..32).map(|second| Prefix {
        address: Ipv4Addr::new(172, second, 0, 0).into(),
        length: 16,
    });
    let small = (0..16).map(|third| Prefix {
        address: Ipv4Addr::new(192, 168, third * 16, 0).into(),
        length: 20,
    });
    large.chain(small)
}

/// IPv6 networks to choose from: those of one unique local prefix (RFC 4193), whose global id is
/// the low 40 bits of a number.
pub fn candidates_v6(global_id: u64) -> impl Iterator<Item = Prefix> {
    let top = 0xfdu128 << 120 | u128::from(global_id & 0xff_ffff_ffff) << 80;
    (0..=u128::from(u16::MAX)).map(move |subnet| Prefix {
        address: Ipv6Addr::from(top | subnet << 64).into(),
        length: 64,
    })
}

/// The first candidate that overlaps nothing in `taken`.
pub fn choose(mut candidates: impl Iterator<Item = Prefix>, taken: &[Prefix]) -> Option<Prefix> {
    candidates.find(|candidate| !taken.iter().any(|other| candidate.overlaps(other)))
}

/// The lowest free host address of `network`, and of `range` in it: neither its first and last, nor
/// in `taken`. Addresses above `after` come first, so that one that was just given back is not given
/// out at once.
pub fn free_address(
    network: Prefix,
    range: Option<Prefix>,
    taken: &dyn Fn(IpAddr) -> bool,
    after: Option<IpAddr>,
) -> Option<IpAddr> {
    let (low, high) = network.range();
    let (range_low, range_high) = range.unwrap_or(network).range();
    let first = low.checked_add(1)?.max(range_low);
    let last = high.checked_sub(1)?.min(range_high);
    if last < first {
        return None;
    }
    let start = after.map_or(first, |after| number(after).saturating_add(1));
    let start = if last < start {
        first
    } else {
        start.max(first)
    };
    (start..=last)
        .chain(first..start)
        .map(|number| number_to(number, network.address))
        .find(|address| !taken(*address))
}

/// The link-local address that an interface gives itself (RFC 4291, appendix A).
pub fn link_local_of(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let id = [pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)];
    Ipv6Addr::new(0xfe80, 0, 0, 0, id[0], id[1], id[2], id[3])
}

/// Spreads the words of an IPv6 address: an odd number without a pattern.
const SPREAD: u32 = 0x9e37_79b1;

/// The hardware address that goes with an address: locally administered, so never another
/// interface's, and the same each time. That of an IPv4 address is as Docker makes it. Addresses
/// that differ in their last 32 bits alone have different ones.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            let words = [96, 64, 32, 0].map(|shift| (bits >> shift) as u32);
            let mixed = words.iter().fold(0u32, |mixed, word| {
                mixed.wrapping_mul(SPREAD).wrapping_add(*word)
            });
            mixed.to_be_bytes()
        }
    };
    [0x02, 0x42, a, b, c, d]
}

/// As it is written.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads a hardware address of one interface: six bytes, not a group's, not zero.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte = |part: &&str| {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(part, 16).ok())?
    };
    let bytes: Vec<u8> = parts.iter().map(byte).collect::<Option<_>>()?;
    let mac: [u8; 6] = bytes.try_into().ok()?;
    let [first, ..] = mac;
    (first & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_that_the_host_uses_is_passed_over() {
        assert_eq!(choose(candidates(), &[]), Some(prefix("172.17.0.0/16")));
        let taken = [prefix("172.17.0.0/16"), prefix("172.18.5.0/24")];
        assert_eq!(choose(candidates(), &taken), Some(prefix("172.19.0.0/16")));
        assert_eq!(choose(candidates(), &[prefix("0.0.0.0/0")]), None);
        let unique = || candidates_v6(0x12_3456_789a);
        let first = prefix("fd12:3456:789a::/64");
        assert_eq!(choose(unique(), &[]), Some(first));
        let second = choose(unique(), &[first]);
        assert_eq!(second, Some(prefix("fd12:3456:789a:1::/64")));
    }

    #[test]
    fn a_pool_is_cut_into_networks() {
        let pool = |text: &str| text.parse::<AddressPool>();
        let of = |text| pool(text).unwrap().networks().collect::<Vec<_>>();
        assert_eq!(
            of("base=10.10.0.0/22,size=24"),
            [
                "10.10.0.0/24",
                "10.10.1.0/24",
                "10.10.2.0/24",
                "10.10.3.0/24"
            ]
            .map(prefix)
        );
        assert_eq!(of("size=16, base=172.80.0.0/16"), [prefix("172.80.0.0/16")]);
        let large = pool("base=fd00::/8,size=64").unwrap();
        assert!(large.is_v6());
        assert_eq!(large.networks().nth(1), Some(prefix("fd00:0:0:1::/64")));
        assert_eq!(
            large.networks().next_back(),
            Some(prefix("fdff:ffff:ffff:ffff::/64"))
        );
        assert_eq!(
            pool("base=::/0,size=126").unwrap().networks().next(),
            Some(prefix("::/126"))
        );
    }

    #[test]
    fn pools_that_cannot_be_cut_are_errors() {
        let error = |text: &str| text.parse::<AddressPool>().unwrap_err().to_string();
        assert!(error("base=10.10.0.1/16,size=24").contains("should be 10.10.0.0/16"));
        assert!(error("base=10.10.0.0/16,size=8").contains("want 16 to 30"));
        assert!(error("base=10.10.0.0/16,size=31").contains("want 16 to 30"));
        for bad in [
            "",
            "10.0.0.0/8",
            "base=10.0.0.0/8",
            "size=24",
            "base=x,size=24",
            "base=10.0.0.0/8,size=24,x=1",
        ] {
            assert!(error(bad).contains("no address pool"), "{bad}");
        }
    }

    #[test]
    fn addresses_are_given_in_order_and_each_once() {
        for (network, range, count, last_one, third) in [
            ("10.0.0.0/29", None, 6, "10.0.0.6", "10.0.0.3"),
            ("fd00::/125", None, 6, "fd00::6", "fd00::3"),
            (
                "10.0.0.0/24",
                Some("10.0.0.8/30"),
                5,
                "10.0.0.11",
                "10.0.0.9",
            ),
        ] {
            let network = prefix(network);
            let range = range.map(prefix);
            let mut taken = vec![number_to(number(network.first()) + 1, network.address)];
            let mut last = None;
            while let Some(next) = free_address(network, range, &|a| taken.contains(&a), last) {
                taken.push(next);
                last = Some(next);
            }
            assert_eq!(taken.len(), count);
            assert_eq!(last.unwrap().to_string(), last_one);
            // What came back is found again, at the end of the round.
            taken.remove(2);
            let again = free_address(network, range, &|a| taken.contains(&a), last);
            assert_eq!(again.unwrap().to_string(), third);
        }
        let outside = free_address(
            prefix("10.0.0.0/24"),
            Some(prefix("10.0.0.255/32")),
            &|_| false,
            None,
        );
        assert_eq!(outside, None);
    }

    #[test]
    fn link_local_addresses_follow_from_hardware_addresses() {
        let address = link_local_of([0x02, 0x42, 0xac, 0x11, 0, 2]);
        assert_eq!(address.to_string(), "fe80::42:acff:fe11:2");
    }

    #[test]
    fn hardware_addresses_follow_from_addresses() {
        let of = |text: &str| mac_of(text.parse().unwrap());
        assert_eq!(mac_text(of("172.17.0.2")), "02:42:ac:11:00:02");
        let several = ["fd00::2", "fd00::3", "fd00::1:0:2", "fd00::1:2", "fd01::2"].map(of);
        for (index, mac) in several.iter().enumerate() {
            assert!(!several[..index].contains(mac), "{mac:x?}");
            assert_eq!(mac[0] & 3, 2);
        }
    }

    #[test]
    fn hardware_addresses_are_read() {
        let mac = [2, 0x42, 0xac, 17, 0, 2];
        assert_eq!(parse_mac("02:42:AC:11:00:02"), Some(mac));
        assert_eq!(parse_mac("02-42-ac-11-00-02"), Some(mac));
        for bad in [
            "",
            "02:42:ac:11:00",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:42:ac:11:00:+2",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
