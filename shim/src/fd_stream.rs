//! Descriptors that another process handed over, as streams.
//!
//! The open file description behind such a descriptor is shared with whoever else has it: making
//! it non-blocking would make it so for them too. So a FIFO and a terminal are opened anew, a
//! socket is asked not to wait call by call, and what can't be waited for (a regular file,
//! `/dev/null`) is read and written on threads.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::termios::isatty;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use crate::stdio::{Input, Output};
use crate::sys;

/// A descriptor to read from.
pub(crate) fn input(fd: OwnedFd) -> io::Result<Input> {
    let file = File::from(fd);
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() {
        let own = reopen(&file, OpenOptions::new().read(true))?;
        return Ok(Box::new(pipe::Receiver::from_file(own)?));
    }
    if kind.is_socket() {
        return Ok(Box::new(Socket::new(file.into())?));
    }
    if is_terminal(&file) {
        let own = reopen(&file, OpenOptions::new().read(true))?;
        return Ok(Box::new(Terminal::new(own.into())?));
    }
    Ok(Box::new(tokio::fs::File::from_std(file)))
}

/// A descriptor to write to.
pub(crate) fn output(fd: OwnedFd) -> io::Result<Output> {
    let file = File::from(fd);
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() {
        let own = reopen(&file, OpenOptions::new().write(true))?;
        return Ok(Box::new(pipe::Sender::from_file(own)?));
    }
    if kind.is_socket() {
        return Ok(Box::new(Socket::new(file.into())?));
    }
    if is_terminal(&file) {
        let own = reopen(&file, OpenOptions::new().write(true))?;
        return Ok(Box::new(Terminal::new(own.into())?));
    }
    Ok(Box::new(tokio::fs::File::from_std(file)))
}

/// A terminal that can be opened anew: opening the multiplexer (5:2) would make another terminal.
fn is_terminal(file: &File) -> bool {
    let is_multiplexer = rustix::fs::fstat(file).is_ok_and(|stat| {
        (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        ) == (5, 2)
    });
    !is_multiplexer && isatty(file)
}

fn reopen(file: &File, options: &mut OpenOptions) -> io::Result<File> {
    options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A terminal, opened non-blocking.
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(sys::async_fd(fd)?))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        poll_read(&self.0, context, buffer, |fd, unfilled| {
            match rustix::io::read(fd, unfilled) {
                // The other side of the terminal is closed.
                Err(rustix::io::Errno::IO) => Ok(0),
                read => Ok(read?),
            }
        })
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_write(&self.0, context, |fd| Ok(rustix::io::write(fd, bytes)?))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connected socket, in whatever mode its other owners have set.
struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(sys::async_fd(fd)?))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        poll_read(&self.0, context, buffer, |fd, unfilled| {
            let (length, _) = rustix::net::recv(fd, unfilled, RecvFlags::DONTWAIT)?;
            Ok(length)
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_write(&self.0, context, |fd| {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            Ok(rustix::net::send(fd, bytes, flags)?)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = rustix::net::shutdown(self.0.get_ref(), Shutdown::Write);
        Poll::Ready(shut.map_err(io::Error::from))
    }
}

fn poll_read(
    fd: &AsyncFd<OwnedFd>,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    read: impl Fn(&OwnedFd, &mut [u8]) -> io::Result<usize>,
) -> Poll<io::Result<()>> {
    loop {
        let mut guard = ready!(fd.poll_read_ready(context))?;
        let unfilled = buffer.initialize_unfilled();
        match guard.try_io(|fd| read(fd.get_ref(), unfilled)) {
            Ok(Ok(length)) => {
                buffer.advance(length);
                return Poll::Ready(Ok(()));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Poll::Ready(Err(error)),
            Err(_would_block) => {}
        }
    }
}

fn poll_write(
    fd: &AsyncFd<OwnedFd>,
    context: &mut Context<'_>,
    write: impl Fn(&OwnedFd) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(fd.poll_write_ready(context))?;
        match guard.try_io(|fd| write(fd.get_ref())) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(written) => return Poll::Ready(written),
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn is_nonblocking(fd: &OwnedFd) -> bool {
        let flags = rustix::fs::fcntl_getfl(fd).unwrap();
        flags.contains(rustix::fs::OFlags::NONBLOCK)
    }

    #[tokio::test]
    async fn a_pipe_carries_bytes_and_stays_blocking_for_its_owner() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut out = output(writer.try_clone().unwrap()).unwrap();
        out.write_all(b"hello").await.unwrap();
        assert!(!is_nonblocking(&writer));
        drop((out, writer));
        let mut text = String::new();
        let mut stream = input(reader).unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn a_socket_carries_bytes_and_stays_blocking_for_its_owner() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let mut out = output(theirs.try_clone().unwrap()).unwrap();
        out.write_all(b"hello").await.unwrap();
        out.shutdown().await.unwrap();
        assert!(!is_nonblocking(&theirs));
        let mut text = String::new();
        let mut stream = input(ours.into()).unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn a_regular_file_is_continued_where_its_owner_was() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"before ").unwrap();
        let mut out = output(file.try_clone().unwrap().into()).unwrap();
        out.write_all(b"after").await.unwrap();
        out.flush().await.unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut text = String::new();
        let mut stream = input(file.into()).unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "before after");
    }

    #[tokio::test]
    async fn a_terminal_whose_other_side_closes_reads_to_its_end() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut stream = input(slave).unwrap();
        rustix::io::write(&master, b"line\n").unwrap();
        let mut line = [0; 5];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"line\n");
        drop(master);
        assert_eq!(stream.read(&mut line).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn dev_null_is_empty() {
        let null = File::open("/dev/null").unwrap();
        let mut text = String::new();
        let mut stream = input(null.into()).unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "");
    }
}
