//! The driver `gelf`: a JSON object for each line to a server such as Graylog, by datagrams or in a
//! stream.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

use flate2::bufread::{GzEncoder, ZlibEncoder};
use flate2::Compression;
use serde_json::{json, Map, Value};

use super::address::{Address, Form};
use super::connection::Server;
use super::tls::TlsOptions;
use super::{Message, SendError};
use crate::ids;
use crate::logs::Stream;
use crate::record::Record;

const ADDRESS: Form = Form {
    option: "gelf-address",
    port: 12201,
    secure_port: 12201,
};
const COMPRESSION: &str = "gelf-compression-type";
const LEVEL: &str = "gelf-compression-level";
/// Options of this driver alone. Those of its attempts at a server change nothing: Hull goes on
/// trying.
pub(in crate::logs) const OPTIONS: [&str; 5] = [
    ADDRESS.option,
    COMPRESSION,
    LEVEL,
    "gelf-tcp-max-reconnect",
    "gelf-tcp-reconnect-delay",
];
/// What fits in a datagram on most ways.
const CHUNK_BYTES: usize = 1420;
const CHUNK_HEAD_BYTES: usize = 12;
const CHUNK_MAGIC: [u8; 2] = [0x1e, 0x0f];
const MAX_CHUNKS: usize = 128;

/// What they say.
#[derive(Debug, Clone)]
pub(in crate::logs) struct Options {
    address: Address,
    packing: Packing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip(Compression),
    Zlib(Compression),
}

impl Options {
    /// Reads them.
    pub(in crate::logs) fn parse(options: &HashMap<String, String>) -> Result<Self, String> {
        let text = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
        let unknown = |key: &str| {
            format!(
                "unknown value {:?} for log opt {key:?} for gelf log driver",
                text(key)
            )
        };
        if text(ADDRESS.option).is_empty() {
            return Err("gelf-address is a required parameter".to_owned());
        }
        let address = ADDRESS.read(text(ADDRESS.option))?;
        let stream = match address {
            Address::Udp(_) => false,
            Address::Tcp(_) => true,
            _ => return Err("gelf: endpoint needs to be TCP or UDP".to_owned()),
        };
        // A stream is not packed: a zero ends each message.
        let udp_only = [COMPRESSION, LEVEL]
            .into_iter()
            .find(|key| options.contains_key(*key));
        let tcp_only = OPTIONS[3..].iter().find(|key| options.contains_key(**key));
        match (stream, udp_only, tcp_only) {
            (true, Some(key), _) => {
                return Err(format!("{key:?} option can only be used with UDP"))
            }
            (false, _, Some(key)) => {
                return Err(format!("{key:?} option can only be used with TCP"))
            }
            _ => {}
        }
        for key in &OPTIONS[3..] {
            if options.contains_key(*key) && text(key).parse::<u32>().is_err() {
                return Err(unknown(key));
            }
        }
        let level = match text(LEVEL) {
            "" => Compression::fast(),
            "-1" => Compression::default(),
            level => match level.parse() {
                Ok(level @ 0..=9) => Compression::new(level),
                _ => return Err(unknown(LEVEL)),
            },
        };
        let packing = match text(COMPRESSION) {
            "none" => Packing::None,
            "zlib" => Packing::Zlib(level),
            "gzip" => Packing::Gzip(level),
            "" if stream => Packing::None,
            "" => Packing::Gzip(level),
            _ => return Err(unknown(COMPRESSION)),
        };
        Ok(Self { address, packing })
    }
}

/// The fields that all messages of a container have.
#[derive(Debug, Clone)]
pub(in crate::logs) struct Fields(Map<String, Value>);

impl Fields {
    /// Dockerd's, and labels and variables behind an underscore.
    pub(in crate::logs) fn of(
        record: &Record,
        tag: &str,
        extra: &BTreeMap<String, String>,
    ) -> Self {
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let mut fields: Map<String, Value> = [
            ("version", json!("1.1")),
            ("host", json!(name)),
            ("_container_id", json!(record.id)),
            ("_container_name", json!(record.name)),
            ("_image_id", json!(record.image.id)),
            ("_image_name", json!(record.image.reference)),
            ("_command", json!(record.argv.join(" "))),
            ("_tag", json!(tag)),
            ("_created", json!(record.created.to_string())),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect();
        for (key, value) in extra {
            let key = match key.starts_with('_') {
                true => key.clone(),
                false => format!("_{key}"),
            };
            fields.insert(key, json!(value));
        }
        Self(fields)
    }
}

/// Sends to a server.
pub(super) struct Sink {
    fields: Fields,
    packing: Packing,
    datagrams: bool,
    server: Server,
}

impl Sink {
    pub(super) fn new(options: Options, fields: Fields) -> Self {
        Self {
            fields,
            packing: options.packing,
            datagrams: matches!(options.address, Address::Udp(_)),
            server: Server::new(options.address, TlsOptions::default()),
        }
    }

    pub(super) async fn send(&mut self, message: &Message) -> Result<(), SendError> {
        // As dockerd: an empty line is no message.
        if message.text.is_empty() {
            return Ok(());
        }
        let text = self.document(message).to_string().into_bytes();
        let pieces = match self.datagrams {
            true => chunks(pack(self.packing, text).map_err(SendError::Refused)?),
            false => Ok(vec![[&text[..], &[0]].concat()]),
        };
        self.server.send(&pieces.map_err(SendError::Refused)?).await
    }

