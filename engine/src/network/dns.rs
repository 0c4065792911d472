//! The name server of a network, on its bridge's address.
//!
//! It answers for the containers of the networks that the asker is on and passes everything else on,
//! as it came, to the servers that the asker wants or the host's. Packets come from guests: each is
//! parsed by a library that is made for hostile input, bounded in size, and worked on for a bounded
//! time. Names of containers are answered at once, whatever else is asked: only what is passed on waits, and
//! of that there is a bounded number.

mod directory;
mod leave;
mod sockets;
mod upstream;

#[cfg(any(test, feature = "fuzz"))]
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use directory::{fitted, reply, to_bytes};
pub(super) use directory::{Asker, Content, Directory, Zone};
use leave::{Leave, Leaves};

/// Where names are asked for.
const PORT: u16 = 53;
/// Largest message, in bytes.
const MAX_MESSAGE: usize = 65_535;
/// How long all of them have for a name of one label: most likely it is a container that is gone.
const SHORT_NAME_LIMIT: Duration = Duration::from_millis(900);
/// How long a client may keep a connection without asking, or without reading its answer.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Questions that are passed on at the same time, in a network, and of these of one container.
const MAX_QUESTIONS: usize = 1024;
const MAX_QUESTIONS_OF_ONE: usize = 256;
/// Connections at the same time, in a network, and of these of one container.
const MAX_CONNECTIONS: usize = 256;
const MAX_CONNECTIONS_OF_ONE: usize = 64;
/// Until whoever has the address gives it back.
const BIND_RETRY: Duration = Duration::from_millis(200);
const BIND_ATTEMPTS: u32 = 25;

/// A running name server. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Dns {
    address: Option<IpAddr>,
    task: JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
struct Server {
    /// Id of its network.
    network: String,
    /// Its own.
    address: IpAddr,
    directory: Directory,
    /// The host's resolver configuration, read for each question that is passed on.
    resolv_conf: PathBuf,
    /// To pass a question on.
    questions: Leaves,
    connections: Leaves,
}

/// A question that nobody here has the answer to.
struct Foreign {
    message: Message,
    asker: Asker,
}

impl Dns {
    /// Serves on `address`, which may come up a little later.
    pub(super) fn start(
        network: &str,
        address: IpAddr,
        directory: Directory,
        resolv_conf: PathBuf,
    ) -> Self {
        let server = Server {
            network: network.to_owned(),
            address,
            directory,
            resolv_conf,
            questions: Leaves::new(MAX_QUESTIONS, MAX_QUESTIONS_OF_ONE),
            connections: Leaves::new(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ONE),
        };
        let at = SocketAddr::new(address, PORT);
        let bound = sockets::bind(at);
        let taken = bound.is_ok();
        let task = tokio::spawn(async move {
            let Some((udp, tcp)) = (match bound {
                Ok(both) => Some(both),
                Err(_) => bind_later(at).await,
            }) else {
                tracing::warn!(%at, "no name server: the address is not free");
                return;
            };
            tokio::join!(serve_udp(&server, udp), serve_tcp(&server, tcp));
        });
        Self {
            address: taken.then_some(address),
            task,
        }
    }

    /// Its address, if it was free: what answers there is this server and no other of the host's.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

async fn bind_later(address: SocketAddr) -> Option<(UdpSocket, TcpListener)> {
    for _ in 0..BIND_ATTEMPTS {
        tokio::time::sleep(BIND_RETRY).await;
        if let Ok(both) = sockets::bind(address) {
            return Some(both);
        }
    }
    None
}

async fn serve_udp(server: &Server, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut questions = tokio::task::JoinSet::new();
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, peer)) = received else { continue };
                let question = &buffer[..length];
                let answer = match server.own_answer(question, peer.ip(), false) {
                    Err(foreign) => match server.questions.take(peer.ip()) {
                        Some(leave) => {
                            let (server, socket) = (server.clone(), Arc::clone(&socket));
                            let question = question.to_vec();
                            questions.spawn(async move {
                                let passed_on = server.pass_on(&foreign, &question, false, leave);
                                if let Some(answer) = passed_on.await {
                                    let _ = socket.send_to(&answer, peer).await;
                                }
                            });
                            None
                        }
                        None => refusal(&foreign),
                    },
                    Ok(own) => own,
                };
                // What there is no room for is lost, as on a busy network: the client asks again.
                let _ = answer.map(|answer| socket.try_send_to(&answer, peer));
            }
            Some(_) = questions.join_next() => {}
        }
    }
}

