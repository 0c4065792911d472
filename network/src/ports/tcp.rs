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
    let Ok(mut server) = reach(&client, targets).await else {
        return;
    };
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

/// The first target that takes a client.
async fn reach(client: &TcpStream, targets: &[SocketAddr]) -> io::Result<TcpStream> {
    let server = TcpStream::connect(targets).await?;
    for end in [client, &server] {
        let _ = prepare(end);
    }
    Ok(server)
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
        let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = back.local_addr().unwrap();
        // Whoever it is that comes.
        let client = TcpStream::connect(target).await.unwrap();
        let server = reach(&client, &[target]).await.unwrap();
        for end in [&client, &server] {
            assert!(sockopt::socket_keepalive(end).unwrap());
            assert_eq!(sockopt::tcp_keepidle(end).unwrap(), KEEPALIVE);
        }
    }
}
