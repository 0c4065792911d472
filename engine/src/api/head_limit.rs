//! How long a client may take to send the head of a request.
//!
//! Between two requests it may be silent for as long as it likes, as with dockerd: clients keep their
//! connections, and not all of them look whether the other side has closed one before they use it.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{sleep, Sleep};

/// Longest time for a head, from its first byte.
const LIMIT: Duration = Duration::from_secs(30);

/// Whether a request of a connection is being answered: what comes meanwhile is no head.
#[derive(Debug, Clone)]
pub(crate) struct Busy(Arc<State>);

#[derive(Debug)]
struct State {
    now: Mutex<Now>,
    close: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// Nothing is asked, since then.
    Silent(Instant),
    /// Something is answered.
    Busy,
    /// It was silent, and others need its place.
    Closing,
}

impl Default for Busy {
    fn default() -> Self {
        Self(Arc::new(State {
            now: Mutex::new(Now::Silent(Instant::now())),
            close: Notify::new(),
        }))
    }
}

impl Busy {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_busy(&self) -> bool {
        *self.now() == Now::Busy
    }

    /// Since when the connection is silent, if it is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        match *self.now() {
            Now::Silent(since) => Some(since),
            Now::Busy | Now::Closing => None,
        }
    }

    /// Has the connection closed, if it is silent still.
    pub(crate) fn close(&self) {
        let mut now = self.now();
        if let Now::Silent(_) = *now {
            *now = Now::Closing;
            self.0.close.notify_one();
        }
    }

    /// Until it is to be closed. Who asks something at the last moment is answered.
    pub(super) async fn closed(&self) {
        loop {
            self.0.close.notified().await;
            if *self.now() == Now::Closing {
                return;
            }
        }
    }

    /// A head has come whole.
    pub(super) fn begin(&self) {
        *self.now() = Now::Busy;
    }

    /// The next head may come once the answer is gone.
    pub(super) fn until_gone(&self, response: Response) -> Response {
        let busy = self.clone();
        response.map(|body| Body::new(Answered { body, busy }))
    }
}

/// The body of an answer, that tells of its end.
struct Answered {
    body: Body,
    busy: Busy,
}

impl Drop for Answered {
    fn drop(&mut self) {
        *self.busy.now() = Now::Silent(Instant::now());
    }
}

impl hyper::body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose heads may not take too long.
pub(super) struct HeadLimit<S> {
    stream: S,
    busy: Busy,
    /// Until when the head has to be whole that has begun.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> HeadLimit<S> {
    pub(super) fn new(stream: S, busy: Busy) -> Self {
        Self {
            stream,
            busy,
            deadline: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.busy.is_busy() {
            self.deadline = None;
            return read;
        }
        if before < buffer.filled().len() && self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep(LIMIT)));
        }
        match (&read, &mut self.deadline) {
            (Poll::Pending, Some(deadline)) => {
                let late = |()| Err(io::Error::from(io::ErrorKind::TimedOut));
                deadline.as_mut().poll(context).map(late)
            }
            _ => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadLimit<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use axum::Router;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    async fn answer(client: &mut DuplexStream) -> String {
        let mut bytes = vec![0; 4096];
        let read = client.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_between_requests_is_waited_for_and_who_stops_in_one_is_not() {
        let slow = || async {
            sleep(2 * LIMIT).await;
            "done"
        };
        let router = Router::new().route("/slow", get(slow));
        let (mut client, server) = tokio::io::duplex(4096);
        let served = tokio::spawn(super::super::serve(
            server,
            router,
            Busy::default(),
            super::super::Way::Unix,
        ));
        for _ in 0..3 {
            sleep(10 * LIMIT).await;
            let head = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n";
            client.write_all(head).await.unwrap();
            let text = answer(&mut client).await;
            assert!(
                text.starts_with("HTTP/1.1 200") && text.ends_with("done"),
                "{text}"
            );
        }
        client.write_all(b"GET /slow HT").await.unwrap();
        sleep(LIMIT / 2).await;
        client.write_all(b"TP/1.1\r\n").await.unwrap();
        assert!(!served.is_finished());
        tokio::time::timeout(LIMIT, served).await.unwrap().unwrap();
    }
}
