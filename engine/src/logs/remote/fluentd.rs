//! The driver `fluentd`: the forward protocol, a MessagePack array for each line.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::address::{Address, Form, HostPort};
use super::connection::Server;
use super::tls::TlsOptions;
use super::{Message, SendError};
use crate::logs::options::flag;
use crate::logs::rotation::bytes;
use crate::logs::Stream;
use crate::record::Record;

const ADDRESS: Form = Form {
    option: "fluentd-address",
    port: 24224,
    secure_port: 24224,
};
const ACKNOWLEDGE: &str = "fluentd-request-ack";
const PRECISE: &str = "fluentd-sub-second-precision";
const BUFFER: &str = "fluentd-buffer-limit";
/// Options of this driver alone. Those of its attempts at a server change nothing: Hull goes on
/// trying, beside the container.
pub(in crate::logs) const OPTIONS: [&str; 9] = [
    ADDRESS.option,
    ACKNOWLEDGE,
    PRECISE,
    BUFFER,
    "fluentd-async",
    "fluentd-async-reconnect-interval",
    "fluentd-max-retries",
    "fluentd-retry-wait",
    "fluentd-write-timeout",
];

/// What they say.
#[derive(Debug, Clone)]
pub(in crate::logs) struct Options {
    address: Address,
    precise: bool,
    /// What may wait.
    pub(in crate::logs) buffer_bytes: Option<usize>,
}

impl Options {
    /// Reads them.
    pub(in crate::logs) fn parse(options: &HashMap<String, String>) -> Result<Self, String> {
        let text = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
        let wrong = |key: &str| format!("invalid value for {key}: {:?}", text(key));
        let is = |key: &str| match text(key) {
            "" => Ok(false),
            text => flag(text).ok_or_else(|| wrong(key)),
        };
        is("fluentd-async")?;
        if is(ACKNOWLEDGE)? {
            return Err(format!(
                "{ACKNOWLEDGE}: Hull does not wait for the server's acknowledgements"
            ));
        }
        Ok(Self {
            address: address(text(ADDRESS.option))?,
            precise: is(PRECISE)?,
            buffer_bytes: match text(BUFFER) {
                "" => None,
                size => {
                    let bytes = bytes(size).and_then(|bytes| usize::try_from(bytes).ok());
                    Some(bytes.ok_or_else(|| wrong(BUFFER))?)
                }
            },
        })
    }
}

fn address(text: &str) -> Result<Address, String> {
    let address = match text {
        "" => ADDRESS.read("tcp://127.0.0.1")?,
        text if text.contains("://") => ADDRESS.read(text)?,
        text => {
            let at = HostPort::parse(text, ADDRESS.port);
            Address::Tcp(at.ok_or_else(|| format!("invalid fluentd-address {text}"))?)
        }
    };
    match address {
        Address::Tcp(_) | Address::Unix(_) => Ok(address),
        _ => Err(format!(
            "invalid fluentd-address {text}: want tcp://host:port or unix:///path"
        )),
    }
}

/// What all messages of a container say.
#[derive(Debug, Clone)]
pub(in crate::logs) struct Fields {
    tag: String,
    pairs: BTreeMap<String, String>,
}

impl Fields {
    /// Dockerd's, labels and variables.
    pub(in crate::logs) fn of(
        record: &Record,
        tag: &str,
        extra: &BTreeMap<String, String>,
    ) -> Self {
        let mut pairs: BTreeMap<_, _> = [
            ("container_id", record.id.clone()),
            ("container_name", format!("/{}", record.name)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        pairs.extend(extra.clone());
        Self {
            tag: tag.to_owned(),
            pairs,
        }
    }
}

/// Sends to a server.
pub(super) struct Sink {
    fields: Fields,
    precise: bool,
    server: Server,
}

impl Sink {
    pub(super) fn new(options: Options, fields: Fields) -> Self {
        Self {
            fields,
            precise: options.precise,
            server: Server::new(options.address, TlsOptions::default()),
        }
    }

    pub(super) async fn send(&mut self, message: &Message) -> Result<(), SendError> {
        self.server.send(&[self.encode(message)]).await
    }

    /// The tag, the time and the record.
    fn encode(&self, message: &Message) -> Vec<u8> {
        let mut record = self.fields.pairs.clone();
        let mut put = |key: &str, value: &str| {
            record.insert(key.to_owned(), value.to_owned());
        };
        put(
            "source",
            match message.stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            },
        );
        if let Some(part) = &message.part {
            put("partial_message", "true");
            put("partial_id", &part.id);
            put("partial_ordinal", &part.ordinal.to_string());
            put("partial_last", &part.last.to_string());
        }
        let mut encoded = vec![0x93];
        put_text(&mut encoded, self.fields.tag.as_bytes());
        put_time(&mut encoded, message.time, self.precise);
        // One more: the text, which need not be UTF-8.
        put_map(&mut encoded, record.len() + 1);
        put_text(&mut encoded, b"log");
        put_text(&mut encoded, &message.text);
        for (key, value) in &record {
            put_text(&mut encoded, key.as_bytes());
            put_text(&mut encoded, value.as_bytes());
        }
        encoded
    }
}

/// MessagePack's `str`.
fn put_text(encoded: &mut Vec<u8>, text: &[u8]) {
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length @ 0..=31), _) => encoded.push(0xa0 | length),
        (Ok(length), _) => encoded.extend([0xd9, length]),
        (_, Ok(length)) => {
            encoded.push(0xda);
            encoded.extend(length.to_be_bytes());
        }
        // A text of 4 GiB is cut before it comes here.
        _ => {
            encoded.push(0xdb);
            encoded.extend((text.len() as u32).to_be_bytes());
        }
    }
    encoded.extend_from_slice(text);
}

