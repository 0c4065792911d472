use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};
use tokio::time::timeout;

use super::super::tests::message;
use super::super::{Kind, Remote, Target};
use super::*;
use crate::logs::Stream;

fn options(address: &str) -> Options {
    let options = [("syslog-address", address), ("syslog-format", "rfc3164")];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Options::parse(&options.into()).unwrap()
}

fn sink(address: &str) -> Sink {
    Sink::new(options(address), "tag".to_owned())
}

async fn soon<T>(what: impl std::future::Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.unwrap()
}

fn port_of(address: std::net::SocketAddr) -> u16 {
    address.port()
}

#[tokio::test]
async fn datagrams_arrive_one_by_one() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = port_of(server.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let local = UnixDatagram::bind(&path).unwrap();
    let mut by_udp = sink(&format!("udp://127.0.0.1:{port}"));
    let mut by_unix = sink(&format!("unixgram://{}", path.display()));
    for text in ["one", "", "two"] {
        by_udp.send(&message(text)).await.unwrap();
        by_unix.send(&message(text)).await.unwrap();
    }
    let mut buffer = [0; 1000];
    for text in ["one", "two"] {
        let read = soon(server.recv(&mut buffer)).await.unwrap();
        let got = String::from_utf8(buffer[..read].to_vec()).unwrap();
        assert!(
            got.starts_with("<30>") && got.ends_with(&format!(": {text}\n")),
            "{got}"
        );
        let read = soon(local.recv(&mut buffer)).await.unwrap();
        assert!(buffer[..read].ends_with(format!(": {text}\n").as_bytes()));
    }
}

#[tokio::test]
async fn a_server_that_nobody_hears_of_takes_no_datagram() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = port_of(gone.local_addr().unwrap());
    drop(gone);
    let mut sink = sink(&format!("udp://127.0.0.1:{port}"));
    for _ in 0..20 {
        match soon(sink.send(&message("x"))).await {
            Ok(()) | Err(SendError::Refused(_)) => {}
            Err(SendError::Down(error)) => panic!("it would be waited for: {error}"),
        }
    }
}

#[tokio::test]
async fn a_stream_is_opened_anew_when_the_server_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut sink = sink(&format!("unix://{}", path.display()));
    assert!(matches!(
        sink.send(&message("early")).await,
        Err(SendError::Down(_))
    ));
    for text in ["first", "second"] {
        let _ = std::fs::remove_file(&path);
        let server = UnixListener::bind(&path).unwrap();
        sink.send(&message(text)).await.unwrap();
        let (stream, _) = soon(server.accept()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        assert!(
            line.ends_with(&format!("tag[{}]: {text}", std::process::id())),
            "{line}"
        );
    }
}

fn remote(port: u16, buffer_bytes: usize) -> Remote {
    Remote::start(Target {
        container: "c".to_owned(),
        buffer_bytes,
        kind: Kind::Syslog(
            options(&format!("tcp://127.0.0.1:{port}")),
            "tag".to_owned(),
        ),
    })
}

#[tokio::test]
async fn messages_wait_for_a_server_that_is_not_there_yet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = port_of(listener.local_addr().unwrap());
    drop(listener);
    let mut remote = remote(port, 1 << 20);
    for number in 0..100 {
        let text = format!("line {number}\n");
        remote.push(
            Stream::Stdout,
            text.as_bytes(),
            true,
            jiff::Timestamp::now(),
        );
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    drop(remote);
    let mut lines = BufReader::new(stream).lines();
    for number in 0..100 {
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        assert!(line.ends_with(&format!(": line {number}")), "{line}");
    }
    assert_eq!(soon(lines.next_line()).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_stops_reading_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut remote = remote(port_of(listener.local_addr().unwrap()), 64 << 10);
    let line = [b'x'; 1000];
    let begun = std::time::Instant::now();
    for number in 0..50_000 {
        remote.push(Stream::Stdout, &line, true, jiff::Timestamp::now());
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // Some 50 MB, of which a socket's buffers take a few.
    assert!(begun.elapsed() < Duration::from_secs(8));
    drop(remote);
}
