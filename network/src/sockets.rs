//! The sockets of this network namespace that take what comes from outside, by the kernel's socket
//! diagnosis (sock_diag).
//!
//! Unlike the tables in `/proc`, it is asked for these alone, so connections cost nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SocketAddrNetlink, SOCK_DIAG};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel looks for the modules by itself where that is allowed.
const NO_DIAGNOSIS: &str = "the kernel has no socket diagnosis (modules tcp_diag and udp_diag)";
/// Kinds of netlink messages, and flags of a request for a whole table.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x301;
/// Bytes of a message's header, of a request behind it, and of an answer.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = 56;
const ANSWER_BYTES: usize = 72;
/// Where an answer has its port and its address.
const PORT: usize = 4;
const ADDRESS: usize = 8;
/// Bytes that are read at once.
const BUFFER_BYTES: usize = 32 << 10;
/// States, as bits: a listener, and a UDP socket without a peer.
const LISTENS: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;
/// Numbers of protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A port that somebody listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenPort {
    /// It is of UDP, else of TCP.
    pub udp: bool,
    /// Its number.
    pub port: u16,
}

/// TCP ports at which somebody listens on 127.0.0.1, be it on all addresses.
pub fn local_ports() -> io::Result<BTreeSet<u16>> {
    let mut open = BTreeSet::new();
    each(&[(TCP, LISTENS)], &mut |_, address, port| {
        if address.is_unspecified() || address == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            open.insert(port);
        }
    })?;
    Ok(open)
}

/// Ports that are open to more than this machine itself. UDP ports are left out that the kernel
/// chose (`/proc/sys/net/ipv4/ip_local_port_range`): whoever asks a question has one.
pub fn open_ports(chosen: std::ops::RangeInclusive<u16>) -> io::Result<BTreeSet<OpenPort>> {
    let mut open = BTreeSet::new();
    let wanted = [(TCP, LISTENS), (UDP, UNCONNECTED)];
    each(&wanted, &mut |protocol, address, port| {
        let udp = protocol == UDP;
        let asks = udp && chosen.contains(&port);
        if !address.is_loopback() && !asks {
            open.insert(OpenPort { udp, port });
        }
    })?;
    Ok(open)
}

/// Calls `take` with the protocol, address and port of each socket of these protocols and states
/// that has a port.
fn each(wanted: &[(u8, u32)], take: &mut dyn FnMut(u8, IpAddr, u16)) -> io::Result<()> {
    let kind = SocketType::RAW;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(SOCK_DIAG))?;
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        for (protocol, states) in wanted {
            let mut read = |answer: &[u8]| match read_answer(answer, family) {
                Some((address, port)) if port != 0 => take(*protocol, address, port),
                _ => {}
            };
            match dump(&socket, family, *protocol, *states, &mut read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if family == AddressFamily::INET {
                        return Err(io::Error::other(NO_DIAGNOSIS));
                    }
                    // A kernel without IPv6.
                }
                result => result?,
            }
        }
    }
    Ok(())
}

fn dump(
    socket: &OwnedFd,
    family: AddressFamily,
    protocol: u8,
    states: u32,
    take: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let kernel = SocketAddrNetlink::new(0, 0);
    let request = request(family, protocol, states);
    rustix::net::sendto(socket, &request, SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        if read_messages(&buffer[..length], take)? {
            return Ok(());
        }
    }
}

fn request(family: AddressFamily, protocol: u8, states: u32) -> Vec<u8> {
    let length = (HEADER_BYTES + REQUEST_BYTES) as u32;
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    // Sequence number and sender: there is one question at a time.
    bytes.extend([0; 8]);
    bytes.extend([family.as_raw() as u8, protocol, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.resize(length as usize, 0);
    bytes
}

/// Reads the messages of one datagram; `true` at the end of the answer.
fn read_messages(mut bytes: &[u8], take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    while let Some((length, kind)) = read_header(bytes) {
        let body = bytes.get(HEADER_BYTES..length).unwrap_or_default();
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            SOCK_DIAG_BY_FAMILY => take(body),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The whole length of the first message, and its kind.
fn read_header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    (HEADER_BYTES <= length).then_some((length, kind))
}

fn read_answer(bytes: &[u8], family: AddressFamily) -> Option<(IpAddr, u16)> {
    let bytes = bytes.get(..ANSWER_BYTES)?;
    let port = u16::from_be_bytes(*bytes.get(PORT..)?.first_chunk()?);
    let address = bytes.get(ADDRESS..)?;
    let address = match family {
        AddressFamily::INET => IpAddr::from(*address.first_chunk::<4>()?),
        _ => Ipv6Addr::from(*address.first_chunk::<16>()?).to_canonical(),
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn who_listens_is_found() {
        let nobody = || 1..=1;
        let outside = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let inside = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let udp = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let connected = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        connected.connect(("127.0.0.1", 9)).unwrap();
        let of = |udp, port| OpenPort { udp, port };
        let open = open_ports(nobody()).unwrap();
        assert!(open.contains(&of(false, outside.local_addr().unwrap().port())));
        assert!(!open.contains(&of(false, inside.local_addr().unwrap().port())));
        let port = udp.local_addr().unwrap().port();
        assert!(open.contains(&of(true, port)));
        assert!(!open.contains(&of(true, connected.local_addr().unwrap().port())));
        assert!(!open_ports(port..=port).unwrap().contains(&of(true, port)));
        let local = local_ports().unwrap();
        for listener in [&outside, &inside] {
            assert!(local.contains(&listener.local_addr().unwrap().port()));
        }
        drop(outside);
    }

    #[test]
    fn what_is_cut_off_is_no_answer() {
        let whole = request(AddressFamily::INET, TCP, LISTENS);
        for end in 0..whole.len() {
            assert!(!read_messages(&whole[..end], &mut |_| {}).unwrap());
        }
        assert!(read_answer(&[0; ANSWER_BYTES - 1], AddressFamily::INET).is_none());
    }
}
