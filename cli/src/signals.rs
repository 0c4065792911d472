//! Signals that `run` passes on to the container, and changes of the terminal's size.

use std::future::Future;

use futures_util::StreamExt as _;
use hyper::Method;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::{mpsc, watch};

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

/// What is passed on: all but what tells of children and of streams, what can't be caught, what the
/// terminal's job control means for this process, and the terminal's size, which has a way of its own.
const FORWARDED: [(i32, &str); 16] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGCONT, "SIGCONT"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSYS, "SIGSYS"),
];
/// Interrupts after which a command ends, whatever the engine or the container makes of them.
const PATIENCE: u32 = 3;

/// What signals do to a command that is attached to a container: they go to the container once it has
/// begun, or end the command, but never leave the terminal raw. With `forwards` they are caught from this
/// call on, not from the first look at its result, which is the command's exit status.
pub(crate) fn left<'a>(
    client: &'a Client,
    container: &'a str,
    forwards: bool,
    begun: watch::Receiver<bool>,
) -> impl Future<Output = u8> + 'a {
    let caught = forwards.then(catch);
    async move {
        match caught {
            Some(caught) => forward(client, container, caught, begun).await,
            None => ended().await,
        }
    }
}

/// A signal's number and name.
type Caught = mpsc::UnboundedReceiver<(i32, &'static str)>;

/// Catches the signals that are passed on.
fn catch() -> Caught {
    let (caught, signals) = mpsc::unbounded_channel();
    for (number, name) in FORWARDED {
        let Ok(mut arrivals) = signal(SignalKind::from_raw(number)) else {
            continue;
        };
        let caught = caught.clone();
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() && caught.send((number, name)).is_ok() {}
        });
    }
    signals
}

/// Passes this process's signals on to a container. Ends at the third that asks for the end, as docker's
/// command does, with its exit status.
async fn forward(
    client: &Client,
    container: &str,
    mut signals: Caught,
    begun: watch::Receiver<bool>,
) -> u8 {
    // Each is sent beside the others: an engine that does not answer must not hold the count up.
    let mut sending = futures_util::stream::FuturesUnordered::new();
    let mut asked = 0;
    loop {
        let (number, name) = tokio::select! {
            Some(arrived) = signals.recv() => arrived,
            Some(()) = sending.next() => continue,
            else => return std::future::pending().await,
        };
        asked += u32::from(matches!(number, libc::SIGINT | libc::SIGTERM));
        if asked == PATIENCE {
            eprintln!("got {PATIENCE} SIGTERM/SIGINTs, forcefully exiting");
            return 1;
        }
        let path = format!("/containers/{}/kill?signal={name}", encode(container));
        let mut begun = begun.clone();
        sending.push(async move {
            let _ = begun.wait_for(|begun| *begun).await;
            let _ = client.send(Method::POST, &path, empty()).await;
        });
    }
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
