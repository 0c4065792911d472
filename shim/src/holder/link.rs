//! The shim's end of the socket between it and a holder.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags};
use serde::de::DeserializeOwned;
use serde::Serialize;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Longest packet, in bytes.
pub(super) const MAX_PACKET_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Link {
    socket: AsyncFd<OwnedFd>,
}

impl Link {
    /// `socket` is non-blocking.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: sys::async_fd(socket)?,
        })
    }

    /// The next packet; `None` when the other end is gone or sends what is none.
    pub(super) async fn receive<T: DeserializeOwned>(&self) -> Option<T> {
        let mut buffer = [0; MAX_PACKET_BYTES];
        loop {
            let mut guard = self.socket.readable().await.ok()?;
            let received = guard.try_io(|socket| {
                let (_, length) =
                    rustix::net::recv(socket.get_ref(), &mut buffer[..], RecvFlags::DONTWAIT)?;
                Ok(length)
            });
            match received {
                Ok(Ok(0)) => return None,
                Ok(Ok(length)) => return serde_json::from_slice(buffer.get(..length)?).ok(),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => return None,
                Err(_would_block) => {}
            }
        }
    }

    /// Sends a packet; a peer that is gone needs none.
    pub(super) async fn send(&self, message: &impl Serialize) {
        let Ok(packet) = serde_json::to_vec(message) else {
            return;
        };
        loop {
            let Ok(mut guard) = self.socket.writable().await else {
                return;
            };
            let sent = guard.try_io(|socket| {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(rustix::net::send(socket.get_ref(), &packet, flags)?)
            });
            if sent.is_ok() {
                return;
            }
        }
    }
}
