use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{open, openat, readlinkat, OFlag};
use nix::sys::stat::{fstatat, Mode, SFlag};

use super::error::Attempt;
use super::JailError;

/// The namespaces that the jail makes, by their name in `/proc/self/ns`.
pub(super) const NAMESPACES: [&str; 6] = ["user", "mnt", "net", "ipc", "uts", "cgroup"];

/// This process in the host's `/proc`: opened before the root changes, closed before
/// [`super::enter`] returns, as it is a way out of the empty root.
pub(super) struct HostView {
    proc_self: OwnedFd,
    namespaces: [String; NAMESPACES.len()],
    parent: u64,
}

impl HostView {
    pub(super) fn open() -> Result<Self, JailError> {
        let proc_self = open(
            "/proc/self",
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .attempt("open /proc/self (is /proc mounted?)")?;
        let mut view = Self {
            proc_self,
            namespaces: Default::default(),
            parent: 0,
        };
        view.namespaces = view.read_namespaces()?;
        view.parent = view.status_number("PPid")?;
        Ok(view)
    }

    /// Refuses a second thread and open directories, neither of which the jail would hold.
    pub(super) fn refuse_unsafe_start(&self) -> Result<(), JailError> {
        let threads = self.status_number("Threads")?;
        if threads != 1 {
            return Err(JailError::Threads { threads });
        }
        let mut list = Dir::openat(
            &self.proc_self,
            "fd",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .attempt("list the open descriptors")?;
        let own = [self.proc_self.as_raw_fd(), list.as_raw_fd()];
        let numbers: Vec<i32> = list
            .iter()
            .filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok())
            .filter(|fd| !own.contains(fd))
            .collect();
        for fd in numbers {
            let name = format!("fd/{fd}");
            let stat = fstatat(&self.proc_self, name.as_str(), nix::fcntl::AtFlags::empty())
                .attempt("look at an open descriptor")?;
            if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
                let path = readlinkat(&self.proc_self, name.as_str())
                    .attempt("look at an open descriptor")?;
                return Err(JailError::DirectoryOpen {
                    fd,
                    path: path.to_string_lossy().into_owned(),
                });
            }
        }
        Ok(())
    }

    /// Refuses to go on where the parent has ended since [`HostView::open`]. An end before that
    /// shows as end-of-file on the control socket.
    pub(super) fn refuse_orphan(&self) -> Result<(), JailError> {
        if self.status_number("PPid")? == self.parent {
            Ok(())
        } else {
            Err(JailError::ParentGone)
        }
    }

    /// Identities of the namespaces before the jail, in the order of [`NAMESPACES`].
    pub(super) fn namespaces_before(&self) -> &[String; NAMESPACES.len()] {
        &self.namespaces
    }

    /// Identities of the namespaces now.
    pub(super) fn read_namespaces(&self) -> Result<[String; NAMESPACES.len()], JailError> {
        let mut links: [String; NAMESPACES.len()] = Default::default();
        for (name, link) in NAMESPACES.iter().zip(&mut links) {
            *link = readlinkat(&self.proc_self, format!("ns/{name}").as_str())
                .attempt("read /proc/self/ns")?
                .to_string_lossy()
                .into_owned();
        }
        Ok(links)
    }

    /// A line of `/proc/self/status`, without its name.
    pub(super) fn status(&self, field: &str) -> Result<String, JailError> {
        self.read("status")?
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .ok_or_else(|| io::Error::from(Errno::ENODATA))
            .attempt("find a field of /proc/self/status")
    }

    fn status_number(&self, field: &str) -> Result<u64, JailError> {
        self.status(field)?
            .parse()
            .map_err(io::Error::other)
            .attempt("read a number of /proc/self/status")
    }

    /// The whole of a file of `/proc/self`.
    pub(super) fn read(&self, name: &str) -> Result<String, JailError> {
        let mut text = String::new();
        self.file(name, OFlag::O_RDONLY)
            .and_then(|mut file| file.read_to_string(&mut text))
            .attempt("read a file of /proc/self")?;
        Ok(text)
    }

    /// Writes a file of `/proc/self` in one go.
    pub(super) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        self.file(name, OFlag::O_WRONLY)?.write_all(text.as_bytes())
    }

    fn file(&self, name: &str, access: OFlag) -> io::Result<File> {
        let fd = openat(
            &self.proc_self,
            name,
            access | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(File::from(fd))
    }
}
