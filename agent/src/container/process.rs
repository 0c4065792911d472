//! The last steps of every process, a container's first or an exec: terminal, limits, user,
//! working directory, capabilities, seccomp, and the exec itself.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, Mode, OFlags, CWD};
use rustix::process::{Gid, Uid};
use rustix::termios::{OptionalActions, OutputModes};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::capability::{self, CapabilityPlan};
use super::channel::{self, Order, Report};
use super::hooks::StartHooks;
use super::lookup::{self, Found};
use super::plan::ProcessPlan;
use super::reaper;
use super::resolve;
use super::rlimit;
use super::user::{self, Identity, Wanted};
use crate::error::{AgentError, Context, Kind, Result};
use crate::sys;

/// Longest passwd or group file that is read, in bytes: the image decides what is in them.
const MAX_PASSWD: u64 = 4 << 20;

/// Limits and the score for the OOM killer. Done by the launcher, while /proc is the guest's, and
/// inherited.
pub(super) fn limits(plan: &ProcessPlan) -> Result<()> {
    if let Some(score) = plan.oom_score_adj {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .context(|| format!("failed to set the OOM score adjustment to {score}"))?;
    }
    Ok(())
}

/// Replaces the three standard streams. Without a stream of its own a process has /dev/null.
pub(super) fn standard_streams(fds: [Option<OwnedFd>; 3], null: &OwnedFd) -> Result<()> {
    let [stdin, stdout, stderr] = fds;
    let failed = || "failed to set up the standard streams".to_string();
    rustix::stdio::dup2_stdin(stdin.as_ref().unwrap_or(null)).context(failed)?;
    rustix::stdio::dup2_stdout(stdout.as_ref().unwrap_or(null)).context(failed)?;
    rustix::stdio::dup2_stderr(stderr.as_ref().unwrap_or(null)).context(failed)
}

/// Gives the process its descriptors from 3 on. Returns the first number that is none of them.
pub(super) fn preserved(fds: Vec<OwnedFd>) -> Result<u32> {
    let mut number = 3;
    for fd in fds {
        sys::place(fd, number).context(|| format!("failed to make descriptor {number}"))?;
        number += 1;
    }
    Ok(number)
}

/// Makes a pseudo-terminal in the container's devpts, sends its master to the agent, and makes the
/// other end the controlling terminal and standard streams. Returns its path.
pub(super) fn terminal(plan: &ProcessPlan, channel: BorrowedFd<'_>) -> Result<PathBuf> {
    let failed = || "failed to make a terminal in the container's /dev/pts".to_string();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).context(failed)?;
    rustix::pty::unlockpt(&master).context(failed)?;
    let peer_flags = rustix::pty::OpenptFlags::RDWR
        | rustix::pty::OpenptFlags::NOCTTY
        | rustix::pty::OpenptFlags::CLOEXEC;
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, peer_flags).context(failed)?;
    if let Some((rows, columns)) = plan.console_size {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size).context(failed)?;
    }
    if plan.plain_newlines {
        let mut mode = rustix::termios::tcgetattr(&peer).context(failed)?;
        mode.output_modes.remove(OutputModes::ONLCR);
        rustix::termios::tcsetattr(&peer, OptionalActions::Now, &mode).context(failed)?;
    }
    let name = rustix::pty::ptsname(&master, Vec::new()).context(failed)?;
    channel::report(channel, &Report::Console, &[master.as_fd()]).context(failed)?;
    rustix::process::ioctl_tiocsctty(&peer).context(failed)?;
    rustix::stdio::dup2_stdin(&peer).context(failed)?;
    rustix::stdio::dup2_stdout(&peer).context(failed)?;
    rustix::stdio::dup2_stderr(&peer).context(failed)?;
    Ok(PathBuf::from(name.to_string_lossy().into_owned()))
}

