//! Where the API is served: UNIX sockets, TCP, and sockets that systemd hands over.

mod address;
mod socket;
mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub use address::Address;
pub use tls::TlsFiles;

use crate::api::Way;
use crate::error::{EngineError, Result};
use socket::Socket;

/// Longest time for a client to shake hands.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
/// After how long a silence a client by TCP is asked whether it is there, and again; as dockerd.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// One place to serve the API at.
pub(crate) enum Listener {
    /// A socket of our own; its file goes with the value.
    Unix(Socket),
    /// One that systemd keeps.
    Given(tokio::net::UnixListener),
    /// TCP; without TLS only on loopback addresses.
    Tcp(TcpListener, Option<TlsAcceptor>),
}

/// What a connection is served on.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connection before its handshake.
pub(crate) enum Accepted {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream, Option<TlsAcceptor>),
}

/// Begins to listen on every address, or on none.
pub(crate) async fn bind(
    addresses: &[Address],
    group: Option<&str>,
    tls: Option<&TlsFiles>,
) -> Result<Vec<Listener>> {
    let acceptor = tls.map(tls::acceptor).transpose()?;
    let mut listeners = Vec::new();
    for address in addresses {
        match address {
            Address::Unix(path) => listeners.push(Listener::Unix(Socket::bind(path, group)?)),
            Address::Tcp(place) => listeners.push(bind_tcp(place, acceptor.clone()).await?),
            Address::Activated => listeners.extend(activated(acceptor.as_ref())?),
        }
    }
    Ok(listeners)
}

async fn bind_tcp(place: &str, tls: Option<TlsAcceptor>) -> Result<Listener> {
    let io = |source| EngineError::io("listen on", Path::new(place), source);
    let listener = TcpListener::bind(place).await.map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    check_reach(address, tls.is_some())?;
    Ok(Listener::Tcp(listener, tls))
}

/// Refuses to serve others than local users without TLS.
fn check_reach(address: SocketAddr, tls: bool) -> Result<()> {
    if tls {
        return Ok(());
    }
    if !address.ip().is_loopback() {
        return Err(EngineError::Listen(format!(
            "tcp://{address} would give root on this host to whoever reaches it: use --tlsverify with \
             --tlscacert, --tlscert and --tlskey, or an address on loopback"
        )));
    }
    tracing::warn!(%address, "the API is served without TLS: every local user can use it");
    Ok(())
}

/// Whether the configuration can be served: what [`bind`] would refuse without a look at the network.
pub fn check(group: Option<&str>, tls: Option<&TlsFiles>) -> Result<()> {
    if let Some(name) = group.filter(|name| socket::group_id(name).is_none()) {
        return Err(EngineError::Listen(format!(
            "there is no group {name:?}: make it (groupadd --system {name}), or name another"
        )));
    }
    tls.map(tls::acceptor).transpose().map(|_| ())
}

/// The sockets of `LISTEN_FDS`.
fn activated(tls: Option<&TlsAcceptor>) -> Result<Vec<Listener>> {
    let io = |source| EngineError::io("take over", Path::new("systemd's socket"), source);
    let mut given = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..given.len() {
        if let Ok(Some(listener)) = given.take_unix_listener(index) {
            listener.set_nonblocking(true).map_err(io)?;
            let listener = tokio::net::UnixListener::from_std(listener).map_err(io)?;
            listeners.push(Listener::Given(listener));
        } else if let Some(listener) = given.take_tcp_listener(index).map_err(io)? {
            check_reach(listener.local_addr().map_err(io)?, tls.is_some())?;
            listener.set_nonblocking(true).map_err(io)?;
            let listener = TcpListener::from_std(listener).map_err(io)?;
            listeners.push(Listener::Tcp(listener, tls.cloned()));
        }
    }
    match listeners.is_empty() {
        true => Err(EngineError::Listen(
            "fd://: no socket was handed over: is hulld started by its hull.socket unit?"
                .to_owned(),
        )),
        false => Ok(listeners),
    }
}

impl Listener {
    /// The next connection.
    pub(crate) async fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Unix(socket) => Ok(Accepted::Unix(socket.listener().accept().await?.0)),
            Self::Given(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
            Self::Tcp(listener, tls) => {
                let (stream, _) = listener.accept().await?;
                if let Err(error) = prepare(&stream) {
                    tracing::debug!(%error, "a client's connection");
                }
                Ok(Accepted::Tcp(stream, tls.clone()))
            }
        }
    }
}

/// A client that has gone without a word is noticed: idle connections have no other limit.
fn prepare(stream: &tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    Ok(())
}

impl Accepted {
    /// By which way it has come.
    pub(crate) fn way(&self) -> Way {
        match self {
            Self::Unix(_) => Way::Unix,
            Self::Tcp(_, None) => Way::Open,
            Self::Tcp(_, Some(_)) => Way::Tls,
        }
    }

    /// Shakes hands where that is due, and passes the stream on.
    pub(crate) async fn open(self) -> Option<Box<dyn Stream>> {
        match self {
            Self::Unix(stream) => Some(Box::new(stream)),
            Self::Tcp(stream, None) => Some(Box::new(stream)),
            Self::Tcp(stream, Some(tls)) => {
                match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Some(Box::new(stream)),
                    Ok(Err(error)) => {
                        tracing::info!(%error, "a client without a valid certificate");
                        None
                    }
                    Err(_) => None,
                }
            }
        }
    }
}

/// Tells systemd that clients can come, if it waits for that.
pub(crate) fn tell_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "telling systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_users_are_served_without_tls() {
        let check = |address: &str, tls| check_reach(address.parse().unwrap(), tls);
        assert!(check("127.0.0.1:2375", false).is_ok() && check("[::1]:2375", false).is_ok());
        assert!(check("0.0.0.0:2376", true).is_ok());
        for address in ["0.0.0.0:2375", "[::]:2375", "192.0.2.1:2375"] {
            let text = check(address, false).unwrap_err().to_string();
            assert!(text.contains(address), "{text}");
        }
    }

    #[test]
    fn a_group_that_is_not_there_is_named() {
        assert!(super::check(Some("root"), None).is_ok() && super::check(None, None).is_ok());
        let text = super::check(Some("no such"), None).unwrap_err().to_string();
        assert!(text.contains("no group \"no such\""), "{text}");
    }
}
