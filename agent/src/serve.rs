//! Listeners, signals and the main loop.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hull_protocol::{agent_ttrpc, TraceMark, AGENT_PORT, READY_PORT, STDIO_PORT};
use rustix::process::{wait, WaitOptions};
use tokio::signal::unix::{signal, SignalKind};
use tokio_vsock::{VsockAddr, VsockStream, VMADDR_CID_HOST};
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::Server;

use crate::console;
use crate::dial;
use crate::host;
use crate::rpc::Service;
use crate::sandbox::Sandbox;
use crate::stdio::BoxStream;
use crate::sys;

/// How long a listener that fails rests before it tries again.
const RETRY: Duration = Duration::from_millis(100);

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Only `unpack` blocks; its thread is gone soon after.
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
}

/// Serves as PID 1; never returns, since the kernel panics when PID 1 ends.
pub(crate) fn as_init() -> ExitCode {
    loop {
        match runtime() {
            Ok(runtime) => {
                if let Err(error) = runtime.block_on(serve_vsock()) {
                    console::log(&format!("cannot serve: {error}"));
                }
            }
            Err(error) => console::log(&format!("cannot start: {error}")),
        }
        std::thread::sleep(RETRY);
    }
}

async fn serve_vsock() -> std::io::Result<()> {
    let sandbox = Sandbox::default();
    host::reserve()?;
    let orders = host::listen(AGENT_PORT)?;
    let mut server = Server::new()
        .add_listener(Listener::new(orders.into_stream()))
        .register_service(agent_ttrpc::create_agent(Arc::new(Service::new(
            sandbox.clone(),
        ))));
    let mut streams = host::listen(STDIO_PORT)?;
    dial::serve()?;
    server.start().await.map_err(std::io::Error::other)?;
    sys::mark(TraceMark::AgentListening);
    // The attempt is the message; its answer, a reset, says nothing.
    tokio::spawn(VsockStream::connect(VsockAddr::new(
        VMADDR_CID_HOST,
        READY_PORT,
    )));
    console::log("listening");

    let registry = sandbox.streams.clone();
    tokio::spawn(async move {
        while let Some(stream) = streams.accept().await {
            tokio::spawn(registry.clone().admit(Box::new(stream) as BoxStream));
        }
    });
    reap(&sandbox).await
}

/// Serves `agent.sock` and `stdio.sock` in a directory.
pub(crate) fn on_unix_sockets(directory: &Path) -> ExitCode {
    let served = runtime().and_then(|runtime| runtime.block_on(serve_unix(directory)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "hull-agent: cannot serve in {}: {error}",
                directory.display()
            );
            ExitCode::FAILURE
        }
    }
}

async fn serve_unix(directory: &Path) -> std::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let sandbox = Sandbox::default();
    let socket = directory.join("agent.sock");
    let streams = tokio::net::UnixListener::bind(directory.join("stdio.sock"))?;
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .map_err(std::io::Error::other)?
        .register_service(agent_ttrpc::create_agent(Arc::new(Service::new(
            sandbox.clone(),
        ))));
    server.start().await.map_err(std::io::Error::other)?;
    let registry = sandbox.streams.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = streams.accept().await {
            tokio::spawn(registry.clone().admit(Box::new(stream) as BoxStream));
        }
    });
    reap(&sandbox).await
}

/// Waits for children, those that were left to PID 1 included, for ever.
async fn reap(sandbox: &Sandbox) -> std::io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let status = exit_status(status.exit_status(), status.terminating_signal());
            if let Ok(pid) = u32::try_from(pid.as_raw_nonzero().get()) {
                sandbox.reaped.exited(pid, status);
            }
        }
        children.recv().await;
    }
}

/// The shell's convention: the exit code, or 128 and the signal's number.
fn exit_status(code: Option<i32>, signal: Option<i32>) -> u32 {
    let value = match (code, signal) {
        (Some(code), _) => code & 0xff,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u32::try_from(value).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_counted_from_128() {
        assert_eq!(exit_status(Some(3), None), 3);
        assert_eq!(exit_status(None, Some(9)), 137);
        assert_eq!(exit_status(None, Some(15)), 143);
    }
}
