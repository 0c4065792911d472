//! The name server of a user-defined network, on its bridge's address.
//!
//! It answers for the containers of the network and passes everything else on to the host's name
//! servers, as it came. Packets come from guests: each is parsed by a library that is made for
//! hostile input, bounded in size, and worked on for a bounded time.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Where names are asked for.
const PORT: u16 = 53;
/// Seconds that an answer may be kept: a restarted container has another address at once.
const TTL: u32 = 0;
/// Largest message, in bytes.
const MAX_MESSAGE: usize = 65_535;
/// How long a name server of the host has to answer.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(4);
/// How long a client may keep a connection without asking.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Questions that are worked on at the same time, in a network.
const MAX_QUESTIONS: usize = 256;
/// Until the bridge has its address.
const BIND_RETRY: Duration = Duration::from_millis(200);
const BIND_ATTEMPTS: u32 = 25;

/// Who may ask for names of this network only.
type Closed = Arc<RwLock<HashSet<IpAddr>>>;
type Table = Arc<RwLock<HashMap<String, Vec<Ipv4Addr>>>>;

/// A running name server. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Dns {
    table: Table,
    closed: Closed,
    task: JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
struct Server {
    table: Table,
    closed: Closed,
    /// The host's resolver configuration, read for each question that is passed on.
    resolv_conf: PathBuf,
    permits: Arc<Semaphore>,
}

impl Dns {
    /// Serves on `address`, which may come up a little later.
    pub(super) fn start(address: Ipv4Addr, resolv_conf: PathBuf) -> Self {
        let (table, closed) = (Table::default(), Closed::default());
        let server = Server {
            table: Arc::clone(&table),
            closed: Arc::clone(&closed),
            resolv_conf,
            permits: Arc::new(Semaphore::new(MAX_QUESTIONS)),
        };
        let task = tokio::spawn(async move {
            let address = SocketAddr::new(address.into(), PORT);
            let Some((udp, tcp)) = bind(address).await else {
                tracing::warn!(%address, "no name server: the address is not free");
                return;
            };
            tokio::join!(serve_udp(&server, udp), serve_tcp(&server, tcp));
        });
        Self {
            table,
            closed,
            task,
        }
    }

    /// Who may not ask others, by address.
    pub(super) fn set_closed(&self, closed: HashSet<IpAddr>) {
        *self.closed.write().unwrap_or_else(|p| p.into_inner()) = closed;
    }

    /// Who is there now: names and their addresses.
    pub(super) fn set_names(&self, names: Vec<(String, Ipv4Addr)>) {
        let mut table: HashMap<String, Vec<Ipv4Addr>> = HashMap::new();
        for (name, address) in names {
            table
                .entry(name.to_ascii_lowercase())
                .or_default()
                .push(address);
        }
        *self.table.write().unwrap_or_else(|p| p.into_inner()) = table;
    }
}

