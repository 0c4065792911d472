//! Sockets of a name server.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{sockopt, AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Takes an address by UDP and TCP. It need not be there yet: an IPv6 address is not until the host has
/// asked whether another one has it.
pub(super) fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = socket(address, SocketType::DGRAM)?;
    rustix::net::bind(&udp, &address)?;
    let tcp = socket(address, SocketType::STREAM)?;
    // Connections of a server that has ended may be left.
    sockopt::set_socket_reuseaddr(&tcp, true)?;
    rustix::net::bind(&tcp, &address)?;
    rustix::net::listen(&tcp, BACKLOG)?;
    Ok((
        UdpSocket::from_std(udp.into())?,
        TcpListener::from_std(tcp.into())?,
    ))
}

fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    match address {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_taken_once_and_before_it_is_there() {
        let (udp, _tcp) = bind(([127, 0, 0, 1], 0).into()).unwrap();
        assert!(bind(udp.local_addr().unwrap()).is_err());
        assert!(bind(([192, 0, 2, 1], 0).into()).is_ok());
    }
}
