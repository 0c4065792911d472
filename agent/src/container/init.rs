//! `hull-agent container-init`: the launcher, and the process that it becomes. One thread, and
//! nothing of the agent but its program text.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{mount_change, MountPropagationFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::channel::{self, InitRole, LaunchConfig, Order, Report, Role};
use super::hooks::StartHooks;
use super::mounts::Tree;
use super::plan::{MountPlan, MountWhat, NamespaceChoice};
use super::{devices, mounts, process};
use crate::error::{AgentError, Context, Result};
use crate::files::Job;
use crate::sys::{self, Forked};

/// Where the launcher's own descriptors are: out of the way of those that the process will get.
const OWN_FDS: i32 = 64;

/// Moves a descriptor out of the way.
fn aside(fd: impl AsFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, OWN_FDS)
}

/// Runs the launcher; the agent's socket is the standard input.
pub(crate) fn main() -> std::process::ExitCode {
    let channel = match aside(rustix::stdio::stdin()) {
        Ok(channel) => channel,
        Err(_) => return std::process::ExitCode::FAILURE,
    };
    let Err(error) = launch(&channel) else {
        return std::process::ExitCode::SUCCESS;
    };
    fail(channel.as_fd(), &error);
    std::process::ExitCode::FAILURE
}

fn fail(channel: BorrowedFd<'_>, error: &AgentError) {
    let report = Report::Failed {
        kind: error.kind(),
        text: channel::fitting(error.text()),
    };
    // Nobody else could be told.
    let _ = channel::report(channel, &report, &[]);
}

struct Launch {
    config: LaunchConfig,
    streams: [Option<OwnedFd>; 3],
    preserved: Vec<OwnedFd>,
    /// An exec's target.
    pidfd: Option<OwnedFd>,
    null: OwnedFd,
}

fn receive(channel: &OwnedFd) -> Result<Launch> {
    let failed = || "failed to receive the launch message".to_string();
    let (_, fds) = channel::receive(channel.as_fd()).context(failed)?;
    let mut fds = fds.into_iter();
    let config = fds
        .next()
        .ok_or(io::ErrorKind::UnexpectedEof)
        .context(failed)?;
    // The file's offset is its writer's: at its end.
    rustix::fs::seek(&config, rustix::fs::SeekFrom::Start(0)).context(failed)?;
    let config: LaunchConfig = serde_json::from_reader(io::BufReader::new(fs::File::from(config)))
        .map_err(io::Error::from)
        .context(failed)?;
    let streams = config
        .stdio
        .map(|there| if there { fds.next() } else { None });
    let preserved = fds.by_ref().take(config.preserved);
    let preserved = preserved.map(aside).collect::<rustix::io::Result<_>>();
    let preserved = preserved.context(failed)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .and_then(aside)
        .context(|| "failed to open /dev/null".to_string())?;
    Ok(Launch {
        streams,
        preserved,
        pidfd: fds.next(),
        null,
        config,
    })
}

/// In the launcher: returns once the process is forked. In the process: only with an error.
fn launch(channel: &OwnedFd) -> Result<()> {
    let launch = receive(channel)?;
    process::limits(&launch.config.process)?;
    match &launch.config.role {
        Role::Init(init) => {
            time_namespace(init)?;
            choose(
                &init.plan.namespaces.pid,
                UnshareFlags::NEWPID,
                ThreadNameSpaceType::PROCESS_ID,
            )?;
        }
        Role::Exec => join(launch.pidfd.as_ref())?,
        Role::Files(job) if job.in_container() => join(launch.pidfd.as_ref())?,
        Role::Files(_) => {}
    }
    match sys::fork().context(|| "failed to fork the container's process".to_string())? {
        Forked::Parent(pid) => channel::report(channel.as_fd(), &Report::Forked(pid), &[])
            .context(|| "failed to talk to the agent".to_string()),
        Forked::Child => {
            wait_for_go(channel);
            match become_process(launch, channel) {
                Ok(never) => match never {},
                Err(error) => {
                    fail(channel.as_fd(), &error);
                    std::process::exit(1)
                }
            }
        }
    }
}

fn wait_for_go(channel: &OwnedFd) {
    let mut order = [0; 1];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(channel, &mut order[..]));
    if read != Ok(1) || order[0] != Order::Go as u8 {
        std::process::exit(1);
    }
}

