//! Directories of the host in the guest: virtiofsd and the mounts that it serves.
//!
//! Each sandbox that shares anything has one virtiofsd, and one thread that owns its mounts. The
//! thread leaves the host's mount namespace, so nothing that it mounts is seen by others or
//! outlives it; virtiofsd is its child, and ends with it. Shares can be added at any time: a copy of
//! the host's mounts is taken in the host's namespace, which has what was mounted since, and the
//! directory that virtiofsd serves passes new mounts on to virtiofsd's own namespace. What is shared
//! several times is mounted once (`places.rs`): further names of it are symbolic links.

mod log;
mod mounts;
mod places;
mod served;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{mount_change, MountPropagationFlags};
use rustix::process::{getrlimit, pidfd_open, Pid, PidfdFlags, Resource};
use tokio::sync::oneshot;

use self::mounts::{make_root, take, Taken};
use self::served::Served;
use crate::lower::Share;
use crate::oom_score::OomScore;
use crate::sys;
use crate::user_namespace::{self, IdMaps};
use crate::watch::Shared;

/// `trusted.*` attributes of guests are `user.virtiofs.trusted.*` on the host, where virtiofsd may not set
/// them as they are, and no guest sees or sets those by that name. Overlay file systems keep their state
/// in them: with these a shared directory can be an upper one, as who runs an engine in a container wants.
const XATTR_MAP: &str =
    ":prefix:all:trusted.:user.virtiofs.::bad:server::trusted.::bad:client:user.virtiofs.:::ok:all:::";

/// Directory, in a sandbox's runtime directory, that virtiofsd serves.
const DIRECTORY: &str = "share";
/// Socket on which virtiofsd is met once.
const SOCKET: &str = "virtiofsd.sock";
/// What virtiofsd has to say.
const LOG: &str = "virtiofsd.log";
/// What a file costs a guest's kernel that remembers it, at least.
const NODE_BYTES: u64 = 1 << 10;
/// Files that virtiofsd may have open at least, and as many as it asks for by itself.
const MIN_FILES: u64 = 1 << 17;
const MAX_FILES: u64 = 1_000_000;
/// How long virtiofsd has to end by itself once its VM has.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How long virtiofsd may take for an answer to the VMM while the VM runs.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Why a directory can't be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// What is to be shared is not there.
    #[error("failed to share {path:?} with the container")]
    Source {
        /// The path on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of it is not there.
    #[error("cannot access path {path:?}")]
    Within {
        /// The path on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of it is elsewhere.
    #[error("path concatenation escapes the base directory, base: {base:?}, subpath: {within:?}")]
    Escapes {
        /// What is shared a part of.
        base: PathBuf,
        /// The part.
        within: PathBuf,
    },
    /// Ids can't be mapped.
    #[error("failed to map the ids of {path:?}: its file system may not be able to")]
    IdMapped {
        /// What was to be shared.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A mount that is made for the container.
    #[error("failed to mount a file system for the container ({kind}, {options:?})")]
    Rootfs {
        /// Type of the mount.
        kind: String,
        /// Its options.
        options: Vec<String>,
        /// Why.
        source: io::Error,
    },
    /// Something that all shares need.
    #[error("failed to {action}, which sharing host directories needs")]
    Prepare {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// virtiofsd can't be started.
    #[error("failed to start {path:?}, which serves shared directories; install Hull again if it is missing")]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread is gone.
    #[error("the shared directories of this sandbox are gone")]
    Gone,
}

fn prepare(action: &'static str) -> impl FnOnce(io::Error) -> ShareError {
    move |source| ShareError::Prepare { action, source }
}

/// A connection to virtiofsd as a VMM in its jail takes it: an answer that never comes does not
/// hold it for ever.
pub(crate) fn bounded(socket: OwnedFd) -> Result<OwnedFd, ShareError> {
    let stream = UnixStream::from(socket);
    let set = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(ANSWER_LIMIT)));
    set.map_err(prepare("bound the wait for virtiofsd"))?;
    Ok(stream.into())
}

enum Request {
    Attach(
        Share,
        Option<Box<Taken>>,
        oneshot::Sender<Result<(), ShareError>>,
    ),
    Detach(Vec<String>, oneshot::Sender<()>),
    Root(oneshot::Sender<io::Result<OwnedFd>>),
}

/// virtiofsd, and what it is held to.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Memory of the guest that it serves, in bytes.
    pub guest_memory_bytes: u64,
    /// It may make device nodes.
    pub device_nodes: bool,
}

