//! Answers to a guest's questions about names, from a resolver in its network namespace on the host
//! (dockerd's is at 127.0.0.11 there).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hull_network::foreign::{ForeignError, Namespace};
use hull_protocol::resolver::{Header, Transport, HEADER_BYTES, RESOLVER_PORT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, Semaphore};

use crate::pace::Pace;
use crate::report::chain;
use crate::vmm::Vm;

/// Where name servers listen.
const DNS_PORT: u16 = 53;
/// Most questions under way; a guest that asks more waits.
const MAX_QUESTIONS: usize = 64;
/// Questions in a second, after as many at once.
const QUESTIONS_PER_SECOND: u32 = 1000;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(9);
/// After the guest's end of the connection closed, before the next.
const RETRY: Duration = Duration::from_millis(500);
/// Largest DNS message, in bytes.
const MAX_MESSAGE: usize = 65535;

/// Name servers in the text of a `resolv.conf` that only the namespace's own loopback reaches.
pub(crate) fn on_loopback(resolv_conf: &str) -> Vec<Ipv4Addr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => address.parse::<Ipv4Addr>().ok(),
            _ => None,
        }
    });
    servers.filter(Ipv4Addr::is_loopback).take(3).collect()
}

/// Answers as long as the VM lives.
pub(crate) async fn serve(vm: Vm, namespace: Arc<Namespace>, servers: Vec<Ipv4Addr>) {
    while vm.end_so_far().is_none() {
        let Ok(stream) = vm.connect(RESOLVER_PORT).await else {
            return;
        };
        let (reader, mut writer) = stream.into_split();
        let (answer, mut answers) = mpsc::channel::<Vec<u8>>(MAX_QUESTIONS);
        let write = async {
            while let Some(frame) = answers.recv().await {
                if writer.write_all(&frame).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = read_questions(reader, &namespace, &servers, answer) => {}
            () = write => {}
            _ = vm.ended() => return,
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn read_questions(
    mut guest: OwnedReadHalf,
    namespace: &Arc<Namespace>,
    servers: &[Ipv4Addr],
    answer: mpsc::Sender<Vec<u8>>,
) {
    let turns = Arc::new(Semaphore::new(MAX_QUESTIONS));
    let mut pace = Pace::per_second(QUESTIONS_PER_SECOND);
    let mut bytes = [0; HEADER_BYTES];
    while guest.read_exact(&mut bytes).await.is_ok() {
        let Some(header) = Header::from_bytes(bytes) else {
            return;
        };
        let mut message = vec![0; usize::from(header.length)];
        if guest.read_exact(&mut message).await.is_err() {
            return;
        }
        pace.turn().await;
        let Some(server) = servers.get(usize::from(header.server)) else {
            continue;
        };
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            return;
        };
        let server = SocketAddr::from((*server, DNS_PORT));
        let (namespace, answer) = (Arc::clone(namespace), answer.clone());
        tokio::spawn(async move {
            let _turn = turn;
            let asked = ask(&namespace, server, header.transport, &message);
            if let Ok(Some(message)) = tokio::time::timeout(ANSWER_LIMIT, asked).await {
                let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
                let mut frame = Header { length, ..header }.to_bytes().to_vec();
                frame.extend_from_slice(&message);
                let _ = answer.send(frame).await;
            }
        });
    }
}

/// `None`: no answer.
async fn ask(
    namespace: &Arc<Namespace>,
    server: SocketAddr,
    transport: Transport,
    message: &[u8],
) -> Option<Vec<u8>> {
    let asked = match transport {
        Transport::Udp => ask_udp(namespace, server, message).await,
        Transport::Tcp => ask_tcp(namespace, server, message).await,
    };
    match asked {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(%server, error = chain(&error), "a question about a name");
            None
        }
    }
}

async fn ask_udp(
    namespace: &Arc<Namespace>,
    server: SocketAddr,
    message: &[u8],
) -> std::io::Result<Vec<u8>> {
    let socket = in_namespace(namespace, || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })?;
    let socket = UdpSocket::from_std(socket)?;
    // Not connected: the answer may come from where packet rules sent the question.
    socket.send_to(message, server).await?;
    let mut buffer = vec![0; MAX_MESSAGE];
    let (length, _) = socket.recv_from(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn ask_tcp(
    namespace: &Arc<Namespace>,
    server: SocketAddr,
    message: &[u8],
) -> std::io::Result<Vec<u8>> {
    let stream = in_namespace(namespace, || {
        // On the loopback interface: it succeeds or fails at once.
        let stream = std::net::TcpStream::connect(server)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    })?;
    let mut stream = TcpStream::from_std(stream)?;
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_u16(length).await?;
    stream.write_all(message).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn in_namespace<T: Send>(
    namespace: &Namespace,
    make: impl FnOnce() -> std::io::Result<T> + Send,
) -> std::io::Result<T> {
    let made: Result<_, ForeignError> = namespace.run(|| Ok(make()));
    made.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_servers_need_the_host() {
        let text = "search x\nnameserver 127.0.0.11\nnameserver 8.8.8.8\noptions ndots:0\n";
        assert_eq!(on_loopback(text), [Ipv4Addr::new(127, 0, 0, 11)]);
        assert!(on_loopback("nameserver 10.0.0.1\nnameserver ::1\nnameserver\n").is_empty());
    }
}