/// Everything from here to the exec, which keeps the descriptors below `first_closed`. Returns only
/// when it fails. `init` is the program that runs the container's, if one does.
pub(super) fn run(
    plan: &ProcessPlan,
    hooks: &StartHooks,
    channel: OwnedFd,
    first_closed: u32,
    init: Option<OwnedFd>,
) -> Result<std::convert::Infallible> {
    let identity = identify(plan)?;
    own_streams(&identity);
    for (resource, soft, hard) in &plan.rlimits {
        sys::set_rlimit(*resource, *soft, *hard).context(|| {
            let name = rlimit::name(*resource);
            format!("failed to set the resource limit {name} to {soft}:{hard}")
        })?;
    }
    rustix::process::umask(Mode::from_raw_mode(plan.umask.unwrap_or(0o022)));
    plan.schedule.apply()?;
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true)
            .context(|| "failed to set no_new_privs".to_string())?;
    } else {
        // Without no_new_privs a filter needs the privileges that end below.
        seccomp(plan)?;
    }
    // Root may enter what the user may not, whatever capabilities the process keeps: an image's
    // WORKDIR may be somebody's own.
    let entered = enter(&plan.cwd);
    become_user(&identity, plan.capabilities.as_ref())?;
    match entered {
        Err(error) if error.kind() == Kind::PermissionDenied => enter(&plan.cwd)?,
        entered => entered?,
    }
    let env = environment(&plan.env, &identity.home);
    let program = lookup::executable(&plan.args[0], &env, inspect)?;
    let path = c_string(program.as_os_str().as_encoded_bytes())?;
    let args = plan
        .args
        .iter()
        .map(|arg| c_string(arg.as_bytes()))
        .collect::<Result<Vec<_>>>()?;
    let variables = env
        .iter()
        .map(|var| c_string(var.as_bytes()))
        .collect::<Result<Vec<_>>>()?;

    announce(&channel)?;
    sys::close_on_exec_from(first_closed);
    sys::reset_signals();
    if plan.no_new_privileges {
        seccomp(plan)?;
    }
    // Under the filter, whose bounds are theirs too.
    hooks.run(&env)?;
    let error = match init {
        None => sys::execve(&path, &args, &variables),
        Some(file) => sys::execve_file(file.as_fd(), &reaper::arguments(&args), &variables),
    };
    // It was started: what is wrong with the program itself is told as its own output, as elsewhere.
    let failure = lookup::exec_failure(&program, &error);
    eprintln!("{}", failure.text());
    std::process::exit(lookup::exec_failure_status(&failure))
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| AgentError::invalid("a NUL byte in an argument or variable"))
}

/// Says that all is ready and waits for the order to start. By `write` and `read`, which every
/// usable seccomp filter allows.
pub(super) fn announce(channel: &OwnedFd) -> Result<()> {
    let failed = || "failed to talk to the agent".to_string();
    let ready = serde_json::to_vec(&Report::Ready)
        .map_err(io::Error::from)
        .context(failed)?;
    rustix::io::write(channel, &ready).context(failed)?;
    let mut order = [0; 1];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(channel, &mut order[..]));
    if read.context(failed)? == 1 && order[0] == Order::Start as u8 {
        return Ok(());
    }
    // The agent gave this process up; nobody is left to tell.
    std::process::exit(1)
}

fn identify(plan: &ProcessPlan) -> Result<Identity> {
    identity(Wanted {
        user: &plan.user,
        uid: plan.uid,
        gid: plan.gid,
        additional_gids: &plan.additional_gids,
        additional_groups: &plan.additional_groups,
    })
}

/// Who a user of the container is, whose root this process has: `name`, `uid:gid`, ...
pub(crate) fn identity_of(user: &str) -> Result<Identity> {
    identity(Wanted {
        user,
        uid: 0,
        gid: 0,
        additional_gids: &[],
        additional_groups: &[],
    })
}

fn identity(wanted: Wanted<'_>) -> Result<Identity> {
    user::resolve(
        wanted,
        &read_file("/etc/passwd")?,
        &read_file("/etc/group")?,
    )
}

/// The text of a file that may be missing, and whose bytes may be anything.
fn read_file(path: &str) -> Result<String> {
    let failed = || format!("failed to read {path}");
    // Not a FIFO that never answers: the image decides what is at this path.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fs::File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error).context(failed),
    };
    if !file.metadata().context(failed)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_PASSWD)
        .read_to_end(&mut bytes)
        .context(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Gives the standard streams to the user, so that /dev/stdout can be opened anew.
fn own_streams(identity: &Identity) {
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let Ok(stat) = rustix::fs::fstat(stream) else {
            continue;
        };
        let null = rustix::fs::makedev(1, 3);
        if stat.st_rdev == null || stat.st_uid == identity.uid {
            continue;
        }
        // A stream that cannot be given away can still be used.
        let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(identity.uid)), None);
    }
}

fn cwd_error(cwd: &Path, text: &str) -> String {
    format!(
        "chdir to cwd ({:?}) set in config.json failed: {text}",
        cwd.display().to_string()
    )
}

