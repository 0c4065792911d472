//! Interfaces, addresses and routes of this network namespace, by rtnetlink.
//!
//! Calls block for as long as the kernel takes, which is far below a millisecond.

mod addresses;
mod links;
mod routes;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

pub use addresses::Neighbour;
pub use links::Link;
pub use routes::Route;

/// Largest answer that is read at once, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Why the kernel did not do something.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// It refused.
    #[error("failed to {action}")]
    Refused {
        /// What was tried.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// It said what can't be read.
    #[error("failed to read the kernel's answer about {action}: {reason}")]
    Answer {
        /// What was tried.
        action: String,
        /// Why.
        reason: String,
    },
}

/// A connection to the kernel's rtnetlink.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Connects.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE, which is number 0.
            None,
        );
        let socket = socket.map_err(|errno| NetlinkError::Refused {
            action: "open a netlink socket".into(),
            source: errno.into(),
        })?;
        Ok(Self { socket })
    }

    /// Sends one request and reads to the end of its answer.
    pub(crate) fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let refused = |source: io::Error| NetlinkError::Refused {
            action: action.to_owned(),
            source,
        };
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        if flags & NLM_F_DUMP != NLM_F_DUMP {
            request.header.flags |= NLM_F_ACK;
        }
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)
            .map_err(|errno| refused(errno.into()))?;

        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())
                .map_err(|errno| refused(errno.into()))?;
            if read_answers(&buffer[..length], action, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Reads the messages of one datagram; `true` at the end of the answer.
fn read_answers(
    mut bytes: &[u8],
    action: &str,
    answers: &mut Vec<RouteNetlinkMessage>,
) -> Result<bool, NetlinkError> {
    while !bytes.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map_err(|error| {
                NetlinkError::Answer {
                    action: action.to_owned(),
                    reason: error.to_string(),
                }
            })?;
        let length = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(_) => Err(NetlinkError::Refused {
                        action: action.to_owned(),
                        source: error.to_io(),
                    }),
                };
            }
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            _ => {}
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// What is removed may be gone already, as the kernel says by an error with this number.
fn gone<T>(removed: Result<T, NetlinkError>, number: i32) -> Result<(), NetlinkError> {
    match removed {
        Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(number) => {
            Ok(())
        }
        other => other.map(drop),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert_eq!(lo.index, 1);
        assert!(lo.mtu > 0);
        assert_eq!(netlink.link("no-such-link").unwrap(), None);
        netlink.destinations().unwrap();
        netlink.uplink_mtu().unwrap();
    }

    #[test]
    fn a_refusal_says_what_was_tried() {
        let netlink = Netlink::open().unwrap();
        let error = netlink.delete_link(u32::MAX - 1).unwrap_err();
        assert!(error.to_string().contains("remove interface"), "{error}");
    }
}
