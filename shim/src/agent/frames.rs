//! The connection to the agent, with a bound on each answer: ttrpc's own, 4 MiB, is a hundred times as much
//! once it is decoded.

use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest answer, in bytes: a list of thousands of processes. The agent keeps its own below that.
pub(super) const MAX_ANSWER: u32 = 1 << 20;
/// Length (big endian), stream, kind, flags.
const HEADER_BYTES: usize = 10;

/// A connection whose other end may send anything.
pub(super) struct Frames<S> {
    stream: S,
    place: Place,
}

/// Where in its frames the stream stands.
#[derive(Debug, Default)]
struct Place {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that are there.
    have: usize,
    /// Bytes of the body that are still to come.
    body: u32,
}

impl<S> Frames<S> {
    pub(super) fn new(stream: S) -> Self {
        let place = Place::default();
        Self { stream, place }
    }
}

impl Place {
    /// Goes over bytes that came.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = match self.body {
                0 => self.pass_header(bytes)?,
                _ => self.pass_body(bytes),
            };
        }
        Ok(())
    }

    fn pass_body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let there = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let count = there.min(self.body);
        self.body -= count;
        bytes.get(count as usize..).unwrap_or_default()
    }

    fn pass_header<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        let rest = self.header.get_mut(self.have..).unwrap_or_default();
        let count = bytes.len().min(rest.len());
        let (now, later) = bytes.split_at(count);
        rest.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
        self.have += count;
        if self.have == HEADER_BYTES {
            self.have = 0;
            let [a, b, c, d, ..] = self.header;
            self.body = u32::from_be_bytes([a, b, c, d]);
            if MAX_ANSWER < self.body {
                let text = format!(
                    "the agent's answer has {} bytes: at most {MAX_ANSWER} are taken",
                    self.body
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(later)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(self.place.pass(came))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u32, there: usize) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([0; 6]);
        bytes.resize(HEADER_BYTES + there, 0xff);
        bytes
    }

    #[test]
    fn frames_may_come_in_pieces_of_any_size() {
        let mut stream = Vec::new();
        for length in [0u32, 1, 9, 10, 11, 300] {
            stream.extend(frame(length, length as usize));
        }
        let is_whole = |place: &Place| place.have == 0 && place.body == 0;
        for size in 1..=stream.len() {
            let mut place = Place::default();
            stream
                .chunks(size)
                .for_each(|piece| place.pass(piece).unwrap());
            assert!(is_whole(&place), "{size}");
        }
    }

    #[test]
    fn an_answer_beyond_the_bound_ends_the_connection() {
        Place::default().pass(&frame(MAX_ANSWER, 0)).unwrap();
        for length in [MAX_ANSWER + 1, u32::MAX] {
            let mut place = Place::default();
            // The one before it is as it should be.
            place.pass(&frame(5, 5)).unwrap();
            let bytes = frame(length, 0);
            let (first, last) = bytes.split_at(HEADER_BYTES - 1);
            place.pass(first).unwrap();
            let error = place.pass(last).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
