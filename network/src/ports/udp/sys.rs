//! Datagrams with the address of this host that they were sent to, which has no safe interface.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Room for one control message of either family, aligned as its header.
type Control = [u64; 8];

/// Has the kernel tell of each datagram which address it was sent to. `own`: what the socket is bound to.
pub(super) fn tell_destinations(socket: BorrowedFd<'_>, own: SocketAddr) -> io::Result<()> {
    let (level, option) = match own {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one number, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&on).cast(),
            bytes,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One datagram: its length, who sent it, and to which address of this host.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let mut control = Control::default();
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: both are plain data, for which all zeroes is valid.
    let (mut name, mut header): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (zeroed(), zeroed()) };
    header.msg_name = std::ptr::from_mut(&mut name).cast();
    header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>();
    // SAFETY: all that the header names outlives the call, and is as long as it says.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let to = destination(&header);
    Ok((length, address_of(&name)?, to))
}

/// The address of this host in the control messages of a datagram.
fn destination(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel wrote whole control messages, and their length into the header.
    unsafe {
        let mut each = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = each.as_ref() {
            let data = libc::CMSG_DATA(each);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => {}
            }
            each = libc::CMSG_NXTHDR(header, each);
        }
    }
    None
}

fn address_of(name: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    let name = std::ptr::from_ref(name);
    // SAFETY: the storage is as large and as aligned as each of them, and says which it is.
    unsafe {
        match i32::from((*name).ss_family) {
            libc::AF_INET => {
                let v4 = &*name.cast::<libc::sockaddr_in>();
                let address = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Ok((address, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = &*name.cast::<libc::sockaddr_in6>();
                let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Ok(SocketAddrV6::new(
                    address,
                    u16::from_be(v6.sin6_port),
                    v6.sin6_flowinfo,
                    v6.sin6_scope_id,
                )
                .into())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Sends a datagram from an address of this host.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    data: &[u8],
    to: SocketAddr,
    from: IpAddr,
) -> io::Result<usize> {
    let mut name = raw(to);
    let mut control = Control::default();
    let mut part = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: plain data, for which all zeroes is valid.
    let mut header: libc::msghdr = unsafe { zeroed() };
    (header.msg_name, header.msg_namelen) = name.bytes();
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>();
    let scope = match to {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(to) => to.scope_id(),
    };
    header.msg_controllen = source(&mut header, from, scope);
    // SAFETY: all that the header names outlives the call, and is as long as it says.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// An address as the kernel has it.
enum Raw {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Raw {
    fn bytes(&mut self) -> (*mut libc::c_void, libc::socklen_t) {
        match self {
            Self::V4(v4) => {
                let length = size_of::<libc::sockaddr_in>();
                (std::ptr::from_mut(v4).cast(), length as libc::socklen_t)
            }
            Self::V6(v6) => {
                let length = size_of::<libc::sockaddr_in6>();
                (std::ptr::from_mut(v6).cast(), length as libc::socklen_t)
            }
        }
    }
}

fn raw(address: SocketAddr) -> Raw {
    match address {
        SocketAddr::V4(address) => Raw::V4(libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: address.ip().to_bits().to_be(),
            },
            sin_zero: [0; 8],
        }),
        SocketAddr::V6(address) => Raw::V6(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: address.port().to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr {
                s6_addr: address.ip().octets(),
            },
            sin6_scope_id: address.scope_id(),
        }),
    }
}

/// Writes the control message that says which address a datagram comes from, into the room that the
/// header names. The result is its length.
fn source(header: &mut libc::msghdr, from: IpAddr, scope: u32) -> usize {
    match from {
        IpAddr::V4(from) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: from.to_bits().to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            put(header, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(from) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: from.octets(),
                },
                // A link-local address means something on one interface alone.
                ipi6_ifindex: scope,
            };
            put(header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn put<T: Copy>(header: &mut libc::msghdr, level: i32, kind: i32, value: T) -> usize {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: the room that the header names is a [`Control`], which has space for a message header
    // and either value.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
        libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
        libc::CMSG_SPACE(size) as usize
    }
}