fn become_process(launch: Launch, channel: &OwnedFd) -> Result<std::convert::Infallible> {
    let Launch {
        config,
        streams,
        preserved,
        null,
        pidfd,
    } = launch;
    drop(pidfd);
    rustix::process::setsid().context(|| "failed to start a session".to_string())?;
    let mut own_program = None;
    let mut guest_null = None;
    if let Role::Init(init) = &config.role {
        if init.init {
            own_program = Some(own_program_file()?);
        }
        guest_null = Some(make_container(init)?);
    }
    if config.process.terminal {
        process::standard_streams([None, None, None], &null)?;
        let path = process::terminal(&config.process, channel.as_fd())?;
        if let Role::Init(init) = &config.role {
            show_console(init, &path)?;
        }
    } else {
        process::standard_streams(streams, &null)?;
    }
    drop(null);
    let first_closed = process::preserved(preserved)?;
    if let (Role::Init(init), Some(null)) = (&config.role, &guest_null) {
        process::create_directory(&config.process.cwd)?;
        finish_container(init, null)?;
    }
    drop(guest_null);
    let channel = aside(channel).context(|| "failed to keep the agent's socket".to_string())?;
    match &config.role {
        Role::Files(job) => return work_on_files(job, channel),
        Role::Init(init) if init.files_only => {
            process::announce(&channel)?;
            std::process::exit(0)
        }
        Role::Init(_) | Role::Exec => {}
    }
    let hooks = match &config.role {
        Role::Init(init) => init.plan.start_hooks.clone(),
        Role::Exec | Role::Files(_) => StartHooks::default(),
    };
    process::run(&config.process, &hooks, channel, first_closed, own_program)
}

/// This program, which the container's root does not have.
fn own_program_file() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open("/proc/self/exe", flags, Mode::empty())
        .and_then(aside)
        .context(|| "failed to open the init program".to_string())
}

/// In the process of a job on files: never returns once it has begun.
fn work_on_files(job: &Job, channel: OwnedFd) -> Result<std::convert::Infallible> {
    process::announce(&channel)?;
    // Where a program's execution closes it: the agent takes its end for the start.
    rustix::net::shutdown(&channel, rustix::net::Shutdown::Both)
        .context(|| "failed to leave the agent".to_string())?;
    rustix::process::umask(Mode::empty());
    match job.perform() {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{}: {error}", word(&error));
            std::process::exit(1)
        }
    }
}

/// What kind of error the host is told of.
fn word(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "not-found",
        io::ErrorKind::NotADirectory => "not-a-directory",
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => "invalid",
        io::ErrorKind::ReadOnlyFilesystem => "read-only",
        io::ErrorKind::StorageFull => "full",
        _ => "failed",
    }
}

/// Joins all namespaces of a container's first process.
fn join(pidfd: Option<&OwnedFd>) -> Result<()> {
    let failed = || "failed to join the container's namespaces".to_string();
    let pidfd = pidfd.ok_or(io::ErrorKind::UnexpectedEof).context(failed)?;
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::TIME;
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), all).context(failed)
}

/// Holds for what is forked from here on.
fn time_namespace(init: &InitRole) -> Result<()> {
    choose(
        &init.plan.namespaces.time,
        UnshareFlags::NEWTIME,
        ThreadNameSpaceType::TIME,
    )?;
    for line in &init.plan.time_offsets {
        fs::write("/proc/self/timens_offsets", line)
            .context(|| format!("failed to set the time offset {line:?}"))?;
    }
    Ok(())
}

fn choose(
    choice: &NamespaceChoice,
    fresh: UnshareFlags,
    existing: ThreadNameSpaceType,
) -> Result<()> {
    match choice {
        NamespaceChoice::Shared => Ok(()),
        NamespaceChoice::New => {
            sys::unshare(fresh).context(|| format!("failed to make a namespace ({fresh:?})"))
        }
        NamespaceChoice::Join(path) => {
            let failed = || format!("failed to join the namespace {}", path.display());
            let fd = fs::File::open(path).context(failed)?;
            rustix::thread::move_into_thread_name_spaces(fd.as_fd(), existing).context(failed)
        }
    }
}

