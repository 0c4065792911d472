//! Processes: fork, namespaces, signals, seccomp.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::check;

/// Which side of a fork this is.
pub(crate) enum Forked {
    /// The parent, with the child's PID in the parent's PID namespace.
    Parent(u32),
    /// The child.
    Child,
}

/// Forks. Refuses in a process of several threads, where the child could deadlock on a lock that
/// another thread held.
pub(crate) fn fork() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task").map(|tasks| tasks.count());
    if threads.is_ok_and(|count| count > 1) {
        return Err(io::Error::other("fork in a process of several threads"));
    }
    // SAFETY: this process has one thread (checked above), so the child's copy of memory is in a
    // consistent state.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(match u32::try_from(pid) {
        Ok(0) | Err(_) => Forked::Child,
        Ok(pid) => Forked::Parent(pid),
    })
}

/// Leaves namespaces for new ones.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only namespace flags are passed by callers here and the file descriptor table stays
    // shared, so no descriptor of another thread changes meaning.
    unsafe { rustix::thread::unshare_unsafe(flags.difference(UnshareFlags::FILES)) }?;
    Ok(())
}

/// Sends any signal number, real-time ones too. A negative `pid` names a process group.
pub(crate) fn kill(pid: i32, signal: u32) -> io::Result<()> {
    let signal = libc::c_int::try_from(signal).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes two integers.
    check(unsafe { libc::kill(pid, signal) }.into())?;
    Ok(())
}

/// Puts every signal back to its default and unblocks all: ignored and blocked signals survive
/// `execve`, and the Rust runtime ignores SIGPIPE.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: installs the default action, no handler of ours; numbers that cannot be changed
        // (KILL, STOP, those of the C library) are refused without effect.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `set` is initialised by sigemptyset before it is read, and lives across both calls.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Installs a seccomp filter: `program` holds `sock_filter` instructions, each as code, jt, jf, k.
/// Unlike seccompiler's own function it leaves `no_new_privs` alone, which is the caller's choice.
pub(crate) fn set_seccomp_filter(program: &[(u16, u8, u8, u32)], flags: u64) -> io::Result<()> {
    let mut instructions: Vec<libc::sock_filter> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions in `instructions`, which lives across the
    // call; the kernel copies them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    })?;
    Ok(())
}

/// Sets a resource limit by the kernel's number; `u64::MAX` means none.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    // prlimit64 of the kernel takes two 64-bit numbers; all ones is RLIM64_INFINITY.
    let limits = [soft, hard];
    // SAFETY: `limits` is a rlimit64 that outlives the call; the kernel only reads it and writes
    // no old value.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            limits.as_ptr(),
            std::ptr::null_mut::<u64>(),
        )
    })?;
    Ok(())
}

/// Has the clock run faster or slower until it was moved by so many microseconds, adjtime(3).
pub(crate) fn slew(microseconds: i64) -> io::Result<()> {
    // SAFETY: timex is a structure of integers, for which all zeroes is a value.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    change.offset = microseconds;
    // SAFETY: `change` outlives the call, which reads and writes no more than that.
    check(unsafe { libc::adjtimex(&raw mut change) }.into())?;
    Ok(())
}

/// Gives a descriptor to be kept by `execve` the number `number`, where this process has nothing
/// that it still needs.
pub(crate) fn place(fd: OwnedFd, number: u32) -> io::Result<()> {
    let number = i32::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes two integers; the caller says that nobody owns `number`.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}

/// Marks all descriptors from `first` on to be closed by `execve`.
pub(crate) fn close_on_exec_from(first: u32) {
    // SAFETY: takes three integers. It fails only where the call is unknown or filtered; all
    // descriptors of ours are opened close-on-exec anyway.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// Pointers to strings, ended by a null pointer, as `execve` takes them; valid as long as the list.
fn pointers(list: &[CString]) -> Vec<*const libc::c_char> {
    let list = list.iter().map(|text| text.as_ptr());
    list.chain(std::iter::once(std::ptr::null())).collect()
}

/// `execve(2)`: returns only its error.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: `path` is NUL-terminated; both lists are, by a null pointer, and point to
    // NUL-terminated strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes an open file (`execveat(2)`): returns only its error.
pub(crate) fn execve_file(file: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: the path is the empty string; both lists end with a null pointer and point to
    // NUL-terminated strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// All signals but those of a fault in this process's own code.
fn all_signals() -> libc::sigset_t {
    let faults = [
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGABRT,
        libc::SIGTRAP,
        libc::SIGSYS,
    ];
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set before anything else reads it.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for signal in faults {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks all signals but those of faults: they wait for [`next_signal`].
pub(crate) fn block_signals() -> io::Result<()> {
    let set = all_signals();
    // SAFETY: `set` is initialised and outlives the call, which writes no old set.
    let done =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    check(done.into())?;
    Ok(())
}

/// Waits for a blocked signal.
pub(crate) fn next_signal() -> io::Result<i32> {
    let set = all_signals();
    loop {
        // SAFETY: `set` is initialised and outlives the call, which writes no further information.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        match check(signal.into()) {
            Ok(_) => return Ok(signal),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What `sched_setattr(2)` takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SchedulerAttributes {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    /// Nanoseconds, as the two below.
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Sets the calling thread's scheduling policy.
pub(crate) fn set_scheduler(attributes: &SchedulerAttributes) -> io::Result<()> {
    /// `struct sched_attr` of Linux 3.14, whose size its first field says.
    #[repr(C)]
    struct Raw {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let raw = Raw {
        size: u32::try_from(std::mem::size_of::<Raw>()).map_err(|_| io::ErrorKind::InvalidInput)?,
        policy: attributes.policy,
        flags: attributes.flags,
        nice: attributes.nice,
        priority: attributes.priority,
        runtime: attributes.runtime,
        deadline: attributes.deadline,
        period: attributes.period,
    };
    // SAFETY: `raw` has the size that its first field says and outlives the call, which only reads
    // it; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&raw), 0) })?;
    Ok(())
}

/// Sets the calling thread's I/O priority: class and level in one number.
pub(crate) fn set_io_priority(priority: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: takes three integers; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })?;
    Ok(())
}

/// Sets the execution domain of this process.
pub(crate) fn set_personality(personality: u64) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(unsafe { libc::personality(personality) }.into())?;
    Ok(())
}
