//! SCTP associations with published ports.
//!
//! Each ends here and goes on as another, message by message: a message keeps its stream, its
//! payload's kind and whether it is ordered. What the two ends tell each other of further addresses
//! ends here, too.

mod sys;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr, socket_error};
use rustix::net::{ipproto, AddressFamily, Shutdown, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

use super::connections::Listener;
use super::BACKLOG;
use crate::async_fd;

/// Streams of an association, each way.
const STREAMS: u16 = 256;
/// Largest message, in bytes; one that is larger ends its association.
const MAX_MESSAGE: usize = 64 << 10;
/// What the one end still says after the other has ended is taken for so long.
const LINGER: Duration = Duration::from_secs(30);

/// A port that associations are begun with.
#[derive(Debug)]
pub struct SctpListener(AsyncFd<OwnedFd>);

impl SctpListener {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket(address)?;
        set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self(async_fd(socket)?))
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(&self.0)?;
        Ok(SocketAddr::try_from(address)?)
    }
}

/// A socket of one association at a time.
fn socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::SCTP))
        .map_err(|errno| explained(errno.into()))?;
    if address.is_ipv6() {
        // The one for IPv4 has the same port beside it.
        set_ipv6_v6only(&socket, true)?;
    }
    sys::set_streams(socket.as_fd(), STREAMS)?;
    Ok(socket)
}

/// The kernel looks for the module by itself where that is allowed.
fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => io::Error::new(
            io::ErrorKind::Unsupported,
            "the host's kernel has no SCTP; load it with `modprobe sctp`",
        ),
        _ => error,
    }
}

impl Listener for SctpListener {
    type Client = Association;

    async fn accept(&self) -> io::Result<Association> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let take = |socket: &OwnedFd| -> io::Result<OwnedFd> {
            Ok(rustix::net::accept_with(socket, flags)?)
        };
        Association::new(self.0.async_io(Interest::READABLE, take).await?)
    }

    async fn pass_on(client: Association, targets: Arc<[SocketAddr]>) {
        for target in &*targets {
            if let Ok(server) = Association::connect(*target).await {
                return relay(&client, &server).await;
            }
        }
    }
}

/// One end of an association.
#[derive(Debug)]
pub(super) struct Association(AsyncFd<OwnedFd>);

impl Association {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        sys::prepare(socket.as_fd())?;
        Ok(Self(async_fd(socket)?))
    }

    async fn connect(target: SocketAddr) -> io::Result<Self> {
        let made = Self::new(socket(target)?)?;
        match rustix::net::connect(&made.0, &target) {
            Ok(()) => return Ok(made),
            Err(rustix::io::Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let _ = made.0.writable().await?;
        socket_error(&made.0)??;
        Ok(made)
    }

    /// The next message, as so many bytes of `buffer`; `None`: the peer has ended the association.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, sys::Info)>> {
        let mut filled = 0;
        loop {
            let rest = &mut buffer[filled..];
            if rest.is_empty() {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let take = |socket: &OwnedFd| sys::receive(socket.as_fd(), rest);
            let part = self.0.async_io(Interest::READABLE, take).await?;
            filled += part.length;
            match part.length {
                0 => return Ok(None),
                _ if part.last => return Ok(Some((filled, part.info))),
                _ => {}
            }
        }
    }

    async fn send(&self, message: &[u8], info: sys::Info) -> io::Result<()> {
        let give = |socket: &OwnedFd| sys::send(socket.as_fd(), message, info);
        self.0.async_io(Interest::WRITABLE, give).await?;
        Ok(())
    }
}

/// Passes messages on both ways. An association ends as a whole: once one end has said so, the
/// other is told, and what it has yet to say is taken so that its end is orderly as well.
async fn relay(client: &Association, server: &Association) {
    let mut there = pin!(pass(client, server));
    let mut back = pin!(pass(server, client));
    let _ = tokio::select! {
        () = &mut there => tokio::time::timeout(LINGER, back).await,
        () = &mut back => tokio::time::timeout(LINGER, there).await,
    };
}

async fn pass(from: &Association, to: &Association) {
    let mut buffer = vec![0; MAX_MESSAGE];
    while let Ok(Some((length, info))) = from.receive(&mut buffer).await {
        match to.send(&buffer[..length], info).await {
            // It has fewer streams than the other. Nothing may be lost in silence.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            // After its end, it takes nothing more.
            Ok(()) | Err(_) => {}
        }
    }
    let _ = rustix::net::shutdown(&to.0, Shutdown::Write);
}
