//! Docker's stream formats, and connections that become raw streams ("hijack").

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{header, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::detach::DetachKeys;
use super::Version;
use crate::logs::Stream;
use crate::streams::{Chunk, Input};

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
const READ_BYTES: usize = 32 << 10;
/// Pieces of a body on their way to a client.
const QUEUE: usize = 16;
/// Bytes of a header: the stream's number, three zeroes, the length.
const HEAD_BYTES: usize = 8;

/// The media type of output, by whether it has a terminal. Clients of old know one alone.
pub(crate) fn media_type(tty: bool, version: Version) -> &'static str {
    if tty || version.is_before(42) {
        RAW
    } else {
        MULTIPLEXED
    }
}

/// Output in the form for the client: as it is, or behind a header of stream number and length.
pub(crate) fn frame(tty: bool, stream: Stream, data: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(data.len() + HEAD_BYTES);
    put_framed(&mut framed, tty, stream, data);
    framed.freeze()
}

/// Puts what [`frame`] makes behind what is there.
pub(super) fn put_framed(to: &mut BytesMut, tty: bool, stream: Stream, data: &[u8]) {
    if !tty {
        to.put_u8(stream.number());
        to.put_bytes(0, 3);
        // Chunks are bounded by the readers' buffers, far below 4 GiB.
        to.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }
    to.put_slice(data);
}

/// A body fed through a bounded queue.
pub(crate) fn body_channel() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver
            .recv()
            .await
            .map(|piece| (Ok::<_, std::convert::Infallible>(piece), receiver))
    });
    (sender, Body::from_stream(stream))
}

/// Two directions of an attached client.
pub(crate) struct Attachment {
    /// Without a terminal output is multiplexed.
    pub(crate) tty: bool,
    /// Earlier output, sent first.
    pub(crate) before: Option<mpsc::Receiver<Bytes>>,
    /// Output.
    pub(crate) output: mpsc::Receiver<Chunk>,
    /// Where input goes, if anywhere.
    pub(crate) input: Option<mpsc::Sender<Input>>,
    /// The end of the client's input ends the process's input.
    pub(crate) close_input: bool,
    /// On a terminal: the keys by which the client leaves, and what is done then.
    pub(crate) detach: Option<(DetachKeys, Box<dyn FnOnce() + Send>)>,
}

/// The client side of a request that may become a raw stream.
pub(crate) struct Hijack {
    upgrade: Option<OnUpgrade>,
    body: Body,
}

impl Hijack {
    /// Takes the connection of a request whose body has not been read.
    pub(crate) fn of(mut request: Request) -> Self {
        let upgrade = wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        Self {
            upgrade,
            body: request.into_body(),
        }
    }

    /// Takes the connection of a request, and its body to be read first.
    pub(crate) fn with_body(mut request: Request) -> (Self, Body) {
        let upgrade = wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        (
            Self {
                upgrade,
                body: Body::empty(),
            },
            request.into_body(),
        )
    }

    /// Answers, and moves bytes until both directions have ended. `started` runs once the client
    /// is attached; an error text from it goes to the client as output.
    pub(crate) fn attach<F>(self, attachment: Attachment, version: Version, started: F) -> Response
    where
        F: std::future::Future<Output = Option<String>> + Send + 'static,
    {
        let Some(upgrade) = self.upgrade else {
            // Called so with dockerd, whatever it is.
            let kind = media_type(true, version);
            return attach_without_upgrade(self.body, attachment, kind, started);
        };
        let kind = media_type(attachment.tty, version);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
                    run(reader, writer, attachment, started).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "upgrade");
                    let _ = started.await;
                }
            }
        });
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "tcp"),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// A client that did not ask for an upgrade gets output as an ordinary body.
fn attach_without_upgrade<F>(
    body: Body,
    attachment: Attachment,
    kind: &'static str,
    started: F,
) -> Response
where
    F: std::future::Future<Output = Option<String>> + Send + 'static,
{
    let tty = attachment.tty;
    let (sender, answer) = body_channel();
    tokio::spawn(async move {
        let Attachment {
            before,
            output,
            input,
            close_input,
            ..
        } = attachment;
        if let Some(input) = input {
            tokio::spawn(body_to_input(body, input, close_input));
        }
        let failure = started.await;
        let sink = |piece| {
            let sender = sender.clone();
            async move { sender.send(piece).await.is_ok() }
        };
        send_output(tty, before, output, failure, sink).await;
    });
    super::respond::stream(kind, answer)
}

