//! Copying between the user's terminal or pipes and an attached stream.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::Response;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::client::{broken, is_multiplexed};
use crate::error::{CliError, Result};
use crate::terminal::DetachKeys;

/// Length of a frame's head: stream number, three zeros, length of the data (big endian).
const HEAD_BYTES: usize = 8;
const BUFFER_BYTES: usize = 64 << 10;

/// How the copying ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The other side closed its output.
    Output,
    /// The user typed the detach keys.
    Detached,
}

/// An attached stream's two directions.
pub(crate) struct Attached {
    stream: TokioIo<Upgraded>,
    multiplexed: bool,
}

impl Attached {
    pub(crate) fn new(upgraded: Upgraded, multiplexed: bool) -> Self {
        Self {
            stream: TokioIo::new(upgraded),
            multiplexed,
        }
    }

    /// Copies until the output ends or the user detaches. With `stdin`, input is copied as well and
    /// its end is passed on; the output goes on after that.
    pub(crate) async fn copy(self, stdin: bool, detach: Option<DetachKeys>) -> Result<Ended> {
        let (output, mut input) = tokio::io::split(self.stream);
        let writing = copy_output(output, self.multiplexed);
        if !stdin {
            // Held, not closed: the process did not ask for an end of its stdin.
            writing.await?;
            drop(input);
            return Ok(Ended::Output);
        }
        let reading = async move {
            let detached = copy_input(tokio::io::stdin(), &mut input, detach).await;
            (detached, input)
        };
        tokio::pin!(writing, reading);
        tokio::select! {
            done = &mut writing => done.map(|()| Ended::Output),
            (detached, _input) = &mut reading => {
                if detached {
                    return Ok(Ended::Detached);
                }
                writing.await.map(|()| Ended::Output)
            }
        }
    }
}

/// Returns whether the user detached. A closed other side ends it quietly: the output says why.
async fn copy_input(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    mut detach: Option<DetachKeys>,
) -> bool {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            let _ = to.shutdown().await;
            return false;
        }
        let (bytes, detached) = match &mut detach {
            Some(keys) => keys.filter(&buffer[..read]),
            None => (buffer[..read].to_vec(), false),
        };
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return false;
        }
        if detached {
            return true;
        }
    }
}

/// Writes the output in an answer's body to this process's stdout and stderr.
pub(crate) async fn copy_body(response: Response<Incoming>) -> Result<()> {
    let mut demux = Demux::new(is_multiplexed(&response));
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            if !demux.write(&data).await? {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn copy_output(mut from: impl AsyncRead + Unpin, multiplexed: bool) -> Result<()> {
    let mut demux = Demux::new(multiplexed);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await.map_err(broken)?;
        if read == 0 || !demux.write(&buffer[..read]).await? {
            return Ok(());
        }
    }
}

/// A piece of one stream.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// Takes frames apart, however they were cut on their way.
struct Demux {
    multiplexed: bool,
    head: Vec<u8>,
    left: usize,
    stdout: tokio::io::Stdout,
    stderr: tokio::io::Stderr,
}

impl Demux {
    fn new(multiplexed: bool) -> Self {
        Self {
            multiplexed,
            head: Vec::with_capacity(HEAD_BYTES),
            left: 0,
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
        }
    }

    /// In their order; what follows of the same stream is one piece, because each is a write.
    fn pieces(&mut self, mut data: &[u8]) -> Vec<Piece> {
        if !self.multiplexed {
            return vec![Piece::Stdout(data.to_vec())];
        }
        let mut pieces: Vec<Piece> = Vec::new();
        while !data.is_empty() {
            if self.left == 0 {
                let wanted = (HEAD_BYTES - self.head.len()).min(data.len());
                self.head.extend_from_slice(&data[..wanted]);
                data = &data[wanted..];
                if let [_, _, _, _, a, b, c, d] = self.head[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    if self.left == 0 {
                        self.head.clear();
                    }
                }
                continue;
            }
            let (now, later) = data.split_at(self.left.min(data.len()));
            match (self.head.first(), pieces.last_mut()) {
                (Some(2), Some(Piece::Stderr(bytes))) => bytes.extend_from_slice(now),
                (Some(2), _) => pieces.push(Piece::Stderr(now.to_vec())),
                (_, Some(Piece::Stdout(bytes))) => bytes.extend_from_slice(now),
                _ => pieces.push(Piece::Stdout(now.to_vec())),
            }
            self.left -= now.len();
            data = later;
            if self.left == 0 {
                self.head.clear();
            }
        }
        pieces
    }

    /// `false`: nobody reads this process's output any more, as with `| head`.
    async fn write(&mut self, data: &[u8]) -> Result<bool> {
        for piece in self.pieces(data) {
            let written = match piece {
                Piece::Stdout(bytes) => write_flushed(&mut self.stdout, &bytes).await,
                Piece::Stderr(bytes) => write_flushed(&mut self.stderr, &bytes).await,
            };
            match written {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(false),
                other => other.map_err(CliError::io("cannot write the output"))?,
            }
        }
        Ok(true)
    }
}

async fn write_flushed(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_follows_of_one_stream_is_one_piece() {
        let mut demux = Demux::new(true);
        let pieces = demux.pieces(
            b"\x01\0\0\0\0\0\0\x02a\n\x01\0\0\0\0\0\0\x02b\n\x02\0\0\0\0\0\0\x01e\x01\0\0\0\0\0\0\x01c",
        );
        assert_eq!(
            pieces,
            [
                Piece::Stdout(b"a\nb\n".to_vec()),
                Piece::Stderr(b"e".to_vec()),
                Piece::Stdout(b"c".to_vec()),
            ]
        );
    }

    #[tokio::test]
    async fn frames_are_taken_apart_wherever_they_are_cut() {
        let mut bytes = Vec::new();
        bytes
            .extend_from_slice(b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x03err");
        for step in 1..bytes.len() {
            let mut demux = Demux::new(true);
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for part in bytes.chunks(step) {
                for piece in demux.pieces(part) {
                    match piece {
                        Piece::Stdout(bytes) => out.extend_from_slice(&bytes),
                        Piece::Stderr(bytes) => err.extend_from_slice(&bytes),
                    }
                }
            }
            assert_eq!(
                (&out[..], &err[..]),
                (&b"out"[..], &b"err"[..]),
                "step {step}"
            );
        }
    }
}
