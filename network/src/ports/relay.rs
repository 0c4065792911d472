//! One port of the host that leads to many: the client says first which it wants.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::connections::Listener;
use super::tcp;

/// Until a client has said which port it wants.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Takes connections that begin with the number of a port, two bytes, big-endian.
#[derive(Debug)]
pub(super) struct Relay(pub(super) TcpListener);

impl Listener for Relay {
    type Client = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Listener::accept(&self.0).await
    }

    async fn pass_on(mut client: TcpStream, targets: Arc<[SocketAddr]>) {
        let asked = tokio::time::timeout(ASK_LIMIT, client.read_u16()).await;
        let Ok(Ok(port)) = asked else {
            return;
        };
        if let Some(target) = targets.iter().find(|target| target.port() == port) {
            tcp::join(client, &[*target]).await;
        }
    }
}
