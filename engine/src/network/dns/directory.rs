//! Who is called what, and who may know it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hull_network::egress::Egress;
use tokio::sync::{mpsc, oneshot};

use crate::network::learned::Lesson;

/// Seconds that an answer may be kept: a restarted container has another address at once.
const TTL: u32 = 0;
/// Bytes of a UDP answer for a client that says nothing of its own limit (RFC 1035, 4.2.1).
const LEAST_ANSWER: u16 = 512;

/// What all name servers of an engine answer from.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    content: Arc<RwLock<Content>>,
    lessons: mpsc::Sender<Lesson>,
}

/// All names and askers.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// By network id.
    pub(crate) zones: HashMap<String, Zone>,
    /// By the address that a container asks from, which its tap is pinned to.
    pub(crate) askers: HashMap<IpAddr, Asker>,
}

/// The names of one network.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    /// Whether each of its containers may ask for the others; else only by links.
    pub(crate) open: bool,
    /// Of the network, in lower case: what a name may have behind it.
    pub(crate) name: String,
    /// In lower case.
    pub(crate) names: HashMap<String, Vec<IpAddr>>,
}

/// A container that asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    /// Ids of the networks that it is on.
    pub(crate) networks: Vec<String>,
    /// Names of its own, in lower case: for which name of which network.
    pub(crate) links: HashMap<String, (String, String)>,
    /// It may ask for nothing else.
    pub(crate) closed: bool,
    /// Id of the container.
    pub(crate) owner: String,
    /// What it may ask for otherwise.
    pub(crate) egress: Egress,
    /// Whom to ask for everything else; empty: whom the host asks.
    pub(crate) upstreams: Vec<IpAddr>,
}

impl Zone {
    pub(crate) fn add(&mut self, name: &str, address: IpAddr) {
        let addresses = self.names.entry(name.to_ascii_lowercase()).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }

    /// Of a name, or of it with the network's name behind it.
    fn find(&self, name: &str) -> Option<&Vec<IpAddr>> {
        let behind = || name.strip_suffix(&self.name)?.strip_suffix('.');
        self.names.get(name).or_else(|| self.names.get(behind()?))
    }
}

impl Directory {
    /// An empty one. Answers to containers whose policy names domains are told first.
    pub(crate) fn new(lessons: mpsc::Sender<Lesson>) -> Self {
        Self {
            content: Arc::default(),
            lessons,
        }
    }

    /// Opens what a container is about to be told.
    pub(super) async fn teach(&self, asker: &Asker, name: &str, answer: &[u8]) {
        if asker.egress.names().next().is_none() {
            return;
        }
        let (done, learned) = oneshot::channel();
        let lesson = Lesson {
            owner: asker.owner.clone(),
            name: name.to_owned(),
            addresses: addresses_in(answer),
            done,
        };
        if self.lessons.send(lesson).await.is_ok() {
            // Either way the answer is sent.
            let _ = learned.await;
        }
    }

    /// Puts new content in place of the old.
    pub(crate) fn set(&self, content: Content) {
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = content;
    }

    /// Who asks, from this address, the server that a network has at `own`. `None`: a stranger, such as
    /// another machine, or a guest by an address that it was not given.
    pub(super) fn asker(&self, address: IpAddr, network: &str, own: IpAddr) -> Option<Asker> {
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        let host = || Asker {
            networks: vec![network.to_owned()],
            ..Asker::default()
        };
        let known = content.askers.get(&address).cloned();
        known.or_else(|| (address == own).then(host))
    }

    /// The answer for a name of a network; `None`: it is somebody else's.
    pub(super) fn answer(&self, message: &Message, asker: &Asker) -> Option<Message> {
        if message.metadata.op_code != OpCode::Query {
            return Some(reply(message, ResponseCode::NotImp));
        }
        let [query] = message.queries.as_slice() else {
            return Some(reply(message, ResponseCode::FormErr));
        };
        if query.query_class != DNSClass::IN {
            return None;
        }
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        let name = query.name.to_ascii();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if query.query_type == RecordType::PTR {
            let target = content.name_of(asker, address_of_reverse(&name)?)?;
            let mut answer = reply(message, ResponseCode::NoError);
            let data = RData::PTR(PTR(target));
            answer.add_answer(Record::from_rdata(query.name.clone(), TTL, data));
            return Some(answer);
        }
        let addresses = content.addresses_of(asker, &name)?;
        // For any other type the name exists, and has nothing.
        let mut data: Vec<RData> = addresses
            .iter()
            .filter_map(|address| match (address, query.query_type) {
                (IpAddr::V4(address), RecordType::A) => Some(RData::A(A::from(*address))),
                (IpAddr::V6(address), RecordType::AAAA) => Some(RData::AAAA(AAAA::from(*address))),
                _ => None,
            })
            .collect();
        // Several containers of one name take turns.
        let turn = usize::from(message.metadata.id) % data.len().max(1);
        data.rotate_left(turn);
        let mut answer = reply(message, ResponseCode::NoError);
        for data in data {
            answer.add_answer(Record::from_rdata(query.name.clone(), TTL, data));
        }
        Some(answer)
    }
}

