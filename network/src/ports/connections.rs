//! Connections to published ports, of protocols that have connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::room::{Place, PortRoom};
use super::{lock, Targets};

/// Until accepting is tried again after it failed.
const RETRY: Duration = Duration::from_millis(50);

/// Where connections come from.
pub(super) trait Listener: Send + Sync + 'static {
    /// A client's end.
    type Client: Send + 'static;

    /// The next client.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Client>> + Send;

    /// Joins a client with the first of the targets that takes it, until both have ended.
    fn pass_on(
        client: Self::Client,
        targets: Arc<[SocketAddr]>,
    ) -> impl Future<Output = ()> + Send + 'static;
}

pub(super) async fn serve<L: Listener>(listener: L, targets: Targets, room: PortRoom) {
    // Connections end with the port: the set is dropped when this task is.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            (place, client) = accept(&listener, &room) => {
                let targets = Arc::clone(&lock(&targets));
                connections.spawn(async move {
                    L::pass_on(client, targets).await;
                    drop(place);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The next connection. It is left to wait with the kernel until there is room for it.
async fn accept<L: Listener>(listener: &L, room: &PortRoom) -> (Place, L::Client) {
    loop {
        let place = room.place().await;
        match listener.accept().await {
            Ok(client) => return (place, client),
            Err(error) => {
                tracing::debug!(%error, "accepting");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