impl Program {
    /// Arguments for these bounds.
    fn bounds(&self, hard_limit: u64) -> Vec<String> {
        let mut arguments = Vec::new();
        // Each file that a guest's kernel remembers is open here.
        let files = (self.guest_memory_bytes / NODE_BYTES).max(MIN_FILES);
        // Above these it has the most that it may, by itself.
        if files < MAX_FILES && files <= hard_limit {
            arguments.push(format!("--rlimit-nofile={files}"));
        }
        if !self.device_nodes {
            arguments.push("--modcaps=-mknod".to_owned());
        }
        arguments
    }
}

/// The shares of a sandbox. Dropping it ends virtiofsd.
#[derive(Debug)]
pub struct ShareServer {
    requests: mpsc::Sender<Request>,
    virtiofsd: u32,
    own_ids: bool,
}

/// A started server.
#[derive(Debug)]
pub struct Started {
    /// The server.
    pub server: ShareServer,
    /// The connection to it, for the VMM.
    pub socket: OwnedFd,
    /// virtiofsd: readable once it has ended.
    pub pidfd: OwnedFd,
}

impl ShareServer {
    /// Starts `virtiofsd` on the shares, with its files in `directory`, in the cgroup behind
    /// `door`; with `id_maps` in a user namespace.
    pub async fn start(
        virtiofsd: &Program,
        directory: &Path,
        shares: &[Share],
        id_maps: Option<&IdMaps>,
        door: Option<OwnedFd>,
    ) -> Result<Started, ShareError> {
        let (requests, receiver) = mpsc::channel();
        let (started_tx, started) = oneshot::channel();
        let (virtiofsd, directory) = (virtiofsd.clone(), directory.to_owned());
        let log = directory.join(LOG);
        let (shares, id_maps) = (shares.to_vec(), id_maps.cloned());
        let own_ids = id_maps.is_some();
        std::thread::Builder::new()
            .name("shares".into())
            .spawn(move || {
                let id_maps = id_maps.as_ref();
                let begun = begin(&virtiofsd, &directory, &shares, id_maps, door.as_ref());
                let (begun, answer) = match begun {
                    Ok((mut child, socket, pidfd, served)) => {
                        let (pid, messages) = (child.id(), child.stderr.take());
                        (Some((child, served)), Ok((socket, pidfd, pid, messages)))
                    }
                    Err(error) => (None, Err(error)),
                };
                let wanted = started_tx.send(answer).is_ok();
                let Some((child, served)) = begun else { return };
                if wanted {
                    serve(served, &receiver);
                }
                end(child);
            })
            .map_err(prepare("start a thread"))?;
        let (socket, pidfd, virtiofsd, messages) =
            started.await.map_err(|_| ShareError::Gone)??;
        if let Some(messages) = messages {
            log::keep(messages.into(), log).map_err(prepare("read virtiofsd's messages"))?;
        }
        Ok(Started {
            server: Self {
                requests,
                virtiofsd,
                own_ids,
            },
            socket,
            pidfd,
        })
    }

    /// Adds a share while the sandbox runs: what the host has at its path now, whether or not the
    /// shares' own namespace was told of it. What is shared already gets one more name.
    pub async fn attach(&self, share: Share) -> Result<(), ShareError> {
        // A file system that does not answer holds a thread of its own.
        let taken = tokio::task::spawn_blocking(move || take(&share).map(|taken| (share, taken)));
        let (share, taken) = taken.await.map_err(|_| ShareError::Gone)??;
        let (done, answer) = oneshot::channel();
        self.requests
            .send(Request::Attach(share, taken.map(Box::new), done))
            .map_err(|_| ShareError::Gone)?;
        answer.await.map_err(|_| ShareError::Gone)?
    }

