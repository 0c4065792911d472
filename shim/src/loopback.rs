//! Connections from a pod's network namespace on the host to its loopback addresses
//! (`kubectl port-forward` makes them) go to the guest's.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use hull_network::foreign::{ForeignError, Loopback, Namespace};
use hull_protocol::dial::{preamble, DIAL_PORT};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::vmm::Vm;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 256;

/// Serves as long as the VM lives.
pub(crate) fn serve(vm: &Vm, namespace: &Namespace) -> Result<(), ForeignError> {
    let caught = Loopback::catch(namespace)?;
    let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for listener in std::iter::once(caught.v4).chain(caught.v6) {
        // It fails only outside of a runtime.
        if let Ok(listener) = TcpListener::from_std(listener) {
            tokio::spawn(accept(vm.clone(), listener, Arc::clone(&turns)));
        }
    }
    Ok(())
}

async fn accept(vm: Vm, listener: TcpListener, turns: Arc<Semaphore>) {
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = vm.ended() => return,
        };
        let Ok((client, _)) = accepted else { continue };
        let vm = vm.clone();
        tokio::spawn(async move {
            let _turn = turn;
            if let Err(error) = relay(&vm, client).await {
                tracing::debug!(%error, "a connection to the pod's loopback");
            }
        });
    }
}

async fn relay(vm: &Vm, mut client: TcpStream) -> std::io::Result<()> {
    let to = original_destination(&client)?;
    let mut guest = vm.connect(DIAL_PORT).await.map_err(std::io::Error::other)?;
    guest.write_all(&preamble(to)).await?;
    tokio::io::copy_bidirectional(&mut client, &mut guest).await?;
    Ok(())
}

/// Where a redirected connection was to go; only its family and port count.
fn original_destination(client: &TcpStream) -> std::io::Result<SocketAddr> {
    let fd = client.as_fd();
    if client.local_addr()?.is_ipv4() {
        let to = getsockopt(&fd, sockopt::OriginalDst)?;
        let port = u16::from_be(to.sin_port);
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let to = getsockopt(&fd, sockopt::Ip6tOriginalDst)?;
    let port = u16::from_be(to.sin6_port);
    Ok((Ipv6Addr::LOCALHOST, port).into())
}
