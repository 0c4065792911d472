//! The streams of a process: this program's own, or a terminal for whoever listens at a console
//! socket.

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use rustix::pty::OpenptFlags;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{tcgetattr, tcsetattr, tcsetwinsize, OptionalActions, Termios, Winsize};

use super::client::Streams;
use super::error::{io_error, system, Result, RuntimeError};
use super::inherited::Preserved;
use crate::handover::{Handover, Listener, Stream};
use crate::holder::{self, HolderConfig, Network};
use crate::private;
use crate::report::chain;

/// A size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: u32,
    pub(super) height: u32,
}

/// How a process's streams shall be.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// The process has a terminal.
    pub(super) terminal: bool,
    /// Who takes its master.
    pub(super) console_socket: Option<PathBuf>,
    /// This program ends before the process.
    pub(super) detached: bool,
    /// First size of the terminal.
    pub(super) size: Option<Size>,
    /// The group of an exec, below the container's own.
    pub(super) sub_cgroup: String,
}

impl Wanted {
    /// runc's rules.
    pub(super) fn check(&self) -> Result<()> {
        let refused = |text: &str| Err(RuntimeError::Usage(text.to_owned()));
        match (self.detached && self.terminal, &self.console_socket) {
            (true, None) => refused(
                "cannot allocate tty if hull-runtime will detach without setting console socket",
            ),
            (false, Some(_)) => {
                refused("cannot use console socket if hull-runtime will not detach or allocate tty")
            }
            _ => Ok(()),
        }
    }

    /// Prepares the streams and the holder; the shim takes them when it is told their address.
    pub(super) fn open(
        &self,
        exec_root: &Path,
        place: Place,
        preserved: Preserved,
        cgroup: Option<OwnedFd>,
    ) -> Result<Offer> {
        let mut fds = match &self.console_socket {
            Some(socket) => vec![(Stream::Terminal, self.terminal(socket)?)],
            None => own_streams()?,
        };
        let terminal = match fds.first() {
            Some((Stream::Terminal, terminal)) => Some(terminal.try_clone()),
            _ => None,
        };
        let terminal = terminal
            .transpose()
            .map_err(system("hand over the terminal"))?;
        let config = HolderConfig {
            arguments: place.arguments,
            network: place.network,
            root: place.root.filter(|root| root.is_dir()),
            terminal,
        };
        let (holder, link) =
            holder::spawn(config).map_err(|error| RuntimeError::Shim(chain(&error)))?;
        fds.push((Stream::Holder, link));
        fds.extend(cgroup.map(|door| (Stream::Cgroup, door)));
        let of_process = preserved.fds.into_iter();
        fds.extend(of_process.map(|(direction, fd)| (Stream::Preserved(direction), fd)));
        let handover = Handover {
            fds,
            listen_fds: preserved.listen_fds,
            sub_cgroup: self.sub_cgroup.clone(),
            // This program's own output: a terminal there makes the carriage returns itself.
            plain_newlines: self.terminal && self.console_socket.is_none(),
        };
        Offer::new(exec_root, handover, self.terminal, holder)
    }

    /// A new terminal: its master goes to the socket, its slave is returned.
    fn terminal(&self, socket: &Path) -> Result<OwnedFd> {
        let connected = dial(socket)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).map_err(system("make a terminal"))?;
        rustix::pty::unlockpt(&master).map_err(system("make a terminal"))?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags);
        let slave = slave.map_err(system("make a terminal"))?;
        // The line discipline that counts is the guest's.
        set_raw(slave.as_fd(), Output::Raw)?;
        if let Some(size) = self.size {
            set_size(&master, size)?;
        }
        let sent = send_descriptor(&connected, b"/dev/ptmx", master.as_fd());
        sent.map_err(io_error("send the terminal to", socket))?;
        Ok(slave)
    }
}

fn dial(socket: &Path) -> Result<UnixStream> {
    let connected = UnixStream::connect(socket);
    connected.map_err(|error| RuntimeError::Usage(dial_error(socket, &error)))
}

/// Go's words, which runc prints.
fn dial_error(socket: &Path, error: &std::io::Error) -> String {
    let text = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    };
    format!("dial unix {}: connect: {text}", socket.display())
}

fn set_size(master: &OwnedFd, size: Size) -> Result<()> {
    let bounded = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: bounded(size.height),
        ws_col: bounded(size.width),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).map_err(system("set the terminal's size"))
}

