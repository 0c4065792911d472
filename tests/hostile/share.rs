//! A shared directory with something beside it that no guest may see or change.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::fs::{renameat_with, RenameFlags, CWD};

use crate::attacks::files::CANARY;

/// What virtiofsd may use, in KiB.
const MEMORY_KIB: u64 = 256 << 10;

/// virtiofsd and its directory.
pub(crate) struct Share {
    root: tempfile::TempDir,
    server: Child,
    pub(crate) connection: UnixStream,
    swapper: Swapper,
}

/// Somebody else in the directory, who puts a link in the place of a directory and back.
struct Swapper {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn start(shared: &Path) -> io::Result<Self> {
        let (directory, link) = (shared.join("swap"), shared.join("swapped"));
        fs::create_dir(&directory)?;
        std::os::unix::fs::symlink("..", &link)?;
        let ending = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // The guest may have removed one of them.
                let _ = renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE);
                std::thread::yield_now();
            }
        });
        Ok(Self {
            ending,
            thread: Some(thread),
        })
    }
}

impl Swapper {
    fn end(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.end();
    }
}

impl Share {
    /// Starts virtiofsd on `f`, `d/` and a link to the file beside them; `Err` says why it can't.
    pub(crate) fn start() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("virtiofsd in namespaces needs root".into());
        }
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/libexec/hull/virtiofsd");
        if !program.exists() {
            return Err(format!(
                "no virtiofsd at {program:?}: `make virtiofsd` builds it"
            ));
        }
        Self::with(&program).map_err(|error| format!("virtiofsd does not start: {error}"))
    }

    fn with(program: &Path) -> io::Result<Self> {
        let root = tempfile::tempdir()?;
        let shared = root.path().join("shared");
        fs::create_dir_all(shared.join("d"))?;
        fs::write(shared.join("f"), "of the share")?;
        fs::write(root.path().join("canary"), CANARY)?;
        std::os::unix::fs::symlink("../canary", shared.join("link"))?;
        let swapper = Swapper::start(&shared)?;
        let path = root.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let connection = UnixStream::connect(&path)?;
        fs::remove_file(&path)?;
        let listener = inheritable(listener.into())?;
        let server = Command::new(program)
            .arg(format!("--fd={}", listener.as_raw_fd()))
            .arg(format!("--shared-dir={}", shared.display()))
            .args(["--sandbox=namespace", "--seccomp=kill", "--cache=auto"])
            .args(["--inode-file-handles=never", "--xattr", "--posix-acl=auto"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(root.path().join("log"))?)
            .spawn()?;
        Ok(Self {
            root,
            server,
            connection,
            swapper,
        })
    }

    /// The server lives, if it must, and nothing beside the directory was changed.
    pub(crate) fn check(mut self, must_live: bool) -> Result<(), String> {
        self.swapper.end();
        let ended = self.server.try_wait().map_err(|error| error.to_string())?;
        if let Some(status) = ended.filter(|_| must_live) {
            let log = fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
            return Err(format!("virtiofsd ended with {status}: {log}"));
        }
        let grown = peak_kib(self.server.id());
        if grown.is_some_and(|kib| MEMORY_KIB < kib) {
            return Err(format!("virtiofsd grew to {grown:?} KiB"));
        }
        let canary = fs::read(self.root.path().join("canary"));
        if !canary.is_ok_and(|content| content == CANARY) {
            return Err("the file beside the share was changed".into());
        }
        let mut names: Vec<PathBuf> = fs::read_dir(self.root.path())
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect()
            })
            .map_err(|error| error.to_string())?;
        names.sort();
        let want = ["canary", "log", "shared"].map(|name| self.root.path().join(name));
        match names == want {
            true => Ok(()),
            false => Err(format!("beside the share there is {names:?}")),
        }
    }
}

/// `None`: it has ended.
fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.split_whitespace().next()?.parse().ok()
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// A copy that a child keeps.
fn inheritable(fd: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::dup(&fd)?)
}
