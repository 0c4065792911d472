//! The driver `journald`: systemd's journal by its native protocol, a datagram of fields for each
//! line.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    sendmsg_addr, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::{Message, SendError};
use crate::error::{EngineError, Result};
use crate::ids;
use crate::logs::Stream;
use crate::record::Record;

const SOCKET: &str = "/run/systemd/journal/socket";
/// How long the journal may take to take a message.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// Whether this host has a journal.
pub(in crate::logs) fn check_host() -> Result<()> {
    match Path::new(SOCKET).exists() {
        true => Ok(()),
        false => Err(EngineError::BadRequest(format!(
            "failed to initialize logging driver: journald is not enabled on this host: there is \
             no {SOCKET}"
        ))),
    }
}

/// The fields that all messages of a container have, encoded.
#[derive(Debug, Clone)]
pub(in crate::logs) struct Fields(Vec<u8>);

impl Fields {
    /// Dockerd's, and labels and variables under names that the journal takes.
    pub(in crate::logs) fn of(
        record: &Record,
        tag: &str,
        extra: &BTreeMap<String, String>,
    ) -> Self {
        let mut fields: BTreeMap<String, &str> = [
            ("CONTAINER_ID", ids::short(&record.id)),
            ("CONTAINER_ID_FULL", &record.id),
            ("CONTAINER_NAME", &record.name),
            ("CONTAINER_TAG", tag),
            ("IMAGE_NAME", &record.image.reference),
            ("SYSLOG_IDENTIFIER", tag),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for (name, value) in extra {
            let name = field_name(name);
            if !name.is_empty() {
                fields.insert(name, value);
            }
        }
        let mut encoded = Vec::new();
        for (name, value) in fields {
            put(&mut encoded, &name, value.as_bytes());
        }
        Self(encoded)
    }
}

/// Upper-case letters, digits and underscores, the first of them no underscore.
fn field_name(text: &str) -> String {
    let name: String = text
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
            _ => '_',
        })
        .collect();
    name.trim_start_matches('_').to_owned()
}

/// `NAME=value`; a value of several lines stands after its length.
fn put(encoded: &mut Vec<u8>, name: &str, value: &[u8]) {
    encoded.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        encoded.push(b'\n');
        encoded.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        encoded.push(b'=');
    }
    encoded.extend_from_slice(value);
    encoded.push(b'\n');
}

/// Sends to the journal.
pub(super) struct Sink {
    path: PathBuf,
    fields: Fields,
    /// Of this run; messages of one are numbered.
    epoch: String,
    ordinal: u64,
    socket: Option<UnixDatagram>,
}

impl Sink {
    pub(super) fn new(fields: Fields) -> Self {
        Self::to(Path::new(SOCKET), fields)
    }

    fn to(path: &Path, fields: Fields) -> Self {
        Self {
            path: path.to_owned(),
            fields,
            epoch: ids::new_id(),
            ordinal: 0,
            socket: None,
        }
    }

    pub(super) async fn send(&mut self, message: &Message) -> std::result::Result<(), SendError> {
        let datagram = self.encode(message);
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => UnixDatagram::unbound().map_err(SendError::Down)?,
        };
        let sent = timeout(SEND_LIMIT, send_to(&socket, &self.path, &datagram)).await;
        self.socket = Some(socket);
        match sent {
            Ok(Ok(())) => {
                self.ordinal += 1;
                Ok(())
            }
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                Err(SendError::Refused(error))
            }
            Ok(Err(error)) => Err(SendError::Down(error)),
            Err(_) => Err(SendError::Down(io::Error::new(
                io::ErrorKind::TimedOut,
                "the journal takes too long",
            ))),
        }
    }

    fn encode(&self, message: &Message) -> Vec<u8> {
        let priority = match message.stream {
            Stream::Stdout => "6",
            Stream::Stderr => "3",
        };
        let mut encoded = Vec::with_capacity(message.text.len() + self.fields.0.len() + 256);
        let mut text = |name: &str, value: &str| put(&mut encoded, name, value.as_bytes());
        text("PRIORITY", priority);
        text("SYSLOG_TIMESTAMP", &message.time.to_string());
        text("CONTAINER_LOG_EPOCH", &self.epoch);
        text("CONTAINER_LOG_ORDINAL", &(self.ordinal + 1).to_string());
        if let Some(part) = &message.part {
            text("CONTAINER_PARTIAL_ID", &part.id);
            text("CONTAINER_PARTIAL_ORDINAL", &part.ordinal.to_string());
            text("CONTAINER_PARTIAL_LAST", &part.last.to_string());
            if !part.last {
                text("CONTAINER_PARTIAL_MESSAGE", "true");
            }
        }
        put(&mut encoded, "MESSAGE", &message.text);
        encoded.extend_from_slice(&self.fields.0);
        encoded
    }
}