async fn bind(address: SocketAddr) -> Option<(UdpSocket, TcpListener)> {
    for _ in 0..BIND_ATTEMPTS {
        let both = tokio::join!(UdpSocket::bind(address), TcpListener::bind(address));
        if let (Ok(udp), Ok(tcp)) = both {
            return Some((udp, tcp));
        }
        tokio::time::sleep(BIND_RETRY).await;
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
                let Ok(permit) = Arc::clone(&server.permits).try_acquire_owned() else {
                    // Dropped, as on a busy network; the client asks again.
                    continue;
                };
                let (server, socket) = (server.clone(), Arc::clone(&socket));
                let question = buffer[..length].to_vec();
                questions.spawn(async move {
                    let _permit = permit;
                    if let Some(answer) = server.answer(&question, peer.ip(), false).await {
                        let _ = socket.send_to(&answer, peer).await;
                    }
                });
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
                let Ok(permit) = Arc::clone(&server.permits).try_acquire_owned() else {
                    continue;
                };
                let server = server.clone();
                connections.spawn(async move {
                    let _permit = permit;
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
        if write_message(&mut stream, &answer).await.is_none() {
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
        let message = Message::from_vec(question).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let own = {
            let table = self.table.read().unwrap_or_else(|p| p.into_inner());
            own_answer(&message, &table)
        };
        if let Some(own) = own {
            return own.to_vec().ok();
        }
        let closed = {
            let all = self.closed.read().unwrap_or_else(|p| p.into_inner());
            all.contains(&peer)
        };
        if closed {
            return reply(&message, ResponseCode::Refused).to_vec().ok();
        }
        match self.pass_on(question, tcp).await {
            Some(answer) => Some(answer),
            None => reply(&message, ResponseCode::ServFail).to_vec().ok(),
        }
    }

    async fn pass_on(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        for server in upstreams(&self.resolv_conf) {
            let address = SocketAddr::new(server, PORT);
            let asked = async {
                match tcp {
                    true => ask_tcp(address, question).await,
                    false => ask_udp(address, question).await,
                }
            };
            if let Ok(Some(answer)) = tokio::time::timeout(UPSTREAM_LIMIT, asked).await {
                return Some(answer);
            }
        }
        None
    }
}

/// The host's name servers.
fn upstreams(resolv_conf: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .collect()
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(question).await.ok()?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        // Only an answer to this question counts.
        if question.get(..2) == buffer.get(..2) && 2 <= length {
            buffer.truncate(length);
            return Some(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    write_message(&mut stream, question).await?;
    read_message(&mut stream).await
}

/// Answers a question as a server with two names does.
#[cfg(feature = "fuzz")]
pub(crate) fn answer_for_fuzzing(question: &[u8]) {
    let table = HashMap::from([
        ("web".to_owned(), vec![Ipv4Addr::new(10, 0, 0, 2); 3]),
        ("db".to_owned(), vec![]),
    ]);
    if let Ok(message) = Message::from_vec(question) {
        let _ = own_answer(&message, &table).map(|answer| answer.to_vec());
    }
}

/// The answer for a name of this network; `None`: it is somebody else's.
fn own_answer(message: &Message, table: &HashMap<String, Vec<Ipv4Addr>>) -> Option<Message> {
    if message.metadata.op_code != OpCode::Query {
        return Some(reply(message, ResponseCode::NotImp));
    }
    let [query] = message.queries.as_slice() else {
        return Some(reply(message, ResponseCode::FormErr));
    };
    if query.query_class != DNSClass::IN {
        return None;
    }
    let name = query.name.to_ascii();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if query.query_type == RecordType::PTR {
        return answer_ptr(message, &query.name, &name, table);
    }
    let addresses = table.get(&name)?;
    let mut answer = reply(message, ResponseCode::NoError);
    // For any other type the name exists, and has nothing.
    if query.query_type == RecordType::A {
        // Several containers of one name take turns.
        let turn = usize::from(message.metadata.id) % addresses.len().max(1);
        let (later, first) = addresses.split_at(turn);
        for address in first.iter().chain(later) {
            let data = RData::A(A::from(*address));
            answer.add_answer(Record::from_rdata(query.name.clone(), TTL, data));
        }
    }
    Some(answer)
}

/// `2.0.17.172.in-addr.arpa` of a container.
fn answer_ptr(
    message: &Message,
    asked: &Name,
    name: &str,
    table: &HashMap<String, Vec<Ipv4Addr>>,
) -> Option<Message> {
    let octets: Vec<u8> = name
        .strip_suffix(".in-addr.arpa")?
        .split('.')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let [d, c, b, a] = octets.as_slice() else {
        return None;
    };
    let address = Ipv4Addr::new(*a, *b, *c, *d);
    let mut names: Vec<&String> = table
        .iter()
        .filter(|(_, addresses)| addresses.contains(&address))
        .map(|(name, _)| name)
        .collect();
    names.sort();
    let target = Name::from_ascii(format!("{}.", names.first()?)).ok()?;
    let mut answer = reply(message, ResponseCode::NoError);
    answer.add_answer(Record::from_rdata(
        asked.clone(),
        TTL,
        RData::PTR(PTR(target)),
    ));
    Some(answer)
}

fn reply(message: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(message.queries.iter().take(1).cloned());
    answer
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn table() -> HashMap<String, Vec<Ipv4Addr>> {
        HashMap::from([
            (
                "web".into(),
                vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)],
            ),
            ("db".into(), vec![Ipv4Addr::new(10, 0, 0, 4)]),
        ])
    }

    fn ask(name: &str, kind: RecordType, id: u16) -> Option<Message> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii(name).unwrap();
        message.add_query(Query::query(name, kind));
        // By way of bytes, as it comes.
        let bytes = message.to_vec().unwrap();
        own_answer(&Message::from_vec(&bytes).unwrap(), &table())
    }

    #[test]
    fn containers_are_found_in_any_case_and_take_turns() {
        let first = |id| {
            let answer = ask("WEB.", RecordType::A, id).unwrap();
            assert_eq!(answer.answers.len(), 2);
            answer.answers[0].data.clone()
        };
        assert_ne!(first(1), first(2));
        assert_eq!(ask("db.", RecordType::A, 7).unwrap().metadata.id, 7);
    }

    #[test]
    fn a_known_name_without_such_a_record_is_not_passed_on() {
        let answer = ask("db.", RecordType::AAAA, 1).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        assert!(ask("example.org.", RecordType::A, 1).is_none());
    }

    #[test]
    fn addresses_lead_back_to_names() {
        let answer = ask("4.0.0.10.in-addr.arpa.", RecordType::PTR, 1).unwrap();
        assert_eq!(answer.answers.len(), 1);
        assert!(ask("9.0.0.10.in-addr.arpa.", RecordType::PTR, 1).is_none());
    }

    #[tokio::test]
    async fn bytes_that_are_no_question_get_no_answer() {
        let server = Server {
            table: Table::default(),
            closed: Closed::default(),
            resolv_conf: "/nonexistent".into(),
            permits: Arc::new(Semaphore::new(1)),
        };
        for bad in [&b""[..], b"x", &[0xff; 64], &[0; 12]] {
            let answer = server.answer(bad, [10, 0, 0, 2].into(), false).await;
            // Twelve zero bytes are a question about nothing.
            assert_eq!(answer.is_some(), bad.len() == 12, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn who_is_closed_off_asks_nobody_outside() {
        let peer = IpAddr::from([10, 0, 0, 2]);
        let server = Server {
            table: Arc::new(RwLock::new(table())),
            closed: Arc::new(RwLock::new(HashSet::from([peer]))),
            resolv_conf: "/nonexistent".into(),
            permits: Arc::new(Semaphore::new(1)),
        };
        for (name, code) in [
            ("db.", ResponseCode::NoError),
            ("example.org.", ResponseCode::Refused),
        ] {
            let mut message = Message::new(1, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            let question = message.to_vec().unwrap();
            let answer = server.answer(&question, peer, false).await.unwrap();
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.response_code, code, "{name}");
        }
    }

    #[test]
    fn the_hosts_name_servers_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(
            &file,
            "# x\nnameserver 10.0.0.1\nsearch a\nnameserver ::1\n",
        )
        .unwrap();
        assert_eq!(upstreams(&file).len(), 2);
    }
}