impl Content {
    fn addresses_of(&self, asker: &Asker, name: &str) -> Option<Vec<IpAddr>> {
        let link = asker.links.get(name);
        let linked = link.and_then(|(network, target)| self.zones.get(network)?.names.get(target));
        if let Some(addresses) = linked {
            return Some(addresses.clone());
        }
        let zones = asker.networks.iter().filter_map(|id| self.zones.get(id));
        let found: Vec<&Vec<IpAddr>> = zones
            .filter(|zone| zone.open)
            .filter_map(|zone| zone.find(name))
            .collect();
        (!found.is_empty()).then(|| found.into_iter().flatten().copied().collect())
    }

    /// The first of an address's names, in the order of the alphabet, that is no id, with its
    /// network's behind it.
    fn name_of(&self, asker: &Asker, address: IpAddr) -> Option<Name> {
        let zones = asker.networks.iter().filter_map(|id| self.zones.get(id));
        zones
            .filter(|zone| zone.open)
            .find_map(|zone| zone.name_of(address))
    }
}

impl Zone {
    fn name_of(&self, address: IpAddr) -> Option<Name> {
        let its = self.names.iter();
        let its = its.filter(|(_, addresses)| addresses.contains(&address));
        let is_id = |name: &str| name.len() == 12 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let first = its
            .map(|(name, _)| name.as_str())
            .min_by_key(|name| (is_id(name), *name))?;
        // A network may be called what is no name of the DNS.
        let whole = Name::from_ascii(format!("{first}.{}.", self.name));
        whole
            .or_else(|_| Name::from_ascii(format!("{first}.")))
            .ok()
    }
}

/// The address that `2.0.17.172.in-addr.arpa` or a name in `ip6.arpa` stands for.
fn address_of_reverse(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = labels
            .split('.')
            .rev()
            .map(|label| label.parse().ok())
            .collect::<Option<_>>()?;
        let octets: [u8; 4] = octets.try_into().ok()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let digits: String = labels.split('.').rev().collect();
    let nibbles = labels.split('.').count() == 32 && digits.len() == 32;
    let number = nibbles.then(|| u128::from_str_radix(&digits, 16).ok())??;
    Some(Ipv6Addr::from(number).into())
}

/// The addresses in an answer, with their times to live.
fn addresses_in(answer: &[u8]) -> Vec<(IpAddr, Duration)> {
    let Ok(message) = Message::from_vec(answer) else {
        return Vec::new();
    };
    let address = |record: &Record| {
        let address: IpAddr = match &record.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => return None,
        };
        Some((address, Duration::from_secs(record.ttl.into())))
    };
    message.answers.iter().filter_map(address).collect()
}

/// An answer with nothing in it yet.
pub(super) fn reply(message: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(message.queries.iter().take(1).cloned());
    answer
}

/// The bytes of an answer. By UDP one that is too large for the client says so, and is asked for
/// again by TCP.
pub(super) fn to_bytes(answer: Message, question: &Message, tcp: bool) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    match bytes.len() <= room(question, tcp) {
        true => Some(bytes),
        false => cut(answer),
    }
}

/// An answer of another server, for this client: see [`to_bytes`]. Not every server looks at how much
/// the client has room for.
pub(super) fn fitted(answer: Vec<u8>, question: &Message, tcp: bool) -> Option<Vec<u8>> {
    match answer.len() <= room(question, tcp) {
        true => Some(answer),
        false => cut(reply(question, ResponseCode::NoError)),
    }
}

/// How many bytes of an answer a client takes (RFC 1035, 4.2.1; RFC 6891, 6.2.3).
fn room(question: &Message, tcp: bool) -> usize {
    let edns = question.edns.as_ref();
    let by_udp = edns.map_or(LEAST_ANSWER, |edns| edns.max_payload().max(LEAST_ANSWER));
    match tcp {
        true => usize::from(u16::MAX),
        false => by_udp.into(),
    }
}

