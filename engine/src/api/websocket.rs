//! Attaching by a WebSocket: each frame from the client is input, each to it is output.

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;

use super::detach::DetachKeys;
use super::streams::Attachment;
use crate::streams::Input;

/// Moves frames until the output or the client has ended.
pub(super) async fn run(socket: WebSocket, attachment: Attachment) {
    let (mut sink, source) = socket.split();
    let Attachment {
        before,
        mut output,
        input,
        close_input,
        detach,
        ..
    } = attachment;
    let (keys, told) = detach.unzip();
    let mut reading = tokio::spawn(read(source, input, close_input, keys));
    let sending = async {
        if let Some(mut before) = before {
            while let Some(piece) = before.recv().await {
                send(&mut sink, piece).await?;
            }
        }
        while let Some(chunk) = output.recv().await {
            send(&mut sink, chunk.data).await?;
        }
        Ok::<_, axum::Error>(())
    };
    // The end of the client's input is no end of its interest, but that of its connection is.
    let left = tokio::select! {
        _ = sending => false,
        ended = &mut reading => ended.unwrap_or(false),
    };
    if let (true, Some(told)) = (left, told) {
        told();
    }
    reading.abort();
    let _ = sink.send(Message::Close(None)).await;
}

async fn send(sink: &mut SplitSink<WebSocket, Message>, data: Bytes) -> Result<(), axum::Error> {
    sink.send(Message::Binary(data)).await
}

/// Passes input on until the client closes; `true`: it has pressed the keys to leave.
async fn read(
    mut source: SplitStream<WebSocket>,
    input: Option<mpsc::Sender<Input>>,
    close: bool,
    mut keys: Option<DetachKeys>,
) -> bool {
    while let Some(Ok(message)) = source.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let Some(input) = &input else { continue };
        let (data, left) = match &mut keys {
            Some(keys) => keys.pass(&data),
            None => (data.to_vec(), false),
        };
        if !data.is_empty() && input.send(Input::Data(data.into())).await.is_err() {
            break;
        }
        if left {
            return true;
        }
    }
    if let Some(input) = input.filter(|_| close) {
        let _ = input.send(Input::Close).await;
    }
    false
}