/// The head of MessagePack's `map`.
fn put_map(encoded: &mut Vec<u8>, pairs: usize) {
    match u8::try_from(pairs) {
        Ok(pairs @ 0..=15) => encoded.push(0x80 | pairs),
        _ => {
            encoded.push(0xdf);
            encoded.extend((pairs as u32).to_be_bytes());
        }
    }
}

/// Seconds, or the protocol's `EventTime`.
fn put_time(encoded: &mut Vec<u8>, time: Timestamp, precise: bool) {
    let seconds = time.as_second();
    if !precise {
        encoded.push(0xd3);
        encoded.extend(seconds.to_be_bytes());
        return;
    }
    encoded.extend([0xd7, 0x00]);
    encoded.extend((seconds as u32).to_be_bytes());
    encoded.extend((time.subsec_nanosecond() as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::super::Part;
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Options::parse(&pairs.collect())
    }

    /// Takes texts, maps and times apart again.
    fn decode(bytes: &mut &[u8]) -> String {
        let take = |bytes: &mut &[u8], count: usize| {
            let (now, rest) = bytes.split_at(count);
            *bytes = rest;
            now.to_vec()
        };
        let head = take(bytes, 1)[0];
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let text = |bytes: &mut &[u8], length| String::from_utf8(take(bytes, length)).unwrap();
        match head {
            0x80..=0x8f => {
                let pairs = (0..head & 0xf).map(|_| format!("{}={}", decode(bytes), decode(bytes)));
                pairs.collect::<Vec<_>>().join(",")
            }
            0x93 => format!("[{} {} {}]", decode(bytes), decode(bytes), decode(bytes)),
            0xa0..=0xbf => text(bytes, usize::from(head & 0x1f)),
            0xd3 => number(&take(bytes, 8)).to_string(),
            0xd7 => {
                let all = take(bytes, 9);
                format!("{}.{:09}", number(&all[1..5]), number(&all[5..]))
            }
            0xd9 | 0xda => {
                let length = number(&take(bytes, usize::from(head - 0xd8)));
                text(bytes, length)
            }
            other => panic!("{other:#x}"),
        }
    }

    #[test]
    fn a_message_has_dockers_record() {
        let extra = [("colour".to_owned(), "red".repeat(20))].into();
        let fields = Fields::of(&crate::record::tests::record(), "tag", &extra);
        let id = crate::record::tests::record().id;
        let mut part = message(&"x".repeat(300));
        part.time = "2026-01-01T00:00:00.5Z".parse().unwrap();
        part.stream = Stream::Stderr;
        part.part = Some(Part {
            id: "p".into(),
            ordinal: 3,
            last: true,
        });
        for (precise, time) in [("true", "1767225600.500000000"), ("false", "1767225600")] {
            let sink = Sink::new(options(&[(PRECISE, precise)]).unwrap(), fields.clone());
            let encoded = sink.encode(&part);
            let mut rest = &encoded[..];
            let got = decode(&mut rest);
            let colour = "red".repeat(20);
            let expected = format!(
                "[tag {time} log={},colour={colour},container_id={id},container_name=/calm_otter,\
                 partial_id=p,partial_last=true,partial_message=true,partial_ordinal=3,source=stderr]",
                "x".repeat(300)
            );
            assert_eq!(got, expected);
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn addresses_are_dockers() {
        let at = |text| options(&[("fluentd-address", text)]).map(|options| options.address);
        let tcp = |host: &str, port| {
            Ok(Address::Tcp(HostPort {
                host: host.to_owned(),
                port,
            }))
        };
        assert_eq!(at(""), tcp("127.0.0.1", 24224));
        assert_eq!(at("logs"), tcp("logs", 24224));
        assert_eq!(at("logs:5"), tcp("logs", 5));
        assert_eq!(at("tcp://logs:5"), tcp("logs", 5));
        assert_eq!(at("unix:///x"), Ok(Address::Unix("/x".into())));
        assert!(at("udp://logs").is_err() && at("logs:x").is_err());
        assert!(options(&[(ACKNOWLEDGE, "true")]).is_err());
        assert!(options(&[(BUFFER, "much")]).is_err());
        assert_eq!(options(&[(BUFFER, "2k")]).unwrap().buffer_bytes, Some(2048));
    }
}
