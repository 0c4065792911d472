//! Notices that interfaces, addresses or routes of a namespace change.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::{ForeignError, Namespace};
use crate::async_fd;
use crate::netlink::NetlinkError;

/// The multicast groups of rtnetlink, as bits (kernel header `linux/rtnetlink.h`): interfaces, and
/// the addresses and routes of both families.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Bytes that are read at once.
const BUFFER_BYTES: usize = 32 << 10;
/// Whoever prepares an interface does so in several steps: changes are told when none came for so
/// long.
const QUIET: Duration = Duration::from_millis(100);
/// Changes that never pause are told after so long.
const LATEST: Duration = Duration::from_secs(1);

/// A watch over a namespace.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Begins to watch.
    pub fn open(namespace: &Namespace) -> Result<Self, ForeignError> {
        let failed = |source| NetlinkError::Refused {
            action: "watch for changes".into(),
            source,
        };
        let socket = namespace.run(|| namespace.netlink(listen().map_err(failed)))?;
        let socket = namespace.netlink(async_fd(socket).map_err(failed))?;
        Ok(Self { socket })
    }

    /// Waits for changes, and until they pause. The interfaces that left meanwhile, by their index;
    /// others may have come under the same one since.
    pub async fn changed(&self) -> io::Result<BTreeSet<u32>> {
        let mut gone = BTreeSet::new();
        self.next(&mut gone).await?;
        let latest = Instant::now() + LATEST;
        while Instant::now() < latest {
            match tokio::time::timeout(QUIET, self.next(&mut gone)).await {
                Ok(next) => next?,
                Err(_quiet) => break,
            }
        }
        Ok(gone)
    }

    /// Waits for the next datagram.
    async fn next(&self, gone: &mut BTreeSet<u32>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| {
                let (length, _) =
                    rustix::net::recv(socket.get_ref(), &mut buffer[..], RecvFlags::empty())?;
                Ok(length)
            });
            match received {
                Ok(Ok(length)) => {
                    gone.extend(links_that_left(buffer.get(..length).unwrap_or_default()));
                    return Ok(());
                }
                // More happened than it can tell of: that something did is enough.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                // It was not ready after all.
                Err(_) => {}
            }
        }
    }
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = rustix::net::AddressFamily::NETLINK;
    // NETLINK_ROUTE, which is number 0.
    let socket = rustix::net::socket_with(family, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

/// What can't be read tells of no interface; that something changed is told all the same.
fn links_that_left(mut bytes: &[u8]) -> Vec<u32> {
    let mut left = Vec::new();
    while !bytes.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else {
            break;
        };
        let length = (message.header.length as usize).next_multiple_of(4);
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = message.payload {
            // A bridge tells so of a port that it loses.
            if link.header.interface_family == AddressFamily::Unspec {
                left.push(link.header.index);
            }
        }
        bytes = bytes.get(length.max(4)..).unwrap_or_default();
    }
    left
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn message(family: AddressFamily, index: u32) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.interface_family = family;
        link.header.index = index;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::DelLink(link));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn interfaces_that_left_are_told_apart() {
        let of_bridge = message(AddressFamily::Bridge, 3);
        let bytes = [message(AddressFamily::Unspec, 7), of_bridge].concat();
        assert_eq!(links_that_left(&bytes), [7]);
        for end in 0..bytes.len() {
            links_that_left(&bytes[..end]);
        }
    }

    #[tokio::test]
    async fn a_quiet_namespace_has_no_changes() {
        let own = Namespace::open(std::path::Path::new("/proc/thread-self/ns/net")).unwrap();
        let watch = Watch::open(&own).unwrap();
        // Another test may change something here.
        let changed = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
        if let Ok(changed) = changed {
            changed.unwrap();
        }
    }
}