async fn body_to_input(body: Body, input: mpsc::Sender<Input>, close: bool) {
    let mut pieces = body.into_data_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        if input.send(Input::Data(piece)).await.is_err() {
            return;
        }
    }
    if close {
        let _ = input.send(Input::Close).await;
    }
}

async fn run<R, W, F>(reader: R, writer: W, attachment: Attachment, started: F)
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
    F: std::future::Future<Output = Option<String>>,
{
    let Attachment {
        tty,
        before,
        output,
        input,
        close_input,
        detach,
    } = attachment;
    let (keys, on_detach) = detach.unzip();
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let mut reading = tokio::spawn(read_input(reader, input, close_input, keys));
    let failure = started.await;
    let sink = |piece: Bytes| {
        let writer = Arc::clone(&writer);
        async move { writer.lock().await.write_all(&piece).await.is_ok() }
    };
    let sending = send_output(tty, before, output, failure, sink);
    tokio::pin!(sending);
    let left = tokio::select! {
        () = &mut sending => false,
        ended = &mut reading => match ended {
            Ok(Leave::Detached) => true,
            _ => {
                sending.await;
                false
            }
        },
    };
    if let (true, Some(told)) = (left, on_detach) {
        told();
    }
    let _ = writer.lock().await.shutdown().await;
    // The process has ended or the client is gone: nothing takes its input any more.
    reading.abort();
}

/// How a client's input came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Ended,
    Detached,
}

/// Passes the client's input on. Without a taker it is read to notice the client's end.
async fn read_input<R: AsyncRead + Unpin>(
    mut reader: R,
    input: Option<mpsc::Sender<Input>>,
    close: bool,
    mut keys: Option<DetachKeys>,
) -> Leave {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read @ 1..) = reader.read(&mut buffer).await {
        let Some(input) = &input else { continue };
        let (data, left) = match &mut keys {
            Some(keys) => keys.pass(&buffer[..read]),
            None => (buffer[..read].to_vec(), false),
        };
        if !data.is_empty() && input.send(Input::Data(data.into())).await.is_err() {
            break;
        }
        if left {
            return Leave::Detached;
        }
    }
    if let Some(input) = input.filter(|_| close) {
        let _ = input.send(Input::Close).await;
    }
    Leave::Ended
}

async fn send_output<S, F>(
    tty: bool,
    before: Option<mpsc::Receiver<Bytes>>,
    mut output: mpsc::Receiver<Chunk>,
    failure: Option<String>,
    sink: S,
) where
    S: Fn(Bytes) -> F,
    F: std::future::Future<Output = bool>,
{
    if let Some(text) = failure {
        // dockerd writes it to the output, too.
        sink(frame(tty, Stream::Stdout, format!("{text}\r\n").as_bytes())).await;
    }
    if let Some(mut before) = before {
        while let Some(piece) = before.recv().await {
            if !sink(piece).await {
                return;
            }
        }
    }
    while let Some(chunk) = output.recv().await {
        if !sink(frame(tty, chunk.stream, &chunk.data)).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_old_know_one_type_of_stream() {
        let (old, new) = (Version(1, 41), Version(1, 42));
        assert_eq!(media_type(false, old), RAW);
        assert_eq!(media_type(false, new), MULTIPLEXED);
        assert_eq!(media_type(true, new), RAW);
    }

    #[test]
    fn multiplexed_output_has_stream_and_length_in_front() {
        let framed = frame(false, Stream::Stderr, b"abc");
        assert_eq!(&framed[..], b"\x02\0\0\0\0\0\0\x03abc");
        assert_eq!(&frame(true, Stream::Stdout, b"abc")[..], b"abc");
    }
}
