//! Ports of the host's loopback address, for a container that has the host's network: what connects
//! to them here is passed on to a relay on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::error::{AgentError, Result};

/// Until accepting is tried again after it failed.
const RETRY: std::time::Duration = std::time::Duration::from_millis(50);

/// The ports that lead to the host now.
#[derive(Default)]
pub(crate) struct HostPorts(Mutex<Served>);

#[derive(Default)]
struct Served {
    relay: String,
    ports: BTreeMap<u16, JoinHandle<()>>,
}

impl HostPorts {
    /// Has these ports lead to the host, and no others. One that somebody here listens on is theirs.
    pub(crate) async fn set(&self, relay: &str, ports: &[u32]) -> Result<()> {
        let mut served = self.0.lock().await;
        let wanted: BTreeSet<u16> = match relay {
            "" => BTreeSet::new(),
            _ => ports
                .iter()
                .filter_map(|port| u16::try_from(*port).ok())
                .collect(),
        };
        let other = served.relay != relay;
        let all = std::mem::take(&mut served.ports).into_iter();
        let (stay, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.partition(|(port, _)| !other && wanted.contains(port));
        served.ports = stay;
        for (_, task) in gone {
            task.abort();
            // It was aborted, which is no failure; the port is free when it is gone.
            let _ = task.await;
        }
        if wanted.is_empty() {
            served.relay.clear();
            return Ok(());
        }
        relay.clone_into(&mut served.relay);
        let to: SocketAddr = relay
            .parse()
            .map_err(|_| AgentError::invalid(format!("{relay:?} is no address of a relay")))?;
        for port in wanted {
            if served.ports.contains_key(&port) {
                continue;
            }
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                served
                    .ports
                    .insert(port, tokio::spawn(serve(listener, port, to)));
            }
        }
        Ok(())
    }
}

async fn serve(listener: TcpListener, port: u16, relay: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(pass_on(client, port, relay))),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn pass_on(mut client: TcpStream, port: u16, relay: SocketAddr) {
    let Ok(mut host) = TcpStream::connect(relay).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = host.set_nodelay(true);
    if host.write_u16(port).await.is_ok() {
        // Either side may break off at any time.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut host).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_port_leads_to_the_host_for_as_long_as_it_is_wanted() {
        let relay = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = relay.local_addr().unwrap().to_string();
        let free = {
            let free = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            free.local_addr().unwrap().port()
        };
        let ports = HostPorts::default();
        ports.set(&address, &[free.into(), 70_000]).await.unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", free)).await.unwrap();
        let (mut host, _) = relay.accept().await.unwrap();
        assert_eq!(host.read_u16().await.unwrap(), free);
        client.write_all(b"q").await.unwrap();
        assert_eq!(host.read_u8().await.unwrap(), b'q');
        host.write_all(b"a").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'a');
        ports.set("", &[]).await.unwrap();
        assert!(TcpStream::connect(("127.0.0.1", free)).await.is_err());
        // Somebody's own port stays theirs.
        let own = TcpListener::bind(("127.0.0.1", free)).await.unwrap();
        ports.set(&address, &[free.into()]).await.unwrap();
        drop(own);
        assert!(ports.set("nonsense", &[1]).await.is_err());
    }
}
