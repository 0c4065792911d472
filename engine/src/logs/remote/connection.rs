//! The way to a log server: opened when there is something to send, and again when that fails.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{lookup_host, TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio::time::timeout;

use super::address::{Address, HostPort, LOCAL_SOCKETS};
use super::tls::{self, TlsOptions};
use super::SendError;

/// How long a connection may take to be there.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How long a server may take to read a message.
const SEND_LIMIT: Duration = Duration::from_secs(10);

const TOO_LONG: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();

/// A server, and the connection to it while there is one.
pub(super) struct Server {
    address: Address,
    tls: TlsOptions,
    connection: Option<Connection>,
}

impl Server {
    pub(super) fn new(address: Address, tls: TlsOptions) -> Self {
        Self {
            address,
            tls,
            connection: None,
        }
    }

    /// Sends a message, which may be of several datagrams.
    pub(super) async fn send(&mut self, pieces: &[Vec<u8>]) -> Result<(), SendError> {
        let mut again = self.connection.is_some();
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => Connection::open(&self.address, &self.tls)
                    .await
                    .map_err(SendError::Down)?,
            };
            match connection.send_all(pieces).await {
                Ok(()) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(error) if error.raw_os_error() == Some(TOO_LONG) => {
                    self.connection = Some(connection);
                    return Err(SendError::Refused(error));
                }
                // Maybe only the connection was gone, which shows when it is used.
                Err(_) if again => again = false,
                // Nobody knows of a datagram that an absent server did not get.
                Err(error) if connection.is_udp() => return Err(SendError::Refused(error)),
                Err(error) => return Err(SendError::Down(error)),
            }
        }
    }
}

enum Connection {
    Udp(UdpSocket),
    Datagram(UnixDatagram),
    Stream(Box<dyn Stream>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connection {
    async fn open(address: &Address, tls: &TlsOptions) -> io::Result<Self> {
        let opening = async {
            Ok(match address {
                Address::Local => local().await?,
                Address::Udp(at) => Self::Udp(udp(at).await?),
                Address::Tcp(at) => Self::Stream(Box::new(tcp(at).await?)),
                Address::Tls(at) => {
                    let connector = tls::connector(tls).map_err(io::Error::other)?;
                    let name = ServerName::try_from(at.host.clone()).map_err(io::Error::other)?;
                    Self::Stream(Box::new(connector.connect(name, tcp(at).await?).await?))
                }
                Address::Unix(path) => Self::Stream(Box::new(UnixStream::connect(path).await?)),
                Address::UnixDatagram(path) => {
                    let socket = UnixDatagram::unbound()?;
                    socket.connect(path)?;
                    Self::Datagram(socket)
                }
            })
        };
        timeout(OPEN_LIMIT, opening).await.map_err(|_| too_slow())?
    }

    fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }

    async fn send_all(&mut self, pieces: &[Vec<u8>]) -> io::Result<()> {
        for piece in pieces {
            self.send(piece).await?;
        }
        Ok(())
    }

    /// After an error nobody knows how much arrived.
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sending = async {
            match self {
                Self::Udp(socket) => socket.send(bytes).await.map(drop),
                Self::Datagram(socket) => socket.send(bytes).await.map(drop),
                Self::Stream(stream) => {
                    check_open(stream.as_mut())?;
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        };
        timeout(SEND_LIMIT, sending).await.map_err(|_| too_slow())?
    }
}

fn too_slow() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "the log server takes too long")
}

/// Sees that a server has gone away, which a first write does not. What it says is not of interest.
fn check_open(stream: &mut dyn Stream) -> io::Result<()> {
    let mut said = [0; 256];
    match stream.read(&mut said).now_or_never() {
        Some(Ok(0)) => Err(ErrorKind::ConnectionReset.into()),
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Ok(()),
    }
}

async fn udp(at: &HostPort) -> io::Result<UdpSocket> {
    let mut failure = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in lookup_host((at.host.as_str(), at.port)).await? {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn tcp(at: &HostPort) -> io::Result<TcpStream> {
    TcpStream::connect((at.host.as_str(), at.port)).await
}

/// The first socket of a host's own server that answers.
async fn local() -> io::Result<Connection> {
    for path in LOCAL_SOCKETS {
        let socket = UnixDatagram::unbound()?;
        if socket.connect(path).is_ok() {
            return Ok(Connection::Datagram(socket));
        }
        if let Ok(stream) = UnixStream::connect(path).await {
            return Ok(Connection::Stream(Box::new(stream)));
        }
    }
    Err(io::Error::new(
        ErrorKind::NotFound,
        "this host has no syslog server at /dev/log: name one by syslog-address",
    ))
}
