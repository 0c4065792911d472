//! What virtiofsd has to say. A guest can make it complain without end, so that its first messages are kept
//! and of the others so many are read a second that it goes on.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

/// Bytes that are kept: its reason to end is among the first.
const KEPT_BYTES: usize = 64 << 10;
/// Bytes read at once, and how long nothing is read after the first [`KEPT_BYTES`]: who complains more waits.
const READ_BYTES: usize = 4 << 10;
const REST: Duration = Duration::from_millis(10);

/// Keeps what comes from a pipe in a file, until its other end is closed.
pub(super) fn keep(messages: OwnedFd, path: PathBuf) -> io::Result<()> {
    let messages = Receiver::from_owned_fd(messages)?;
    tokio::spawn(async move {
        if let Err(error) = copy(messages, &path).await {
            tracing::warn!(?path, %error, "virtiofsd's messages are lost");
        }
    });
    Ok(())
}

async fn copy(mut messages: Receiver, path: &std::path::Path) -> io::Result<()> {
    let mut file = crate::private::create(path);
    let (mut buffer, mut left) = ([0; READ_BYTES], KEPT_BYTES);
    loop {
        let count = messages.read(&mut buffer).await?;
        if count == 0 {
            return file.map(drop);
        }
        let kept = buffer.get(..count.min(left)).unwrap_or_default();
        left -= kept.len();
        // A file that takes no more loses messages and nothing else.
        if let Some(Err(error)) = file.as_mut().ok().map(|file| file.write_all(kept)) {
            file = Err(error);
        }
        if left == 0 {
            tokio::time::sleep(REST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn who_complains_without_end_fills_no_disk_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let script = "yes a complaint | head -c 300000 >&2";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let messages = OwnedFd::from(child.stderr.take().unwrap());
        copy(Receiver::from_owned_fd(messages).unwrap(), &path)
            .await
            .unwrap();
        assert!(child.wait().unwrap().success());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), KEPT_BYTES);
        assert!(text.starts_with("a complaint\n"));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_made_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let written = std::thread::spawn(move || writer.write_all(&[b'x'; 200_000]));
        let path = directory.path().join("not/there");
        let copied = copy(Receiver::from_owned_fd(reader.into()).unwrap(), &path).await;
        assert_eq!(copied.unwrap_err().kind(), io::ErrorKind::NotFound);
        written.join().unwrap().unwrap();
    }
}