/// runc's protocol: the descriptor beside its name.
fn send_descriptor(socket: &UnixStream, name: &[u8], fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let name = [IoSlice::new(name)];
    rustix::net::sendmsg(socket, &name, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sends a descriptor of the process on the host that `pid` names to whoever listens at `socket`.
pub(super) fn send_pidfd(socket: &Path, pid: u32) -> Result<()> {
    let connected = dial(socket)?;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| RuntimeError::Shim("the shim named no PID".into()))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(system("open the process"))?;
    let sent = send_descriptor(&connected, b"pidfd", pidfd.as_fd());
    sent.map_err(io_error("send the pidfd to", socket))
}

/// What is open of this program's streams.
fn own_streams() -> Result<Vec<(Stream, OwnedFd)>> {
    let own = [
        (Stream::Stdin, stdin()),
        (Stream::Stdout, stdout()),
        (Stream::Stderr, stderr()),
    ];
    let mut fds = Vec::new();
    for (stream, fd) in own {
        let fd = fd.try_clone_to_owned();
        fds.push((
            stream,
            fd.map_err(system("hand over the standard streams"))?,
        ));
    }
    Ok(fds)
}

/// Where a process is on the host.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// What it executes.
    pub(super) arguments: Vec<String>,
    pub(super) network: Network,
    /// Its root, if that is a directory.
    pub(super) root: Option<PathBuf>,
}

/// Streams and a holder that wait for the shim.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) streams: Streams,
    path: PathBuf,
    /// A child of this program, so that it is a child of whoever started this program when it has
    /// ended: conmon and containerd wait for it.
    holder: Option<Child>,
}

impl Offer {
    fn new(exec_root: &Path, handover: Handover, terminal: bool, holder: Child) -> Result<Self> {
        let directory = exec_root.join("handover");
        let made = private::directory(&directory);
        made.map_err(io_error("make", &directory))?;
        let path = directory.join(random_name()?);
        let listener = Listener::bind(path.clone()).map_err(io_error("listen on", &path))?;
        let streams = Streams {
            address: listener.address(),
            terminal,
        };
        // It ends when the shim has come, or with this program.
        std::thread::spawn(move || listener.serve(&handover));
        Ok(Self {
            streams,
            path,
            holder: Some(holder),
        })
    }

    /// PID of the holder.
    pub(super) fn holder_pid(&self) -> Option<u32> {
        self.holder.as_ref().map(Child::id)
    }

    /// Leaves the holder to whoever reaps orphans: this program ends first.
    pub(super) fn leave(mut self) {
        self.holder = None;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(mut holder) = self.holder.take() {
            // Its process has ended, or never began.
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// 16 hexadecimal digits.
pub(super) fn random_name() -> Result<String> {
    let number = getrandom::u64().map_err(|error| RuntimeError::System {
        action: "get random bytes",
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(format!("{number:016x}"))
}

/// What becomes of a raw terminal's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Raw,
    AsBefore,
}

fn set_raw(terminal: BorrowedFd<'_>, output: Output) -> Result<Termios> {
    let before = tcgetattr(terminal).map_err(system("read the terminal's mode"))?;
    let mut raw = before.clone();
    raw.make_raw();
    if output == Output::AsBefore {
        raw.output_modes = before.output_modes;
    }
    tcsetattr(terminal, OptionalActions::Now, &raw).map_err(system("set the terminal's mode"))?;
    Ok(before)
}

/// This program's own terminal in raw mode, until dropped. Its output is still processed: the guest's
/// terminal leaves line feeds as they are.
#[derive(Debug)]
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// `None` where standard input is no terminal.
    pub(super) fn enter() -> Result<Option<Self>> {
        if !rustix::termios::isatty(stdin()) {
            return Ok(None);
        }
        set_raw(stdin(), Output::AsBefore).map(|before| Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// The size of this program's own terminal: of the first stream that is one.
pub(super) fn own_size() -> Option<Size> {
    let mut sizes = [stderr(), stdout(), stdin()]
        .into_iter()
        .map(rustix::termios::tcgetwinsize);
    let size = sizes.find_map(std::result::Result::ok)?;
    Some(Size {
        width: size.ws_col.into(),
        height: size.ws_row.into(),
    })
}

/// Writes the PID, whole or not at all, as runc does.
pub(super) fn write_pid_file(path: &Path, pid: u32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        write!(file, "{pid}")?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(io_error("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(terminal: bool, detached: bool, socket: bool) -> Result<()> {
        Wanted {
            terminal,
            console_socket: socket.then(|| "/nonexistent/socket".into()),
            detached,
            ..Wanted::default()
        }
        .check()
    }

    #[test]
    fn a_console_socket_goes_with_a_detached_terminal_only() {
        assert!(check(true, true, true).is_ok());
        assert!(check(false, true, false).is_ok());
        assert!(check(true, false, false).is_ok());
        assert!(check(true, true, false).is_err());
        assert!(check(false, true, true).is_err());
        assert!(check(true, false, true).is_err());
    }

    #[test]
    fn a_console_socket_that_is_not_there_is_named_in_runcs_words() {
        let wanted = Wanted {
            terminal: true,
            console_socket: Some("/nonexistent/socket".into()),
            detached: true,
            ..Wanted::default()
        };
        let root = tempfile::tempdir().unwrap();
        let error = wanted
            .open(root.path(), Place::default(), Preserved::default(), None)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "dial unix /nonexistent/socket: connect: no such file or directory"
        );
    }

    #[test]
    fn a_pid_file_has_the_number_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        write_pid_file(&path, 42).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "42");
        assert!(write_pid_file(&directory.path().join("x/y"), 1).is_err());
    }
}