    /// Removes shares by their names, after the guest has unmounted them. What has no name any more is
    /// not shared any more.
    pub async fn detach(&self, subpaths: Vec<String>) {
        let (done, answer) = oneshot::channel();
        if self.requests.send(Request::Detach(subpaths, done)).is_ok() {
            // A server that is gone shows nothing any more.
            let _ = answer.await;
        }
    }

    /// Tells the host's OOM killer of virtiofsd.
    pub(crate) fn give_oom_score(&self, score: &OomScore) {
        // A child that comes after that has what its parent has.
        score.give([self.virtiofsd]);
        match children_of(self.virtiofsd) {
            Ok(children) => score.give(children.into_iter().flat_map(u32::try_from)),
            Err(error) => tracing::warn!(%error, "the host's OOM killer is not told of virtiofsd"),
        }
    }

    /// What is to be watched for the guest.
    pub(crate) async fn shared(&self) -> Result<Shared, ShareError> {
        // Watches are set with the rights of this process, not with those that virtiofsd has there.
        if self.own_ids {
            let source = io::Error::from(io::ErrorKind::Unsupported);
            return Err(prepare("watch for a container in a user namespace")(source));
        }
        let (done, answer) = oneshot::channel();
        let asked = self.requests.send(Request::Root(done));
        asked.map_err(|_| ShareError::Gone)?;
        let root = answer.await.map_err(|_| ShareError::Gone)?;
        let mut servers = children_of(self.virtiofsd).map_err(prepare("find virtiofsd"))?;
        servers.extend(i32::try_from(self.virtiofsd));
        Ok(Shared {
            root: root.map_err(prepare("open the shared directory"))?,
            servers,
        })
    }
}

fn serve(mut served: Served, requests: &mpsc::Receiver<Request>) {
    // It ends with the last sender.
    while let Ok(request) = requests.recv() {
        match request {
            Request::Attach(share, taken, done) => {
                let attached = served.attach(&share, taken.map(|taken| *taken));
                // Nobody waits for it any more, so nobody will give it back.
                if let Err(Ok(())) = done.send(attached) {
                    served.detach(&share.subpath);
                }
            }
            Request::Detach(subpaths, done) => {
                for subpath in subpaths {
                    served.detach(&subpath);
                }
                let _ = done.send(());
            }
            Request::Root(done) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::open(served.root(), flags, Mode::empty());
                let _ = done.send(opened.map_err(io::Error::from));
            }
        }
    }
}

/// The processes that a process has started: in its jail virtiofsd works in one of its own.
fn children_of(pid: u32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process that ended meanwhile is nobody's child.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name, in brackets, may hold anything.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let parent = after_name.split_whitespace().nth(1);
        if parent.and_then(|parent| parent.parse().ok()) == Some(pid) {
            children.push(child);
        }
    }
    Ok(children)
}

fn end(mut child: Child) {
    // The end of the VMM closed its connection, which ends it.
    let until = Instant::now() + END_LIMIT;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    end_now(&mut child);
}

fn end_now(child: &mut Child) {
    // It may be gone already.
    let _ = child.kill();
    let _ = child.wait();
}

/// On the shares' own thread: mounts, then virtiofsd.
fn begin(
    virtiofsd: &Program,
    directory: &Path,
    shares: &[Share],
    id_maps: Option<&IdMaps>,
    door: Option<&OwnedFd>,
) -> Result<(Child, OwnedFd, OwnedFd, Served), ShareError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|errno| prepare("make a mount namespace")(errno.into()))?;
    // What the host mounts later shows up here; nothing goes the other way.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave)
        .map_err(|errno| prepare("leave the host's mount namespace")(errno.into()))?;
    let root = directory.join(DIRECTORY);
    make_root(&root)?;
    let mut served = Served::new(root);
    for share in shares {
        served.attach(share, take(share)?)?;
    }
    let started = start_virtiofsd(virtiofsd, directory, served.root(), id_maps, door);
    let (child, connection, pidfd) = started?;
    served.is_served_by(child.id());
    Ok((child, connection, pidfd, served))
}

