//! Address pools: which network a bridge gets, and which address a container.

use std::net::Ipv4Addr;

use crate::Prefix;

/// Networks to choose from, as Docker has them: 172.17 to 172.31, then 192.168.0.0/20 and on.
pub fn candidates() -> impl Iterator<Item = Prefix> {
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

/// The first candidate that overlaps nothing in `taken`.
pub fn choose(taken: &[Prefix]) -> Option<Prefix> {
    candidates().find(|candidate| !taken.iter().any(|other| candidate.overlaps_v4(other)))
}

/// The lowest free host address of `network`: neither its first and last, nor in `taken`. Addresses
/// above `after` come first, so that one that was just given back is not given out at once.
pub fn free_address(
    network: Prefix,
    taken: &dyn Fn(Ipv4Addr) -> bool,
    after: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let (low, high) = network.range_v4()?;
    let (first, last) = (low.checked_add(1)?, high.checked_sub(1)?);
    let start = after.map_or(first, |after| u32::from(after).saturating_add(1));
    let start = start.clamp(first, last);
    (start..=last)
        .chain(first..start)
        .map(Ipv4Addr::from)
        .find(|address| !taken(*address))
}

/// The hardware address that goes with an IPv4 address, as Docker makes it: locally administered,
/// so never another interface's, and the same each time.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
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
        assert_eq!(choose(&[]), Some(prefix("172.17.0.0/16")));
        let taken = [prefix("172.17.0.0/16"), prefix("172.18.5.0/24")];
        assert_eq!(choose(&taken), Some(prefix("172.19.0.0/16")));
        assert_eq!(choose(&[prefix("0.0.0.0/0")]), None);
    }

    #[test]
    fn addresses_are_given_in_order_and_each_once() {
        let network = prefix("10.0.0.0/29");
        let mut taken = vec![Ipv4Addr::new(10, 0, 0, 1)];
        let mut last = None;
        while let Some(next) = free_address(network, &|a| taken.contains(&a), last) {
            taken.push(next);
            last = Some(next);
        }
        assert_eq!(taken.len(), 6);
        assert_eq!(last, Some(Ipv4Addr::new(10, 0, 0, 6)));
        // What came back is found again, at the end of the round.
        taken.remove(2);
        let again = free_address(network, &|a| taken.contains(&a), last);
        assert_eq!(again, Some(Ipv4Addr::new(10, 0, 0, 3)));
    }

    #[test]
    fn hardware_addresses_follow_from_addresses() {
        let mac = mac_of(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac_text(mac), "02:42:ac:11:00:02");
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