/// What is too large for a datagram goes as a file in memory that nobody can change any more.
async fn send_to(socket: &UnixDatagram, path: &Path, datagram: &[u8]) -> io::Result<()> {
    let too_large = [Errno::MSGSIZE, Errno::NOBUFS].map(Errno::raw_os_error);
    match socket.send_to(datagram, path).await {
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|code| too_large.contains(&code)) =>
        {
            let file = sealed(datagram)?;
            let address = SocketAddrUnix::new(path)?;
            socket
                .async_io(Interest::WRITABLE, || send_file(socket, &address, &file))
                .await
        }
        other => other.map(drop),
    }
}

fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("hull-log", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

fn send_file(socket: &UnixDatagram, address: &SocketAddrUnix, file: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let nothing: [IoSlice<'_>; 0] = [];
    sendmsg_addr(socket, address, &nothing, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read as _, Seek as _};

    use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

    use super::super::tests::message;
    use super::super::Part;
    use super::*;

    fn fields() -> Fields {
        let extra = [("com.x/y", "1"), ("_lang", "two\nlines"), ("__", "nothing")];
        let extra = extra.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Fields::of(&crate::record::tests::record(), "the tag", &extra.into())
    }

    /// Takes a datagram apart again, as the journal does.
    fn decode(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (
                std::str::from_utf8(&bytes[..end]).unwrap(),
                &bytes[end + 1..],
            );
            let (name, value, rest) = match line.split_once('=') {
                Some((name, value)) => (name, value.as_bytes(), rest),
                None => {
                    let (length, rest) = rest.split_first_chunk::<8>().unwrap();
                    let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
                    (line, value, rest.strip_prefix(b"\n").unwrap())
                }
            };
            let value = String::from_utf8(value.to_vec()).unwrap();
            assert_eq!(fields.insert(name.to_owned(), value), None, "{name}");
            bytes = rest;
        }
        assert!(bytes.is_empty());
        fields
    }

    #[tokio::test]
    async fn a_message_has_dockers_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut sink = Sink::to(&path, fields());
        let mut first = message("to standard error");
        first.stream = Stream::Stderr;
        first.part = Some(Part {
            id: "line".into(),
            ordinal: 2,
            last: false,
        });
        assert!(matches!(sink.send(&first).await, Err(SendError::Down(_))));
        let journal = UnixDatagram::bind(&path).unwrap();
        sink.send(&first).await.unwrap();
        sink.send(&message("whole")).await.unwrap();
        let mut buffer = vec![0; 10_000];
        let read = journal.recv(&mut buffer).await.unwrap();
        let got = decode(&buffer[..read]);
        let id = crate::record::tests::record().id;
        for (name, value) in [
            ("MESSAGE", "to standard error"),
            ("PRIORITY", "3"),
            ("CONTAINER_ID", &id[..12]),
            ("CONTAINER_ID_FULL", &id),
            ("CONTAINER_NAME", "calm_otter"),
            ("CONTAINER_TAG", "the tag"),
            ("SYSLOG_IDENTIFIER", "the tag"),
            ("IMAGE_NAME", "busybox"),
            ("SYSLOG_TIMESTAMP", "1970-01-01T00:00:00Z"),
            ("CONTAINER_LOG_ORDINAL", "1"),
            ("CONTAINER_PARTIAL_MESSAGE", "true"),
            ("CONTAINER_PARTIAL_ID", "line"),
            ("CONTAINER_PARTIAL_ORDINAL", "2"),
            ("CONTAINER_PARTIAL_LAST", "false"),
            ("COM_X_Y", "1"),
            ("LANG", "two\nlines"),
        ] {
            assert_eq!(got.get(name).map(String::as_str), Some(value), "{name}");
        }
        let read = journal.recv(&mut buffer).await.unwrap();
        let got = decode(&buffer[..read]);
        assert_eq!(got["CONTAINER_LOG_ORDINAL"], "2");
        assert!(!got.contains_key("CONTAINER_PARTIAL_MESSAGE"));
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_goes_as_a_sealed_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::to(&path, fields());
        let text = "x".repeat(3 << 20);
        sink.send(&message(&text)).await.unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 16];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        journal.readable().await.unwrap();
        let read = recvmsg(&journal, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert_eq!(read.bytes, 0);
        let Some(RecvAncillaryMessage::ScmRights(mut descriptors)) = control.drain().next() else {
            panic!("no file came");
        };
        let mut file = std::fs::File::from(descriptors.next().unwrap());
        assert!(file.write_all(b"changed").is_err());
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(decode(&bytes)["MESSAGE"], text);
    }

    #[test]
    fn names_are_such_as_the_journal_takes() {
        for (text, name) in [
            ("com.x", "COM_X"),
            ("__a-1", "A_1"),
            ("ü", ""),
            ("9x", "9X"),
        ] {
            assert_eq!(field_name(text), name);
        }
    }
}
