//! Notices when somebody else takes something out of a table: a firewall that starts anew, or a
//! user who flushes all rules.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SocketAddrNetlink, NETFILTER};
use rustix::net::{RecvFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use super::message::{attribute, is_own, messages, DELETED};
use super::ANSWER_BYTES;
use crate::async_fd;

/// The multicast group of nf_tables (kernel header `linux/netfilter/nfnetlink.h`), as a bit.
const GROUP: u32 = 1 << (7 - 1);
/// Number of the attribute that names the table, in every message about something of it.
const TABLE_NAME: u16 = 1;

/// A watch over the tables of one name.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
    table: String,
}

impl Watch {
    /// Begins to watch.
    pub fn open(table: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::RAW;
        let family = rustix::net::AddressFamily::NETLINK;
        let socket = rustix::net::socket_with(family, kind, flags, Some(NETFILTER))?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(Self {
            socket: async_fd(socket)?,
            table: table.to_owned(),
        })
    }

    /// Waits until somebody else took something out.
    pub async fn lost(&self) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| receive(socket.get_ref(), &mut buffer)) {
                Ok(Ok(Received::Messages(length))) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if is_loss(bytes, &self.table) {
                        return Ok(());
                    }
                }
                Ok(Ok(Received::TooMuch)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                // It was not ready after all.
                Err(_) => {}
            }
        }
    }

    /// Forgets what has been told until now. The kernel tells of one flush in many messages, and
    /// who is about to write all rules anew need not do so for each.
    pub fn forget(&self) {
        let mut buffer = vec![0; ANSWER_BYTES];
        while receive(self.socket.get_ref(), &mut buffer).is_ok() {}
    }
}

/// What one call received.
enum Received {
    /// Messages, in so many bytes.
    Messages(usize),
    /// So much happened that it can't be told any more.
    TooMuch,
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    match rustix::net::recv(socket, buffer, RecvFlags::empty()) {
        Ok((length, _)) => Ok(Received::Messages(length)),
        Err(error) if error.raw_os_error() == libc::ENOBUFS => Ok(Received::TooMuch),
        Err(error) => Err(error.into()),
    }
}

/// Whether a notification says that another program took something out of a table.
fn is_loss(bytes: &[u8], table: &str) -> bool {
    messages(bytes).any(|message| {
        DELETED.contains(&message.kind)
            && !is_own(message.sequence)
            && attribute(message.attributes, TABLE_NAME)
                .is_some_and(|name| name.strip_suffix(b"\0").unwrap_or(name) == table.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::super::message::{transaction, FIRST_SEQUENCE};
    use super::super::{Change, Family};
    use super::*;

    fn removal(table: &str) -> Vec<u8> {
        transaction(&Change::Remove {
            family: Family::Netdev,
            table: table.into(),
            chain: "c".into(),
        })
    }

    #[test]
    fn a_removal_by_another_program_is_a_loss() {
        let own = removal("hull");
        assert!(!is_loss(&own, "hull"));
        // The same, with the sequence numbers of somebody else.
        let mut others = own.clone();
        let mark = FIRST_SEQUENCE.to_ne_bytes();
        for at in 0..others.len() - 4 {
            if others[at + 1..at + 4] == mark[1..] {
                others[at..at + 4].fill(0);
            }
        }
        assert!(is_loss(&others, "hull"));
        assert!(!is_loss(&others, "hull-2"));
        for end in 0..others.len() {
            is_loss(&others[..end], "hull");
        }
    }
}
