//! TCP connections to published ports.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::connections::Listener;

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
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Either side may break off at any time.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
