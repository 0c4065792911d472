//! A stream of bytes, uncompressed: how it begins tells what it is compressed with, if it is.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::transfer;
use crate::decompress;

const PIECE: usize = 64 << 10;
/// Pieces that wait for the reader.
const QUEUE: usize = 4;

/// `input` uncompressed, once it has begun. What can't be decompressed, and what `input` fails with
/// later, is an error of the result.
pub async fn decompressed(
    mut input: impl AsyncRead + Send + Unpin + 'static,
) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    let mut head = Vec::with_capacity(decompress::MAGIC_BYTES);
    let limit = decompress::MAGIC_BYTES as u64;
    (&mut input).take(limit).read_to_end(&mut head).await?;
    let plain = !decompress::is_compressed(&head);
    let input = tokio::io::AsyncReadExt::chain(io::Cursor::new(head), input);
    if plain {
        return Ok(Box::new(input));
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let runtime = Handle::current();
    tokio::spawn(transfer(move || {
        if let Err(error) = pump(Blocking { input, runtime }, &sender) {
            let _ = sender.blocking_send(Err(error));
        }
    }));
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    Ok(Box::new(StreamReader::new(Box::pin(pieces))))
}

/// Reads on a thread that may wait.
struct Blocking<R> {
    input: R,
    runtime: Handle,
}

impl<R: AsyncRead + Unpin> Read for Blocking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.input.read(buffer))
    }
}

fn pump(
    input: impl Read + Send + 'static,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let (mut reader, state) = decompress::open(Box::new(input))?;
    let mut buffer = vec![0; PIECE];
    loop {
        let read = reader.read(&mut buffer);
        // How reading failed says more than what became of it.
        let read = read.map_err(|error| state.failure.borrow_mut().take().unwrap_or(error))?;
        let piece = Bytes::copy_from_slice(&buffer[..read]);
        if read == 0 || sender.blocking_send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn read(input: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        let mut reader = decompressed(io::Cursor::new(input)).await?;
        reader.read_to_end(&mut output).await.map(|_| output)
    }

    #[tokio::test]
    async fn gzip_and_plain_are_read_and_damage_is_an_error() {
        let text = b"some bytes, many times ".repeat(10_000);
        assert_eq!(read(text.clone()).await.unwrap(), text);
        for short in ["", "x", "xyz"] {
            assert_eq!(read(short.into()).await.unwrap(), short.as_bytes());
        }
        for head in [&b"\xfd7zXZ\0\0\x04...."[..], b"BZh91AY&SY..."] {
            assert!(read(head.to_vec()).await.is_err());
        }
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&text).unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(read(packed.clone()).await.unwrap(), text);
        assert!(read(packed[..packed.len() / 2].to_vec()).await.is_err());
    }
}
