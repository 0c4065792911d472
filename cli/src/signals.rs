//! Signals that `run` passes on to the container, and changes of the terminal's size.

use hyper::Method;
use tokio::signal::unix::{signal, SignalKind};

use crate::client::{empty, encode, Client};
use crate::terminal;

/// What a changed terminal size belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Sized<'a> {
    /// A container's own terminal.
    Container(&'a str),
    /// An exec's.
    Exec(&'a str),
}

/// Tells the engine the terminal's size, once. Errors are those of a process that is not there
/// (yet, or any more) and change nothing.
pub(crate) async fn send_size(client: &Client, target: Sized<'_>) {
    let Some((width, height)) = terminal::size() else {
        return;
    };
    let (kind, id) = match target {
        Sized::Container(id) => ("containers", id),
        Sized::Exec(id) => ("exec", id),
    };
    let path = format!("/{kind}/{}/resize?h={height}&w={width}", encode(id));
    let _ = client.send(Method::POST, &path, empty()).await;
}

/// Follows the terminal's size for ever.
pub(crate) async fn follow_size(client: &Client, target: Sized<'_>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return std::future::pending().await;
    };
    loop {
        changes.recv().await;
        send_size(client, target).await;
    }
}

/// Passes this process's signals on to a container for ever.
pub(crate) async fn forward(client: &Client, container: &str) -> u8 {
    // As docker: what tells of this process's own children, terminal or pipes is not the container's.
    let kinds = [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::quit(), "SIGQUIT"),
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
        (SignalKind::alarm(), "SIGALRM"),
    ];
    let forwards = kinds.into_iter().map(|(kind, name)| async move {
        let Ok(mut arrivals) = signal(kind) else {
            return std::future::pending().await;
        };
        loop {
            arrivals.recv().await;
            let path = format!("/containers/{}/kill?signal={name}", encode(container));
            let _ = client.send(Method::POST, &path, empty()).await;
        }
    });
    futures_util::future::join_all::<_>(forwards).await;
    std::future::pending().await
}

/// Waits for a signal that ends this process, so that the terminal can be put right first. The
/// result is the exit status.
pub(crate) async fn ended() -> u8 {
    let kinds = [
        (SignalKind::interrupt(), 130),
        (SignalKind::terminate(), 143),
        (SignalKind::hangup(), 129),
        (SignalKind::quit(), 131),
    ];
    let arrivals = kinds.into_iter().map(|(kind, status)| {
        Box::pin(async move {
            match signal(kind) {
                Ok(mut arrivals) => arrivals.recv().await,
                Err(_) => std::future::pending().await,
            };
            status
        })
    });
    futures_util::future::select_all(arrivals).await.0
}
