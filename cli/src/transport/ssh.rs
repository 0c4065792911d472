//! A connection through ssh: the streams of `hull system dial-stdio` on the other machine.

use std::ffi::OsString;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::endpoint::SshHost;

/// Longest that ssh may take to reach the machine, in seconds.
const CONNECT_SECONDS: u32 = 30;

/// The streams of an ssh that ends with them.
pub(super) struct SshStream {
    output: ChildStdout,
    /// None once this side has said all.
    input: Option<ChildStdin>,
    _child: Child,
}

/// Starts ssh. What it has to say (a host that it doesn't know, a key that isn't taken) it says itself.
pub(super) fn open(host: &SshHost) -> io::Result<SshStream> {
    let mut child = Command::new("ssh")
        .args(arguments(host))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A Ctrl-C is this program's to pass on, by this very connection.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run ssh: {error}")))?;
    let no_pipe = || io::Error::other("ssh has no pipes");
    Ok(SshStream {
        output: child.stdout.take().ok_or_else(no_pipe)?,
        input: Some(child.stdin.take().ok_or_else(no_pipe)?),
        _child: child,
    })
}

/// The words after `ssh`. Nothing of them reaches a shell there but Hull's own command.
fn arguments(host: &SshHost) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![
        "-o".into(),
        format!("ConnectTimeout={CONNECT_SECONDS}").into(),
    ];
    words.push("-T".into());
    if let Some(user) = &host.user {
        words.extend(["-l".into(), user.into()]);
    }
    if let Some(port) = host.port {
        words.extend(["-p".into(), port.to_string().into()]);
    }
    words.extend(["--".into(), host.host.clone().into(), "hull".into()]);
    if let Some(socket) = &host.socket {
        words.extend([
            "-H".into(),
            quoted(&format!("unix://{}", socket.display())).into(),
        ]);
    }
    words.extend(["system".into(), "dial-stdio".into()]);
    words
}

/// A word as the other machine's shell takes it whole.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl AsyncRead for SshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The end of a pipe is its close.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ssh() {
        let host = SshHost {
            host: "h".to_owned(),
            user: Some("me".to_owned()),
            port: Some(2222),
            socket: Some("/run/it's.sock".into()),
        };
        let words = arguments(&host);
        let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(
            words.join(" "),
            r"-o ConnectTimeout=30 -T -l me -p 2222 -- h hull -H 'unix:///run/it'\''s.sock' system dial-stdio"
        );
    }
}
