//! Name servers on loopback addresses, whose answers come from the host.
//!
//! An engine's resolver answers in the network namespace that it prepared, on an address such as
//! 127.0.0.11; the guest has a loopback of its own. What is asked there is sent to the host on one
//! connection ([`hull_protocol::resolver`]).

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_protocol::resolver::{Header, Transport, HEADER_BYTES, RESOLVER_PORT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio_vsock::VsockStream;

use crate::error::{AgentError, Kind, Result};
use crate::host::{self, HostListener};

/// Where name servers listen.
const DNS_PORT: u16 = 53;
/// Most questions without an answer; more are dropped, as a busy server would.
const MAX_PENDING: usize = 256;
/// After that nobody waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a TCP connection may be idle.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// Largest DNS message, in bytes.
const MAX_MESSAGE: usize = 65535;

/// A question on its way to the host.
struct Question {
    server: u8,
    transport: Transport,
    message: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

type Pending = Arc<Mutex<HashMap<u32, oneshot::Sender<Vec<u8>>>>>;

/// What is served.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The addresses at which it is, for as long as the VM lives.
    served: tokio::sync::Mutex<Vec<String>>,
}

impl Names {
    /// Listens on all `addresses`, and for the host, or on none. The host may ask again, when it has
    /// not heard the answer.
    pub(crate) async fn serve(&self, addresses: &[String]) -> Result<()> {
        let mut served = self.served.lock().await;
        if addresses.is_empty() || *served == addresses {
            return Ok(());
        }
        if !served.is_empty() {
            let text = format!("names are served at {served:?} already, not at {addresses:?}");
            return Err(AgentError::new(Kind::FailedPrecondition, text));
        }
        let servers = bind(addresses, DNS_PORT).await?;
        let host = host::listen(RESOLVER_PORT)
            .map_err(failed("failed to wait for the host's resolver".into()))?;
        let (ask, asked) = mpsc::channel(MAX_PENDING);
        for (server, (udp, tcp)) in (0..).zip(servers) {
            tokio::spawn(serve_udp(Arc::new(udp), server, ask.clone()));
            tokio::spawn(serve_tcp(tcp, server, ask.clone()));
        }
        tokio::spawn(relay(host, asked));
        addresses.clone_into(&mut served);
        Ok(())
    }
}

fn failed(what: String) -> impl FnOnce(std::io::Error) -> AgentError {
    move |error| AgentError::new(Kind::Internal, format!("{what}: {error}"))
}

/// The sockets of all `addresses`. Nothing of it stays where one can't be had.
async fn bind(addresses: &[String], port: u16) -> Result<Vec<(UdpSocket, TcpListener)>> {
    if usize::from(u8::MAX) < addresses.len() {
        return Err(AgentError::invalid("too many name servers".to_string()));
    }
    let mut servers = Vec::new();
    for text in addresses {
        let address: Ipv4Addr = text
            .parse()
            .ok()
            .filter(Ipv4Addr::is_loopback)
            .ok_or_else(|| AgentError::invalid(format!("{text:?} is no IPv4 loopback address")))?;
        let at = SocketAddr::from((address, port));
        let what = || failed(format!("failed to serve names at {at}"));
        let udp = UdpSocket::bind(at).await.map_err(what())?;
        let tcp = TcpListener::bind(at).await.map_err(what())?;
        servers.push((udp, tcp));
    }
    Ok(servers)
}

async fn serve_udp(socket: Arc<UdpSocket>, server: u8, ask: mpsc::Sender<Question>) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let (answer, answered) = oneshot::channel();
        let question = Question {
            server,
            transport: Transport::Udp,
            message: buffer[..length].to_vec(),
            answer,
        };
        if ask.try_send(question).is_ok() {
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                if let Ok(Ok(message)) = tokio::time::timeout(ANSWER_LIMIT, answered).await {
                    let _ = socket.send_to(&message, from).await;
                }
            });
        }
    }
}

async fn serve_tcp(listener: TcpListener, server: u8, ask: mpsc::Sender<Question>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let ask = ask.clone();
                tokio::spawn(async move {
                    // A client that misbehaves loses its connection, and nothing else.
                    let _ = serve_connection(stream, server, ask).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    server: u8,
    ask: mpsc::Sender<Question>,
) -> std::io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE_LIMIT, stream.read_u16()).await??;
        let mut message = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE_LIMIT, stream.read_exact(&mut message)).await??;
        let (answer, answered) = oneshot::channel();
        let question = Question {
            server,
            transport: Transport::Tcp,
            message,
            answer,
        };
        ask.try_send(question).map_err(std::io::Error::other)?;
        let message = tokio::time::timeout(ANSWER_LIMIT, answered).await?;
        let message = message.map_err(std::io::Error::other)?;
        stream.write_u16(length_of(&message)).await?;
        stream.write_all(&message).await?;
    }
}

fn length_of(message: &[u8]) -> u16 {
    u16::try_from(message.len()).unwrap_or(u16::MAX)
}

/// Carries questions to the host's connection, and takes a new one when it breaks.
async fn relay(mut host: HostListener, mut asked: mpsc::Receiver<Question>) {
    while let Some(stream) = host.accept().await {
        let pending = Pending::default();
        let (reader, writer) = tokio::io::split(stream);
        tokio::select! {
            () = read_answers(reader, &pending) => {}
            () = send_questions(writer, &mut asked, &pending) => {}
        }
    }
}

fn lock(pending: &Pending) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Vec<u8>>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn send_questions(
    mut host: tokio::io::WriteHalf<VsockStream>,
    asked: &mut mpsc::Receiver<Question>,
    pending: &Pending,
) {
    let mut number = 0u32;
    while let Some(question) = asked.recv().await {
        number = number.wrapping_add(1);
        let header = Header {
            number,
            server: question.server,
            transport: question.transport,
            length: length_of(&question.message),
        };
        {
            let mut pending = lock(pending);
            // Those that nobody waits for any more make room.
            pending.retain(|_, answer| !answer.is_closed());
            if MAX_PENDING <= pending.len() {
                continue;
            }
            pending.insert(number, question.answer);
        }
        let mut frame = header.to_bytes().to_vec();
        frame.extend_from_slice(&question.message);
        if host.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn read_answers(mut host: tokio::io::ReadHalf<VsockStream>, pending: &Pending) {
    let mut bytes = [0; HEADER_BYTES];
    while host.read_exact(&mut bytes).await.is_ok() {
        let Some(header) = Header::from_bytes(bytes) else {
            return;
        };
        let mut message = vec![0; usize::from(header.length)];
        if host.read_exact(&mut message).await.is_err() {
            return;
        }
        if let Some(answer) = lock(pending).remove(&header.number) {
            let _ = answer.send(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_server_that_fails_leaves_the_first_one_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let both = ["127.0.0.2", "127.0.0.1"].map(str::to_owned);
        let error = bind(&both, port).await.unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:"), "{error}");
        drop(taken);
        assert_eq!(bind(&both, port).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_is_served_may_be_asked_for_again() {
        let addresses = ["127.0.0.11".to_owned()];
        let names = Names {
            served: tokio::sync::Mutex::new(addresses.to_vec()),
        };
        names.serve(&addresses).await.unwrap();
        names.serve(&[]).await.unwrap();
        let other = names.serve(&["127.0.0.12".to_owned()]).await.unwrap_err();
        assert!(other.to_string().contains("127.0.0.12"), "{other}");
    }
}