/// Namespaces, names, sysctls, root and mounts. Returns the guest's null device, which cannot be opened
/// any more after that.
fn make_container(init: &InitRole) -> Result<Tree> {
    let plan = &init.plan;
    choose(
        &plan.namespaces.uts,
        UnshareFlags::NEWUTS,
        ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
    )?;
    choose(
        &plan.namespaces.ipc,
        UnshareFlags::NEWIPC,
        ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
    )?;
    sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP)
        .context(|| "failed to make the mount and cgroup namespaces".to_string())?;
    names_and_sysctls(init)?;

    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context(|| "failed to make mounts private".to_string())?;
    let trees = mounts::open_sources(&plan.mounts)?;
    let files = init
        .files
        .iter()
        .map(|file| mounts::open_source(&file.source, false))
        .collect::<Result<Vec<_>>>()?;
    let null = mounts::open_source(Path::new("/dev/null"), false)?;
    let dev = Dev::of(&plan.mounts);
    let nodes = match dev {
        Dev::Bound => devices::open_default()?,
        Dev::Mounted | Dev::Bare => Vec::new(),
    };
    mounts::pivot(&init.rootfs)?;
    if has_own_dev(dev)? {
        mounts::own_dev()?;
    }
    mounts::mount_all(&plan.mounts, &trees)?;
    for (file, tree) in init.files.iter().zip(&files) {
        mounts::mount_file(tree, &file.path, file.read_only)?;
    }
    devices::own_terminals()?;
    match dev {
        Dev::Bound => devices::show_default(&nodes)?,
        Dev::Mounted | Dev::Bare => devices::create(&plan.devices)?,
    }
    Ok(null)
}

/// Shows the terminal as the console. In a directory of somebody else's it is not made.
fn show_console(init: &InitRole, terminal: &Path) -> Result<()> {
    let console = Path::new("/dev/console");
    if Dev::of(&init.plan.mounts) == Dev::Bound && !console.exists() {
        return Ok(());
    }
    let terminal = mounts::open_source(terminal, false)?;
    mounts::mount_file(&terminal, console, false)
}

/// Whether the container, which this process is in, has a /dev beside its root: no device node of a shared
/// directory can be opened here.
fn has_own_dev(dev: Dev) -> Result<bool> {
    Ok(dev == Dev::Bare && mounts::is_shared(Path::new("/"))?)
}

/// What a configuration mounts on /dev.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dev {
    /// Nothing: it is the root's directory.
    Bare,
    /// A directory of somebody else's, in which nothing is made.
    Bound,
    /// A file system of its own.
    Mounted,
}

impl Dev {
    fn of(mounts: &[MountPlan]) -> Self {
        let on_dev = |mount: &&MountPlan| mount.destination == Path::new("/dev");
        match mounts.iter().rfind(on_dev).map(|mount| &mount.what) {
            None => Self::Bare,
            Some(MountWhat::Bind { .. }) => Self::Bound,
            Some(MountWhat::FileSystem { .. }) => Self::Mounted,
        }
    }
}

fn names_and_sysctls(init: &InitRole) -> Result<()> {
    let plan = &init.plan;
    if plan.namespaces.uts == NamespaceChoice::New {
        if let Some(name) = &plan.hostname {
            rustix::system::sethostname(name.as_bytes())
                .context(|| format!("failed to set the host name {name:?}"))?;
        }
        if let Some(name) = &plan.domainname {
            rustix::system::setdomainname(name.as_bytes())
                .context(|| format!("failed to set the domain name {name:?}"))?;
        }
    }
    for (key, value) in &plan.sysctl {
        crate::sandbox::write_sysctl(key, value)?;
    }
    Ok(())
}

/// What has to wait until the terminal is bound to /dev/console.
fn finish_container(init: &InitRole, null: &Tree) -> Result<()> {
    let plan = &init.plan;
    mounts::finish(&plan.mounts)?;
    for path in &plan.readonly_paths {
        mounts::readonly(path)?;
    }
    mounts::mask(&plan.masked_paths, null)?;
    if plan.root_readonly {
        mounts::root_readonly()?;
        if has_own_dev(Dev::of(&plan.mounts))? {
            mounts::readonly(Path::new("/dev"))?;
        }
    }
    if let Some(flags) = plan.root_propagation {
        mount_change("/", MountPropagationFlags::from_bits_retain(flags))
            .context(|| "failed to set the propagation of the root mount".to_string())?;
    }
    Ok(())
}