fn start_virtiofsd(
    virtiofsd: &Program,
    directory: &Path,
    root: &Path,
    id_maps: Option<&IdMaps>,
    door: Option<&OwnedFd>,
) -> Result<(Child, OwnedFd, OwnedFd), ShareError> {
    let program = &virtiofsd.path;
    let start = |source| ShareError::Start {
        path: program.clone(),
        source,
    };
    let (listener, connection) = meet(directory).map_err(start)?;
    let hard_limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let (ours, theirs) = UnixStream::pair().map_err(start)?;
    let mut command = match id_maps {
        None => Command::new(program),
        Some(_) => {
            let mut command = Command::new(std::env::current_exe().map_err(start)?);
            command.arg(user_namespace::ARGUMENT).arg(program);
            command
        }
    };
    command
        .arg(format!("--fd={}", listener.as_raw_fd()))
        .arg(format!("--shared-dir={}", root.display()))
        .args(["--sandbox=namespace", "--seccomp=kill"])
        .args(["--cache=auto", "--inode-file-handles=never"])
        .arg(format!("--xattrmap={XATTR_MAP}"))
        .args(["--posix-acl=auto", "--log-level=warn"])
        .args(virtiofsd.bounds(hard_limit))
        .env_clear()
        .current_dir("/")
        .stdin(match id_maps {
            None => Stdio::null(),
            Some(_) => Stdio::from(OwnedFd::from(theirs)),
        })
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let fds = vec![listener.as_raw_fd()];
    sys::hand_over(&mut command, fds, door.map(|door| door.as_raw_fd()));
    let mut child = command.spawn().map_err(start)?;
    // Its end of the link is the child's alone.
    drop(command);
    if let Some(id_maps) = id_maps {
        if let Err(error) = id_maps.write(child.id(), ours) {
            end_now(&mut child);
            return Err(prepare("map the ids of the user namespace")(error));
        }
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| start(io::Error::other("the PID is out of range")))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| start(errno.into()))?;
    Ok((child, connection.into(), pidfd))
}

/// A socket that listens, and the only connection to it.
fn meet(directory: &Path) -> io::Result<(UnixListener, UnixStream)> {
    // By way of a descriptor, since the path of a UNIX socket has at most 107 bytes.
    let opened = File::open(directory)?;
    let socket = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()));
    let listener = UnixListener::bind(&socket)?;
    let connection = UnixStream::connect(&socket);
    // Nobody else is to connect.
    std::fs::remove_file(&socket)?;
    Ok((listener, connection?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtiofsd_is_held_to_what_its_guest_can_use() {
        let program = |mib: u64, device_nodes| Program {
            path: "virtiofsd".into(),
            guest_memory_bytes: mib << 20,
            device_nodes,
        };
        let bounds = program(512, false).bounds(u64::MAX);
        assert_eq!(bounds, ["--rlimit-nofile=524288", "--modcaps=-mknod"]);
        assert_eq!(
            program(48, true).bounds(524_288),
            ["--rlimit-nofile=131072"]
        );
        // It may raise its limit itself, and does with less than what it asks for.
        assert!(program(8 << 10, true).bounds(u64::MAX).is_empty());
        assert!(program(512, true).bounds(1024).is_empty());
    }

    #[test]
    fn children_of_a_process_are_found() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let found = children_of(std::process::id()).unwrap();
        assert!(found.contains(&i32::try_from(child.id()).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(children_of(u32::MAX).unwrap().is_empty());
    }
}
