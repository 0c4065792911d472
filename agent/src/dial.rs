//! The host's connections to servers on the guest's loopback addresses.

use std::time::Duration;

use hull_protocol::dial::{destination, DIAL_PORT, PREAMBLE_BYTES};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_vsock::VsockStream;

use crate::host;

/// How long the host may take to say where to.
const PREAMBLE_LIMIT: Duration = Duration::from_secs(10);

/// Serves as long as the agent runs.
pub(crate) fn serve() -> std::io::Result<()> {
    let mut host = host::listen(DIAL_PORT)?;
    tokio::spawn(async move {
        while let Some(stream) = host.accept().await {
            tokio::spawn(async move {
                // What fails closes the connection, which says it.
                let _ = connect(stream).await;
            });
        }
    });
    Ok(())
}

async fn connect(mut host: VsockStream) -> std::io::Result<()> {
    let mut bytes = [0; PREAMBLE_BYTES];
    tokio::time::timeout(PREAMBLE_LIMIT, host.read_exact(&mut bytes)).await??;
    let to = destination(bytes).ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut server = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut host, &mut server).await?;
    Ok(())
}