    fn document(&self, message: &Message) -> Value {
        let level = match message.stream {
            Stream::Stdout => 6,
            Stream::Stderr => 3,
        };
        let milliseconds = message.time.as_millisecond();
        let mut document = self.fields.0.clone();
        for (key, value) in [
            (
                "short_message",
                json!(String::from_utf8_lossy(&message.text)),
            ),
            ("timestamp", json!(milliseconds as f64 / 1000.0)),
            ("level", json!(level)),
        ] {
            document.insert(key.to_owned(), value);
        }
        Value::Object(document)
    }
}

fn pack(packing: Packing, text: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    match packing {
        Packing::None => return Ok(text),
        Packing::Gzip(level) => GzEncoder::new(&text[..], level).read_to_end(&mut packed)?,
        Packing::Zlib(level) => ZlibEncoder::new(&text[..], level).read_to_end(&mut packed)?,
    };
    Ok(packed)
}

/// A message that is too long for one datagram goes in several that say which they are.
fn chunks(message: Vec<u8>) -> io::Result<Vec<Vec<u8>>> {
    if message.len() <= CHUNK_BYTES {
        return Ok(vec![message]);
    }
    let parts: Vec<_> = message.chunks(CHUNK_BYTES - CHUNK_HEAD_BYTES).collect();
    let count = match u8::try_from(parts.len()) {
        Ok(count) if parts.len() <= MAX_CHUNKS => count,
        _ => {
            let text = format!(
                "a message of {} bytes has no room in 128 datagrams",
                message.len()
            );
            return Err(io::Error::other(text));
        }
    };
    let mut id = [0; 8];
    ids::fill_random(&mut id);
    let numbered = (0..count).zip(parts);
    Ok(numbered
        .map(|(number, part)| [&CHUNK_MAGIC[..], &id, &[number, count], part].concat())
        .collect())
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::super::tests::message;
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Options::parse(&pairs.collect())
    }

    fn fields() -> Fields {
        let extra = [("com.x", "1"), ("_y", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        Fields::of(&crate::record::tests::record(), "tag", &extra.into())
    }

    #[tokio::test]
    async fn long_messages_come_in_chunks() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = format!("udp://{}", server.local_addr().unwrap());
        let options = options(&[("gelf-address", &address), (COMPRESSION, "none")]).unwrap();
        let mut sink = Sink::new(options, fields());
        let text = "0123456789".repeat(1000);
        sink.send(&message(&text)).await.unwrap();
        let mut buffer = [0; 2000];
        let (mut whole, mut ids) = (Vec::new(), Vec::new());
        for number in 0.. {
            let read = server.recv(&mut buffer).await.unwrap();
            let (head, part) = buffer[..read].split_at(CHUNK_HEAD_BYTES);
            assert!(read <= CHUNK_BYTES && head.starts_with(&CHUNK_MAGIC));
            assert_eq!(head[10], number);
            ids.push(head[2..10].to_vec());
            whole.extend_from_slice(part);
            if head[10] + 1 == head[11] {
                break;
            }
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
        let got: Value = serde_json::from_slice(&whole).unwrap();
        for (key, value) in [
            ("version", json!("1.1")),
            ("short_message", json!(text)),
            ("level", json!(6)),
            ("timestamp", json!(0.0)),
            ("_container_name", json!("calm_otter")),
            ("_tag", json!("tag")),
            ("_com.x", json!("1")),
            ("_y", json!("2")),
        ] {
            assert_eq!(got[key], value, "{key}");
        }
    }

    #[test]
    fn datagrams_are_packed_unless_told_otherwise() {
        fn of(pairs: &[(&str, &str)]) -> Result<Packing, String> {
            options(pairs).map(|options| options.packing)
        }
        let udp = ("gelf-address", "udp://h:1");
        assert!(matches!(of(&[udp]), Ok(Packing::Gzip(_))));
        assert!(matches!(
            of(&[udp, (COMPRESSION, "zlib"), (LEVEL, "-1")]),
            Ok(Packing::Zlib(_))
        ));
        assert_eq!(of(&[("gelf-address", "tcp://h:1")]), Ok(Packing::None));
        let packed = pack(Packing::Zlib(Compression::fast()), b"text".to_vec()).unwrap();
        let mut text = String::new();
        flate2::read::ZlibDecoder::new(&packed[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "text");
        assert!(chunks(vec![0; 200 << 10]).is_err());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let udp = ("gelf-address", "udp://h:1");
        let tcp = ("gelf-address", "tcp://h:1");
        for bad in [
            &[][..],
            &[("gelf-address", "h:1")],
            &[("gelf-address", "unix:///x")],
            &[udp, (COMPRESSION, "odd")],
            &[udp, (LEVEL, "10")],
            &[tcp, (LEVEL, "1")],
            &[udp, ("gelf-tcp-max-reconnect", "1")],
            &[tcp, ("gelf-tcp-reconnect-delay", "soon")],
        ] {
            assert!(options(bad).is_err(), "{bad:?}");
        }
    }
}
