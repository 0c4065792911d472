//! TCP connections to published ports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::room::{Place, PortRoom};
use super::{lock, Targets};

/// Until accepting is tried again after it failed.
const RETRY: Duration = Duration::from_millis(50);

pub(super) async fn serve(listener: TcpListener, targets: Targets, room: PortRoom) {
    // Connections end with the port: the set is dropped when this task is.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            (place, client) = accept(&listener, &room) => {
                let targets = Arc::clone(&lock(&targets));
                connections.spawn(pass_on(client, targets, place));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The next connection. It is left to wait with the kernel until there is room for it.
async fn accept(listener: &TcpListener, room: &PortRoom) -> (Place, TcpStream) {
    loop {
        let place = room.place().await;
        match listener.accept().await {
            Ok((client, _)) => return (place, client),
            Err(error) => {
                tracing::debug!(%error, "accepting");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn pass_on(mut client: TcpStream, targets: Arc<[SocketAddr]>, _place: Place) {
    let Ok(mut server) = TcpStream::connect(&targets[..]).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Either side may break off at any time.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