async fn serve_tcp(server: &Server, listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                let Some(leave) = server.connections.take(peer.ip()) else {
                    continue;
                };
                let server = server.clone();
                connections.spawn(async move {
                    let _leave = leave;
                    converse(&server, stream, peer.ip()).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(server: &Server, mut stream: TcpStream, peer: IpAddr) {
    while let Ok(Some(question)) = tokio::time::timeout(IDLE_LIMIT, read_message(&mut stream)).await
    {
        let Some(answer) = server.answer(&question, peer, true).await else {
            return;
        };
        let written = tokio::time::timeout(IDLE_LIMIT, write_message(&mut stream, &answer));
        if !matches!(written.await, Ok(Some(()))) {
            return;
        }
    }
}

/// DNS over TCP puts a length before each message (RFC 1035, section 4.2.2).
async fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> Option<()> {
    let length = u16::try_from(message.len()).ok()?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed).await.ok()
}

impl Server {
    async fn answer(&self, question: &[u8], peer: IpAddr, tcp: bool) -> Option<Vec<u8>> {
        let foreign = match self.own_answer(question, peer, tcp) {
            Ok(own) => return own,
            Err(foreign) => foreign,
        };
        match self.questions.take(peer) {
            Some(leave) => self.pass_on(&foreign, question, tcp, leave).await,
            None => refusal(&foreign),
        }
    }

    /// What is answered here, which may be nothing; else what has to be passed on.
    fn own_answer(
        &self,
        question: &[u8],
        peer: IpAddr,
        tcp: bool,
    ) -> Result<Option<Vec<u8>>, Box<Foreign>> {
        let Ok(message) = Message::from_vec(question) else {
            return Ok(None);
        };
        if message.metadata.message_type != MessageType::Query {
            return Ok(None);
        }
        let Some(asker) = self.directory.asker(peer, &self.network, self.address) else {
            return Ok(None);
        };
        match self.directory.answer(&message, &asker) {
            Some(own) => Ok(to_bytes(own, &message, tcp)),
            None => Err(Box::new(Foreign { message, asker })),
        }
    }

    /// Asks others, which takes the leave of it.
    async fn pass_on(
        &self,
        foreign: &Foreign,
        question: &[u8],
        tcp: bool,
        _leave: Leave,
    ) -> Option<Vec<u8>> {
        let Foreign { message, asker } = foreign;
        let name = name_of(message);
        let short = !name.contains('.');
        let closed = asker.closed || !asker.egress.may_ask(&name);
        let servers = if closed {
            Vec::new()
        } else {
            self.upstreams(asker)
        };
        let no_answer = match (short, closed) {
            (true, _) if servers.is_empty() => ResponseCode::NXDomain,
            (_, true) => ResponseCode::Refused,
            // Somebody may know it who is slow: that it is not there is not for us to say.
            (_, false) => ResponseCode::ServFail,
        };
        let passed_on = match short {
            false => upstream::ask(&servers, question, tcp).await,
            true => {
                let asked = upstream::ask(&servers, question, tcp);
                tokio::time::timeout(SHORT_NAME_LIMIT, asked)
                    .await
                    .ok()
                    .flatten()
            }
        };
        if let Some(answer) = &passed_on {
            self.directory.teach(asker, &name, answer).await;
        }
        match passed_on {
            Some(answer) => fitted(answer, message, tcp),
            None => reply(message, no_answer).to_vec().ok(),
        }
    }

    /// Whom to ask what is not known here.
    fn upstreams(&self, asker: &Asker) -> Vec<SocketAddr> {
        match asker.upstreams.as_slice() {
            [] => upstream::of_host(&self.resolv_conf),
            own => own.iter().map(|at| SocketAddr::new(*at, PORT)).collect(),
        }
    }
}

/// Too much is passed on already. The client hears of it at once, and may try again.
fn refusal(foreign: &Foreign) -> Option<Vec<u8>> {
    reply(&foreign.message, ResponseCode::ServFail)
        .to_vec()
        .ok()
}

/// The name that is asked for, in lower case and without a last dot.
fn name_of(message: &Message) -> String {
    let query = message.queries.first();
    let name = query.map(|query| query.name.to_ascii().to_ascii_lowercase());
    name.unwrap_or_default().trim_end_matches('.').to_owned()
}

/// Answers a question as a server with two names does.
#[cfg(feature = "fuzz")]
pub(crate) fn answer_for_fuzzing(question: &[u8]) {
    let mut zone = directory::Zone {
        open: true,
        ..directory::Zone::default()
    };
    zone.add("web", [10, 0, 0, 2].into());
    zone.add("db", [0xfd00u16, 0, 0, 0, 0, 0, 0, 3].into());
    let directory = Directory::new(super::learned::channel().0);
    directory.set(directory::Content {
        zones: HashMap::from([("n".to_owned(), zone)]),
        ..directory::Content::default()
    });
    if let Ok(message) = Message::from_vec(question) {
        let own = [10, 0, 0, 1].into();
        let asker = directory.asker(own, "n", own).unwrap_or_default();
        let answer = directory.answer(&message, &asker);
        let _ = answer.and_then(|answer| to_bytes(answer, &message, false));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    use hull_network::egress::Egress;

    fn server(asker: Asker) -> Server {
        let mut zone = Zone {
            open: true,
            ..Zone::default()
        };
        zone.add("web", [10, 0, 0, 9].into());
        let directory = Directory::new(crate::network::learned::channel().0);
        directory.set(Content {
            askers: HashMap::from([(PEER, asker)]),
            zones: HashMap::from([("n".to_owned(), zone)]),
        });
        Server {
            network: "n".into(),
            address: [10, 0, 0, 1].into(),
            directory,
            resolv_conf: "/nonexistent".into(),
            questions: Leaves::new(MAX_QUESTIONS, MAX_QUESTIONS_OF_ONE),
            connections: Leaves::new(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ONE),
        }
    }

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn an_answer_that_a_client_has_no_room_for_says_so() {
        let mut asked = Message::from_vec(&question("many.example.")).unwrap();
        let large = vec![0; 4000];
        assert_eq!(fitted(large.clone(), &asked, true), Some(large.clone()));
        let cut = Message::from_vec(&fitted(large.clone(), &asked, false).unwrap()).unwrap();
        assert!(cut.metadata.truncation && cut.metadata.id == 7 && cut.answers.is_empty());
        assert_eq!(cut.queries, asked.queries);
        asked.edns.get_or_insert_default().set_max_payload(4096);
        assert_eq!(fitted(large.clone(), &asked, false), Some(large));
    }

    fn question(name: &str) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii(name).unwrap();
        message.add_query(Query::query(name, RecordType::A));
        message.to_vec().unwrap()
    }

    #[tokio::test]
    async fn bytes_that_are_no_question_get_no_answer() {
        let server = server(Asker::default());
        for bad in [&b""[..], b"x", &[0xff; 64], &[0; 12]] {
            let answer = server.answer(bad, PEER, false).await;
            // Twelve zero bytes are a question about nothing.
            assert_eq!(answer.is_some(), bad.len() == 12, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn names_of_containers_are_answered_whatever_else_is_asked() {
        let server = server(Asker {
            networks: vec!["n".into()],
            ..Asker::default()
        });
        let code = |answer: Option<Vec<u8>>| {
            let answer = Message::from_vec(&answer.unwrap()).unwrap();
            (answer.metadata.response_code, answer.answers.len())
        };
        let waiting: Vec<_> = (0..MAX_QUESTIONS_OF_ONE)
            .map(|_| server.questions.take(PEER))
            .collect();
        assert!(waiting.iter().all(Option::is_some));
        let own = server.answer(&question("web."), PEER, false).await;
        assert_eq!(code(own), (ResponseCode::NoError, 1));
        // The servers outside are not asked, and that is told at once.
        let foreign = server.answer(&question("example.org."), PEER, false).await;
        assert_eq!(code(foreign), (ResponseCode::ServFail, 0));
        let connections: Vec<_> = (0..MAX_CONNECTIONS_OF_ONE)
            .map(|_| server.connections.take(PEER))
            .collect();
        assert!(connections.iter().all(Option::is_some));
        assert!(server.connections.take(PEER).is_none());
        drop(waiting);
        assert!(server.questions.take(PEER).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_name_of_which_nobody_says_anything_may_be_there() {
        let server = server(Asker {
            // Nobody is asked there: what goes to all needs a leave that no question has.
            upstreams: vec![[255, 255, 255, 255].into()],
            ..Asker::default()
        });
        let answer = server.answer(&question("printer."), PEER, false).await;
        let answer = Message::from_vec(&answer.unwrap()).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_not_there() {
        for (name, closed, code) in [
            ("example.org.", true, ResponseCode::Refused),
            ("gone.", true, ResponseCode::NXDomain),
            // There is nobody to ask.
            ("example.org.", false, ResponseCode::ServFail),
            ("gone.", false, ResponseCode::NXDomain),
        ] {
            let server = server(Asker {
                egress: match closed {
                    true => Egress::None,
                    false => Egress::All,
                },
                ..Asker::default()
            });
            let answer = server.answer(&question(name), PEER, false).await;
            let answer = Message::from_vec(&answer.unwrap()).unwrap();
            assert_eq!(answer.metadata.response_code, code, "{name} {closed}");
        }
    }
}
