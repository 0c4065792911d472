//! Notices that interfaces, addresses or routes of a namespace change. Neighbours are not watched: each
//! that the kernel learns would be told of.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
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
    /// Indexes of interfaces that left and were not taken yet.
    left: Mutex<BTreeSet<u32>>,
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
        let left = Mutex::default();
        Ok(Self { socket, left })
    }

    /// Waits for changes, and until they pause. Nothing is lost where it is dropped before.
    pub async fn changed(&self) -> io::Result<()> {
        self.next().await?;
        let latest = Instant::now() + LATEST;
        while Instant::now() < latest {
            match tokio::time::timeout(QUIET, self.next()).await {
                Ok(next) => next?,
                Err(_quiet) => break,
            }
        }
        Ok(())
    }

    /// The interfaces that left up to now, by their index; others may have come under the same one
    /// since. Each is told once. What changed up to now is not waited for any more.
    pub fn take_left(&self) -> io::Result<BTreeSet<u32>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match self.receive(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                received => received?,
            }
        }
        Ok(std::mem::take(&mut *self.left()))
    }

    /// They are to be told again.
    pub fn put_back(&self, left: BTreeSet<u32>) {
        self.left().extend(left);
    }

    fn left(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next datagram.
    async fn next(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut ready = self.socket.readable().await?;
            // An error says that it was not ready after all.
            if let Ok(received) = ready.try_io(|_| self.receive(&mut buffer)) {
                return received;
            }
        }
    }

    /// Reads a datagram, if one is there.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<()> {
        match rustix::net::recv(self.socket.get_ref(), &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                let read = buffer.get(..length).unwrap_or_default();
                self.left().extend(links_that_left(read));
                Ok(())
            }
            // More happened than it can tell of: that something did is enough.
            Err(Errno::NOBUFS) => Ok(()),
            Err(errno) => Err(errno.into()),
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

    use super::super::test_namespace::TestNamespace;
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
    async fn what_comes_and_goes_is_noticed() {
        let Some(test) = TestNamespace::new() else {
            return;
        };
        let watch = Watch::open(test.namespace()).unwrap();
        let index = test.add_interface("one", "192.0.2.1/24");
        let patience = Duration::from_secs(10);
        let changed = || tokio::time::timeout(patience, watch.changed());
        changed().await.unwrap().unwrap();
        assert_eq!(watch.take_left().unwrap(), BTreeSet::new());
        test.remove(index);
        // One who stops to wait loses nothing.
        let _ = tokio::time::timeout(QUIET / 2, watch.changed()).await;
        let left = BTreeSet::from([index]);
        assert_eq!(watch.take_left().unwrap(), left);
        assert_eq!(watch.take_left().unwrap(), BTreeSet::new());
        watch.put_back(left.clone());
        assert_eq!(watch.take_left().unwrap(), left);
        // What was taken is no change any more.
        let quiet = tokio::time::timeout(QUIET * 2, watch.changed()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}
