//! TCP connections to published ports.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};

use super::connections::Listener;

/// After so long a silence an end is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

impl Listener for TcpListener {
    type Client = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (client, _) = TcpListener::accept(self).await?;
        Ok(client)
    }

    async fn pass_on(client: TcpStream, targets: Arc<[SocketAddr]>) {
        join(client, &targets).await;
    }
}

/// Joins a client with the first of the targets that takes it, until both have ended.
pub(super) async fn join(mut client: TcpStream, targets: &[SocketAddr]) {
    let Ok(mut server) = TcpStream::connect(targets).await else {
        return;
    };
    for end in [&client, &server] {
        let _ = prepare(end);
    }
    // Either side may break off at any time: then the other must not take what it has for the whole.
    if tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .is_err()
    {
        for end in [&client, &server] {
            let _ = sockopt::set_socket_linger(end, Some(Duration::ZERO));
        }
    }
}

/// An end that has gone without a word is noticed, and gives back its place.
fn prepare(end: &TcpStream) -> io::Result<()> {
    end.set_nodelay(true)?;
    sockopt::set_socket_keepalive(end, true)?;
    sockopt::set_tcp_keepidle(end, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(end, KEEPALIVE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A client, the server that it is joined with, and what joins them.
    async fn joined() -> (TcpStream, TcpStream) {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = back.local_addr().unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, front.accept());
        let accepted = accepted.unwrap().0;
        tokio::spawn(async move { join(accepted, &[target]).await });
        let (server, _) = back.accept().await.unwrap();
        (client.unwrap(), server)
    }

    async fn read(from: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.map(|_| all)
    }

    #[tokio::test]
    async fn who_breaks_off_does_so_for_the_other_side() {
        for of_server in [true, false] {
            let (client, server) = joined().await;
            let (mut breaks, mut other) = match of_server {
                true => (server, client),
                false => (client, server),
            };
            breaks.write_all(b"ten bytes.").await.unwrap();
            let mut some = [0; 10];
            other.read_exact(&mut some).await.unwrap();
            sockopt::set_socket_linger(&breaks, Some(Duration::ZERO)).unwrap();
            drop(breaks);
            let error = read(&mut other).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn who_ends_is_heard_to_the_end() {
        let (mut client, mut server) = joined().await;
        client.write_all(b"asked").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read(&mut server).await.unwrap(), b"asked");
        server.write_all(b"answered").await.unwrap();
        drop(server);
        assert_eq!(read(&mut client).await.unwrap(), b"answered");
    }

    #[tokio::test]
    async fn ends_are_asked_whether_they_are_there() {
        let (client, server) = joined().await;
        prepare(&client).unwrap();
        assert_eq!(sockopt::tcp_keepidle(&client).unwrap(), KEEPALIVE);
        // The kernel shows the timers of the two ends between.
        for other in [&client, &server] {
            let (own, peer) = (other.peer_addr().unwrap(), other.local_addr().unwrap());
            let mut looks = 0;
            while timer(own.port(), peer.port()).as_deref() != Some("02") {
                looks += 1;
                assert!(looks < 500, "{own} {:?}", timer(own.port(), peer.port()));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// The kind of timer that the end with these ports waits for: 02 is that of keepalives.
    fn timer(own: u16, peer: u16) -> Option<String> {
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let ends = [own, peer].map(|port| format!("0100007F:{port:04X}"));
        let mut lines = table.lines().map(|line| line.split_whitespace().collect());
        let line =
            lines.find(|fields: &Vec<&str>| fields.get(1..3) == Some(&[&*ends[0], &*ends[1]]))?;
        line.get(5)?.split(':').next().map(str::to_owned)
    }
}
