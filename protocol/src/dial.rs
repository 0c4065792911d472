//! Connections from the host to servers on the guest's loopback addresses: what the host says first
//! on [`DIAL_PORT`]. After it the connection carries the bytes of the one that the agent made; it is
//! closed when the agent can't make one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// vsock port (in the guest) for connections to loopback addresses.
pub const DIAL_PORT: u32 = 1027;
/// Length of what the host says first, in bytes.
pub const PREAMBLE_BYTES: usize = 4;

/// The address family (4 or 6), zero, and the port (little endian). The address is the family's
/// loopback address.
pub fn preamble(to: SocketAddr) -> [u8; PREAMBLE_BYTES] {
    let [low, high] = to.port().to_le_bytes();
    let family = if to.is_ipv4() { 4 } else { 6 };
    [family, 0, low, high]
}

/// The reverse of [`preamble`]; `None` for another family.
pub fn destination(bytes: [u8; PREAMBLE_BYTES]) -> Option<SocketAddr> {
    let [family, _, low, high] = bytes;
    let address: IpAddr = match family {
        4 => Ipv4Addr::LOCALHOST.into(),
        6 => Ipv6Addr::LOCALHOST.into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_le_bytes([low, high])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_survives_its_bytes() {
        for text in ["127.0.0.1:8080", "[::1]:65535"] {
            let to: SocketAddr = text.parse().unwrap();
            assert_eq!(destination(preamble(to)), Some(to));
        }
        assert_eq!(destination([5, 0, 0, 0]), None);
    }
}
