//! The VMM's end of the control socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use hull_vm_config::control::{disk_files, Event, Request, MAX_DISK_FILES, MAX_MESSAGE_BYTES};
use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendFlags, SocketType,
};

/// Most descriptors that a request carries, which is what a packet has room for.
const MAX_FDS: usize = MAX_DISK_FILES;

/// The control socket failed: the VM cannot be told anything more.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not a socket of the right type.
    #[error("descriptor \"control\" is not a SOCK_SEQPACKET socket")]
    WrongType,
    /// Receiving failed.
    #[error("failed to receive from the control socket")]
    Receive {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Sending failed. The peer has to read what it asked for: a full socket counts as failed.
    #[error("failed to send to the control socket")]
    Send {
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A packet that is no request. The peer made a mistake, the socket is still good.
#[derive(Debug, thiserror::Error)]
pub enum BadPacket {
    /// Longer than any message.
    #[error("the packet is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    /// Not the JSON of a request.
    #[error("the packet is not a request")]
    Parse {
        /// Where and why.
        source: serde_json::Error,
    },
    /// Descriptors came that the request has no use for, or the one that it needs did not.
    #[error("request {request} needs {expected} descriptors, {found} came")]
    Descriptors {
        /// Its name.
        request: &'static str,
        /// How many it needs.
        expected: usize,
        /// How many came; those that could not be received do not count.
        found: usize,
    },
}

/// What one packet held.
#[derive(Debug)]
pub enum Received {
    /// A request and as many descriptors as it needs.
    Request(Request, Vec<OwnedFd>),
    /// Something else.
    Bad(BadPacket),
    /// Nothing is there to receive now.
    Nothing,
    /// The peer has closed its end.
    Closed,
}

/// The socket.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Control {
    /// Takes the socket over.
    pub fn new(socket: OwnedFd) -> Result<Self, ControlError> {
        match rustix::net::sockopt::socket_type(&socket) {
            Ok(SocketType::SEQPACKET) => Ok(Self {
                socket,
                buffer: vec![0; MAX_MESSAGE_BYTES],
            }),
            _ => Err(ControlError::WrongType),
        }
    }

    /// Receives one packet without waiting.
    pub fn receive(&mut self) -> Result<Received, ControlError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let received = match recvmsg(&self.socket, &mut parts, &mut ancillary, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(errno) => {
                let source = errno.into();
                return Err(ControlError::Receive { source });
            }
        };
        let fds: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 && fds.is_empty() {
            return Ok(Received::Closed);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Ok(Received::Bad(BadPacket::TooLong));
        }
        Ok(match decode(&self.buffer[..received.bytes], fds) {
            Ok((request, fds)) => Received::Request(request, fds),
            Err(bad) => Received::Bad(bad),
        })
    }

    /// Sends an event without waiting.
    pub fn send(&self, event: &Event) -> Result<(), ControlError> {
        let failed = |source| ControlError::Send { source };
        let packet = serde_json::to_vec(event).map_err(|error| failed(error.into()))?;
        let parts = [IoSlice::new(&packet)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut nothing = SendAncillaryBuffer::default();
        sendmsg(&self.socket, &parts, &mut nothing, flags)
            .map(|_| ())
            .map_err(|errno| failed(errno.into()))
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Control {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn decode(packet: &[u8], fds: Vec<OwnedFd>) -> Result<(Request, Vec<OwnedFd>), BadPacket> {
    let request: Request =
        serde_json::from_slice(packet).map_err(|source| BadPacket::Parse { source })?;
    let (name, expected) = match &request {
        Request::Connect { .. } => ("connect", 1),
        Request::AttachNet { pairs, vhost, .. } => {
            let each = 1 + usize::from(*vhost);
            ("attach_net", each * usize::from(*pairs))
        }
        Request::DetachNet { .. } => ("detach_net", 0),
        Request::AttachBlock { disk, .. } => ("attach_block", disk_files(disk).len()),
        Request::DetachBlock { .. } => ("detach_block", 0),
        Request::AttachFs { .. } => ("attach_fs", 1),
        Request::Pause => ("pause", 0),
        Request::Resume => ("resume", 0),
        Request::Trace => ("trace", 0),
        Request::Jail => ("jail", 0),
        Request::Nets => ("nets", 0),
        Request::Disks => ("disks", 0),
    };
    if fds.len() == expected {
        Ok((request, fds))
    } else {
        Err(BadPacket::Descriptors {
            request: name,
            expected,
            found: fds.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{socketpair, AddressFamily, SendAncillaryMessage, SocketFlags};

    fn pair() -> (Control, OwnedFd) {
        let kind = SocketType::SEQPACKET;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None).unwrap();
        (Control::new(ours).unwrap(), theirs)
    }

    fn send(to: &OwnedFd, packet: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(
            to,
            &[IoSlice::new(packet)],
            &mut ancillary,
            SendFlags::empty(),
        )
        .unwrap();
    }

    #[test]
    fn connect_brings_its_descriptor() {
        let (mut control, peer) = pair();
        send(&peer, br#"{"connect":{"port":1024}}"#, &[peer.as_fd()]);
        assert!(matches!(
            control.receive().unwrap(),
            Received::Request(Request::Connect { port: 1024 }, fds) if fds.len() == 1
        ));
        assert!(matches!(control.receive().unwrap(), Received::Nothing));
    }

    #[test]
    fn wrong_number_of_descriptors_is_refused() {
        let (mut control, peer) = pair();
        let fd = peer.as_fd();
        for (packet, fds) in [
            (&br#"{"connect":{"port":1}}"#[..], &[][..]),
            (br#"{"connect":{"port":1}}"#, &[fd, fd]),
            (br#"{"connect":{"port":1}}"#, &[fd, fd, fd, fd, fd]),
            (
                br#"{"attach_net":{"slot":6,"mac":[2,0,0,0,0,1],"mtu":1500,"pairs":255}}"#,
                &[fd; 8],
            ),
            (
                br#"{"attach_net":{"slot":6,"mac":[2,0,0,0,0,1],"mtu":1500}}"#,
                &[fd, fd],
            ),
            (
                br#"{"attach_net":{"slot":6,"mac":[2,0,0,0,0,1],"mtu":1500,"vhost":true}}"#,
                &[fd],
            ),
            (br#""pause""#, &[fd]),
        ] {
            send(&peer, packet, fds);
            assert!(matches!(
                control.receive().unwrap(),
                Received::Bad(BadPacket::Descriptors { .. })
            ));
        }
    }

    #[test]
    fn packets_that_are_no_request_are_refused() {
        let (mut control, peer) = pair();
        for packet in [
            &b"{"[..],
            br#""stop""#,
            br#"{"pause":1}"#,
            &[0xff; 100],
            b"[[[[",
        ] {
            send(&peer, packet, &[]);
            assert!(matches!(
                control.receive().unwrap(),
                Received::Bad(BadPacket::Parse { .. })
            ));
        }
        send(&peer, &vec![b' '; MAX_MESSAGE_BYTES + 1], &[]);
        assert!(matches!(
            control.receive().unwrap(),
            Received::Bad(BadPacket::TooLong)
        ));
    }

    #[test]
    fn closed_peer_is_noticed() {
        let (mut control, peer) = pair();
        drop(peer);
        assert!(matches!(control.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn peer_that_never_reads_is_an_error_and_no_hang() {
        let (control, _peer) = pair();
        let event = Event::Refused {
            message: "x".repeat(60_000),
        };
        assert!((0..1000).any(|_| control.send(&event).is_err()));
    }

    #[test]
    fn other_descriptors_are_no_control_socket() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(
            Control::new(file.into()),
            Err(ControlError::WrongType)
        ));
    }
}
