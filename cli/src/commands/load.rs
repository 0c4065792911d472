//! `load`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{line, platform};
use crate::client::{Client, RequestBody};
use crate::error::{CliError, Result};
use crate::progress::{self, To};

const CHUNK_BYTES: usize = 256 << 10;

/// `load`
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Archive to read instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Only if the images are for this platform: OS/ARCH[/VARIANT]
    #[arg(long)]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(args: LoadArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let body = match &args.input {
        Some(path) => {
            let failed = CliError::io(format!("cannot open {}", path.display()));
            body_of(tokio::fs::File::open(path).await.map_err(failed)?)
        }
        None if std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
            return Err(CliError::usage(
                "the archive would be read from this terminal: name it with -i, or use a pipe",
            ));
        }
        None => body_of(tokio::io::stdin()),
    };
    let platform = platform::query("platform", args.platform.as_deref())?;
    let path = format!("/images/load?quiet={}&{platform}", args.quiet);
    let to = if args.quiet { To::Quiet } else { To::Stderr };
    for result in progress::show(client.send(Method::POST, &path, body).await?, to).await? {
        line(out, result)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn body_of(reader: impl AsyncRead + Send + Sync + Unpin + 'static) -> RequestBody {
    let frames = stream::try_unfold(reader, |mut reader| async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        let read = reader.read(&mut buffer).await?;
        buffer.truncate(read);
        Ok((read != 0).then(|| (Frame::data(Bytes::from(buffer)), reader)))
    });
    // `BoxBody` has to be `Sync`, which this stream's future is not known to be; a lock makes it.
    StreamBody::new(SyncStream(std::sync::Mutex::new(Box::pin(frames)))).boxed()
}

type Frames = std::pin::Pin<Box<dyn stream::Stream<Item = std::io::Result<Frame<Bytes>>> + Send>>;

struct SyncStream(std::sync::Mutex<Frames>);

impl stream::Stream for SyncStream {
    type Item = std::io::Result<Frame<Bytes>>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let frames = self
            .get_mut()
            .0
            .get_mut()
            .unwrap_or_else(|poison| poison.into_inner());
        frames.as_mut().poll_next(context)
    }
}