fn cut(mut answer: Message) -> Option<Vec<u8>> {
    answer.answers.clear();
    answer.metadata.truncation = true;
    answer.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, Query};

    use super::*;

    fn directory() -> Directory {
        let mut one = Zone {
            open: true,
            name: "back.end".to_owned(),
            ..Zone::default()
        };
        for (name, address) in [
            ("Web", "10.0.0.2"),
            ("web", "10.0.0.3"),
            ("db", "10.0.0.4"),
            ("0123456789ab", "10.0.0.4"),
            ("db", "fd00::4"),
        ] {
            one.add(name, address.parse().unwrap());
        }
        for host in 0..200 {
            one.add("many", Ipv4Addr::new(10, 0, 1, host).into());
        }
        let mut closed = Zone::default();
        closed.add("hidden", "10.9.0.9".parse().unwrap());
        let content = Content {
            zones: HashMap::from([("one".into(), one), ("default".into(), closed)]),
            askers: HashMap::from([(
                "10.9.0.2".parse().unwrap(),
                Asker {
                    networks: vec!["default".into()],
                    links: HashMap::from([(
                        "alias".into(),
                        ("default".to_owned(), "hidden".to_owned()),
                    )]),
                    ..Asker::default()
                },
            )]),
        };
        let directory = Directory::new(mpsc::channel(1).0);
        directory.set(content);
        directory
    }

    fn question(name: &str, kind: RecordType, id: u16) -> Message {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        // By way of bytes, as it comes.
        Message::from_vec(&message.to_vec().unwrap()).unwrap()
    }

    fn ask_from(peer: &str, name: &str, kind: RecordType, id: u16) -> Option<Message> {
        let directory = directory();
        let asker = directory.asker(peer.parse().unwrap(), "one", SERVER)?;
        directory.answer(&question(name, kind, id), &asker)
    }

    fn ask(name: &str, kind: RecordType, id: u16) -> Option<Message> {
        ask_from("10.0.0.1", name, kind, id)
    }

    const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn strangers_are_nobody() {
        let directory = directory();
        let asker = |peer: &str| directory.asker(peer.parse().unwrap(), "one", SERVER);
        assert!(asker("10.0.0.77").is_none() && asker("fe80::1").is_none());
        for known in ["10.0.0.1", "10.9.0.2"] {
            assert!(asker(known).is_some(), "{known}");
        }
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
        assert_eq!(ask("db.", RecordType::AAAA, 7).unwrap().answers.len(), 1);
    }

    #[test]
    fn a_known_name_without_such_a_record_is_not_passed_on() {
        let answer = ask("web.", RecordType::AAAA, 1).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        assert!(ask("example.org.", RecordType::A, 1).is_none());
    }

    #[test]
    fn a_name_may_have_the_networks_behind_it() {
        assert_eq!(
            ask("DB.back.END.", RecordType::A, 1).unwrap().answers.len(),
            1
        );
        for other in ["db.end.", "dbback.end.", "back.end.", "db.front."] {
            assert!(ask(other, RecordType::A, 1).is_none(), "{other}");
        }
        let hidden = ask_from("10.9.0.2", "hidden.", RecordType::A, 1);
        assert!(hidden.is_none());
    }

    #[test]
    fn addresses_lead_back_to_names() {
        let nibbles = "4.".to_owned() + &"0.".repeat(27) + "0.0.d.f.ip6.arpa.";
        for name in ["4.0.0.10.in-addr.arpa.", nibbles.as_str()] {
            let answer = ask(name, RecordType::PTR, 1).unwrap();
            let target = RData::PTR(PTR(Name::from_ascii("db.back.end.").unwrap()));
            assert_eq!(answer.answers[0].data, target, "{name}");
        }
        for other in ["9.0.0.10.in-addr.arpa.", "x.in-addr.arpa.", "1.ip6.arpa."] {
            assert!(ask(other, RecordType::PTR, 1).is_none(), "{other}");
        }
    }

    #[test]
    fn on_the_default_network_only_links_are_known() {
        let answer = |name| ask_from("10.9.0.2", name, RecordType::A, 1);
        assert!(answer("hidden.").is_none());
        assert_eq!(answer("Alias.").unwrap().answers.len(), 1);
        // Another network's names neither.
        assert!(answer("db.").is_none());
    }

    #[test]
    fn what_is_too_large_for_a_datagram_is_cut_and_says_so() {
        let directory = directory();
        let question = question("many.", RecordType::A, 1);
        let asker = directory.asker(SERVER, "one", SERVER).unwrap();
        let answer = || directory.answer(&question, &asker).unwrap();
        let udp = Message::from_vec(&to_bytes(answer(), &question, false).unwrap()).unwrap();
        assert!(udp.metadata.truncation && udp.answers.is_empty());
        let tcp = Message::from_vec(&to_bytes(answer(), &question, true).unwrap()).unwrap();
        assert!(!tcp.metadata.truncation);
        assert_eq!(tcp.answers.len(), 200);
    }
}