/// Makes the working directory (0755, root) if it is missing. For a container's first process
/// only: an exec into a directory that is not there fails, as elsewhere.
pub(super) fn create_directory(cwd: &Path) -> Result<()> {
    let failed = || format!("failed to make the working directory {}", cwd.display());
    let path = resolve::follow(Path::new("/"), cwd).context(failed)?;
    match fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(AgentError::new(
            Kind::PermissionDenied,
            format!("Cannot mkdir: {} is not a directory", cwd.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let old = rustix::process::umask(Mode::from_raw_mode(0o022));
            let made = fs::create_dir_all(&path);
            rustix::process::umask(old);
            made.context(failed)
        }
        Err(error) => Err(error).context(failed),
    }
}

/// Makes it the working directory.
fn enter(cwd: &Path) -> Result<()> {
    match rustix::process::chdir(cwd) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Err(AgentError::new(
            Kind::PermissionDenied,
            cwd_error(cwd, "permission denied"),
        )),
        Err(rustix::io::Errno::NOENT) => Err(AgentError::not_found(cwd_error(
            cwd,
            "no such file or directory",
        ))),
        Err(rustix::io::Errno::NOTDIR) => Err(AgentError::new(
            Kind::PermissionDenied,
            cwd_error(cwd, "not a directory"),
        )),
        Err(error) => Err(error).context(|| cwd_error(cwd, "it cannot be entered")),
    }
}

/// With the user's home where the given variables name none: a `HOME` without a value is none, as
/// with runc.
fn environment(given: &[String], home: &str) -> Vec<String> {
    let mut env = given.to_vec();
    env.retain(|variable| variable != "HOME=");
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

pub(super) fn inspect(path: &Path) -> Found {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Found::Unreachable,
        Err(_) => Found::Missing,
        Ok(meta) if meta.is_dir() => Found::Directory,
        Ok(meta) if is_own_program(&meta) => Found::Agent,
        // Root may execute what has any execute bit; access(2) knows the rest.
        Ok(meta) if meta.mode() & 0o111 == 0 => Found::NotExecutable,
        Ok(_) => match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            Err(rustix::io::Errno::ACCESS) => Found::NotExecutable,
            // A seccomp filter may forbid the question; then the exec itself answers.
            Ok(()) | Err(_) => Found::Executable,
        },
    }
}

fn is_own_program(file: &fs::Metadata) -> bool {
    fs::metadata("/proc/self/exe")
        .is_ok_and(|own| (own.dev(), own.ino()) == (file.dev(), file.ino()))
}

fn seccomp(plan: &ProcessPlan) -> Result<()> {
    let Some(filters) = &plan.seccomp else {
        return Ok(());
    };
    for program in &filters.programs {
        sys::set_seccomp_filter(program, filters.flags)
            .context(|| "failed to install the seccomp filter".to_string())?;
    }
    Ok(())
}

fn become_user(identity: &Identity, capabilities: Option<&CapabilityPlan>) -> Result<()> {
    let failed = || format!("failed to become user {}:{}", identity.uid, identity.gid);
    // The kernel takes it for "as it is": the process would stay root.
    if [identity.uid, identity.gid].contains(&u32::MAX) {
        return Err(AgentError::invalid(format!("{}: no such id", failed())));
    }
    if let Some(sets) = capabilities {
        drop_bounding(sets.bounding)?;
        rustix::thread::set_keep_capabilities(true).context(failed)?;
    }
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups).context(failed)?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).context(failed)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).context(failed)?;
    if let Some(sets) = capabilities {
        rustix::thread::set_keep_capabilities(false).context(failed)?;
        set_capabilities(sets)?;
    }
    Ok(())
}

fn drop_bounding(keep: u64) -> Result<()> {
    for number in 0..=capability::LAST {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep & one.bits() == 0 {
            match rustix::thread::remove_capability_from_bounding_set(one) {
                // A kernel that does not know this one.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => {
                    return Err(error).context(|| {
                        format!("failed to drop capability {number} from the bounding set")
                    })
                }
            }
        }
    }
    Ok(())
}

fn set_capabilities(sets: &CapabilityPlan) -> Result<()> {
    let set = CapabilitySet::from_bits_retain;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: set(sets.effective),
            permitted: set(sets.permitted),
            inheritable: set(sets.inheritable),
        },
    )
    .context(|| "failed to set the capabilities".to_string())?;
    for number in 0..=capability::LAST {
        let one = set(1 << number);
        if sets.ambient & one.bits() != 0 {
            // Only what is permitted and inheritable can be ambient; runc leaves out the rest too.
            let _ = rustix::thread::configure_capability_in_ambient_set(one, true);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_home_is_the_users() {
        let env = |given: &[&str]| {
            let given: Vec<_> = given.iter().map(|&variable| variable.to_owned()).collect();
            environment(&given, "/root").join(" ")
        };
        assert_eq!(env(&["A=1"]), "A=1 HOME=/root");
        assert_eq!(env(&["HOME=", "A=1"]), "A=1 HOME=/root");
        assert_eq!(env(&["HOME=/x"]), "HOME=/x");
    }
}
