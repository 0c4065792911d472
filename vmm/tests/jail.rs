//! Enters the jail in child processes and tries what a VMM that was taken over would try.
//!
//! Each case runs as this program started again, so that the jail is entered with one thread:
//! the test, then a starter that makes the PID namespace, then the jailed process.

#[path = "jail/sys.rs"]
mod sys;

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use hull_vm_config::JailConfig;
use hull_vmm::jail::{self, JailError, JailReport};
use hull_vmm::seccomp::{self, ThreadKind};
use nix::sched::{unshare, CloneFlags};
use nix::sys::signal::{kill, Signal};
use nix::unistd::{geteuid, Pid};

const ROLE: &str = "HULL_JAIL_TEST_ROLE";
const CASE: &str = "HULL_JAIL_TEST_CASE";
/// An id that no other process of a test machine has.
const IDS: JailConfig = JailConfig {
    uid: 231_072,
    gid: 231_073,
};
/// Exit statuses of the jailed process.
const REFUSED: u8 = 0;
const ALLOWED: u8 = 10;
const NOT_ENTERED: u8 = 11;
const WRONG: u8 = 12;

/// Something that must not work. It says why it did not.
struct Attempt {
    name: &'static str,
    run: fn() -> io::Result<()>,
    /// Only the filter refuses it: it harms nobody outside.
    filter_only: bool,
}

const fn attempt(name: &'static str, run: fn() -> io::Result<()>) -> Attempt {
    Attempt {
        name,
        run,
        filter_only: false,
    }
}

const fn filter_only(name: &'static str, run: fn() -> io::Result<()>) -> Attempt {
    Attempt {
        name,
        run,
        filter_only: true,
    }
}

const ATTEMPTS: &[Attempt] = &[
    attempt("open-host-file", || File::open("/etc/passwd").map(drop)),
    attempt("open-root", || File::open("/").map(drop)),
    attempt("open-above-root", || File::open("/../..").map(drop)),
    attempt("create-file", || File::create("/x").map(drop)),
    attempt("connect-tcp", || {
        TcpStream::connect("127.0.0.1:1").map(drop)
    }),
    attempt("connect-unix", || {
        UnixStream::connect("/run/docker.sock").map(drop)
    }),
    attempt("mount", || {
        let nothing = None::<&str>;
        let flags = nix::mount::MsFlags::empty();
        Ok(nix::mount::mount(
            nothing,
            "/",
            Some("tmpfs"),
            flags,
            nothing,
        )?)
    }),
    attempt("chroot", || Ok(nix::unistd::chroot("/")?)),
    attempt("exec", || {
        nix::unistd::execv(c"/bin/true", &[c"true"])
            .map(drop)
            .map_err(io::Error::from)
    }),
    attempt("become-root", || {
        Ok(nix::unistd::setuid(nix::unistd::Uid::from_raw(0))?)
    }),
    attempt("make-mount-namespace", || {
        Ok(unshare(CloneFlags::CLONE_NEWNS)?)
    }),
    attempt("kill-starter", || {
        match std::env::var("HULL_JAIL_STARTER") {
            Ok(pid) => {
                let pid = pid.parse().map_err(io::Error::other)?;
                Ok(kill(Pid::from_raw(pid), Signal::SIGTERM)?)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }),
    attempt("trace-starter", || {
        sys::numbers(libc::SYS_ptrace, [16, starter_pid()?, 0, 0])
    }),
    attempt("make-executable-page", sys::make_page_executable),
    attempt("set-hostname", || {
        sys::numbers(libc::SYS_sethostname, [0, 0, 0, 0])
    }),
    attempt("load-bpf", || sys::numbers(libc::SYS_bpf, [5, 0, 0, 0])),
    filter_only("map-executable-page", || {
        sys::map_page(libc::PROT_READ | libc::PROT_EXEC).map(drop)
    }),
    filter_only("make-socket", || {
        sys::numbers(libc::SYS_socket, [1, 1, 0, 0])
    }),
    filter_only("make-user-namespace", || {
        Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
    }),
    filter_only("make-file-in-memory", || {
        nix::sys::memfd::memfd_create("x", nix::sys::memfd::MFdFlags::empty())
            .map(drop)
            .map_err(io::Error::from)
    }),
    filter_only("fork", || sys::numbers(libc::SYS_fork, [0; 4])),
    // KVM_CREATE_VM, KVM_GET_API_VERSION, TIOCSTI: on a descriptor that could be anything.
    filter_only("create-vm", || {
        sys::numbers(libc::SYS_ioctl, [0, 0xae01, 0, 0])
    }),
    filter_only("push-terminal-input", || {
        sys::numbers(libc::SYS_ioctl, [0, 0x5412, 0, 0])
    }),
    filter_only("signal-itself-with-stop", || {
        Ok(kill(Pid::this(), Signal::SIGUSR1)?)
    }),
];

fn starter_pid() -> io::Result<u64> {
    std::env::var("HULL_JAIL_STARTER")
        .map_err(io::Error::other)?
        .parse()
        .map_err(io::Error::other)
}

/// A test: `Err` says what went wrong.
struct Case {
    name: String,
    run: Box<dyn Fn() -> Result<(), String>>,
}

fn case(name: impl Into<String>, run: impl Fn() -> Result<(), String> + 'static) -> Case {
    Case {
        name: name.into(),
        run: Box::new(run),
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("everything_holds_when_read_back", || {
            expect_exit(&start("report", "")?, REFUSED)
        }),
        case("pid_namespace_is_reported", || {
            expect_exit(&start("report-pid", "")?, REFUSED)
        }),
        case("works_without_a_pid_namespace", || {
            expect_exit(&run_role("jailed", "report", "0")?, REFUSED)
        }),
        case("works_without_root", || {
            expect_exit(
                &run_role("unprivileged", "report-unprivileged", "0")?,
                REFUSED,
            )
        }),
        case("without_root_other_ids_are_refused", || {
            expect_exit(&run_role("unprivileged", "refuse-other-ids", "0")?, REFUSED)
        }),
        case("root_ids_are_refused", || {
            expect_exit(&start("refuse-root-ids", "")?, REFUSED)
        }),
        case("second_thread_is_refused", || {
            expect_exit(&start("refuse-threads", "")?, REFUSED)
        }),
        case("open_directory_is_refused", || {
            expect_exit(&start("refuse-directory", "")?, REFUSED)
        }),
        case("open_descriptors_still_work", || {
            expect_exit(&start("use-descriptors", "")?, REFUSED)
        }),
        case("dies_with_its_starter", dies_with_its_starter),
        case("filtered_threads_do_ordinary_work", || {
            expect_exit(&start("ordinary-work", "")?, REFUSED)
        }),
        case("abort_under_the_filter_is_an_abort", || {
            expect_signal(&run_role("jailed", "abort", "")?, Signal::SIGABRT)
        }),
        // The kernel spares the first process of a PID namespace its own SIGABRT; glibc then
        // executes an instruction that faults.
        case("abort_under_the_filter_ends_the_first_process", || {
            expect_signal(&start("abort", "")?, Signal::SIGSEGV)
        }),
    ];
    for attempt in ATTEMPTS {
        if !attempt.filter_only {
            cases.push(case(format!("jail_refuses_{}", attempt.name), || {
                expect_exit(&start("attempt", attempt.name)?, REFUSED)
            }));
        }
        for kind in ["main", "event-loop", "vcpu"] {
            cases.push(case(
                format!("filter_of_{kind}_kills_{}", attempt.name),
                move || {
                    let status = start(&format!("filtered-{kind}"), attempt.name)?;
                    expect_signal(&status, Signal::SIGSYS)
                },
            ));
        }
    }
    cases
}

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("starter") => starter(),
        Ok("unprivileged") => unprivileged(),
        Ok("jailed") => ExitCode::from(jailed()),
        _ => run_tests(),
    }
}

/// Runs the cases whose name contains the first argument that is no option.
fn run_tests() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let cases: Vec<Case> = cases()
        .into_iter()
        .filter(|case| match wanted {
            Some(wanted) if exact => case.name == *wanted,
            Some(wanted) => case.name.contains(wanted.as_str()),
            None => true,
        })
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            cases
                .iter()
                .for_each(|case| println!("{}: test", case.name));
        }
        return ExitCode::SUCCESS;
    }
    if !geteuid().is_root() {
        println!("skipped {} tests of the jail: they need root", cases.len());
        let strict = std::env::var_os("HULL_SUITES_STRICT").is_some();
        return ExitCode::from(u8::from(strict));
    }
    let mut failed = 0;
    for case in &cases {
        match (case.run)() {
            Ok(()) => println!("test {} ... ok", case.name),
            Err(why) => {
                failed += 1;
                println!("test {} ... FAILED: {why}", case.name);
            }
        }
    }
    println!(
        "jail: {} passed, {failed} failed, 0 skipped",
        cases.len() - failed
    );
    ExitCode::from(u8::from(failed != 0))
}

/// Starts a case in a PID namespace of its own and waits for it.
fn start(case: &str, argument: &str) -> Result<ExitStatus, String> {
    run_role("starter", case, argument)
}

fn run_role(role: &str, case: &str, argument: &str) -> Result<ExitStatus, String> {
    Command::new("/proc/self/exe")
        .env(ROLE, role)
        .env(CASE, case)
        .env("HULL_JAIL_TEST_ARGUMENT", argument)
        .env("HULL_JAIL_STARTER", std::process::id().to_string())
        .status()
        .map_err(|error| format!("failed to start {role}: {error}"))
}

/// Ends as its child did; a signal's number goes through as 128 and more.
fn relay(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(WRONG))
}

fn starter() -> ExitCode {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWPID) {
        eprintln!("failed to make a PID namespace: {error}");
        return ExitCode::from(WRONG);
    }
    match Command::new("/proc/self/exe").env(ROLE, "jailed").status() {
        Ok(status) => relay(status),
        Err(error) => {
            eprintln!("failed to start the jailed process: {error}");
            ExitCode::from(WRONG)
        }
    }
}

/// Gives up root by the ordinary means, then enters the jail.
fn unprivileged() -> ExitCode {
    let became = nix::unistd::setgroups(&[])
        .and_then(|()| nix::unistd::setgid(nix::unistd::Gid::from_raw(IDS.gid)))
        .and_then(|()| nix::unistd::setuid(nix::unistd::Uid::from_raw(IDS.uid)))
        .and_then(|()| nix::sys::prctl::set_dumpable(true));
    if let Err(error) = became {
        eprintln!("failed to give up root: {error}");
        return ExitCode::from(WRONG);
    }
    ExitCode::from(jailed())
}

fn expect_exit(status: &ExitStatus, code: u8) -> Result<(), String> {
    if status.code() == Some(code.into()) {
        Ok(())
    } else {
        Err(format!("ended with {status}, wanted exit status {code}"))
    }
}

fn expect_signal(status: &ExitStatus, signal: Signal) -> Result<(), String> {
    let relayed = 128 + signal as i32;
    if status.signal() == Some(signal as i32) || status.code() == Some(relayed) {
        Ok(())
    } else {
        Err(format!("ended with {status}, wanted {signal}"))
    }
}

/// Kills the starter of a jailed process that would sleep for long, and waits for the end of the
/// pipe that only the jailed process still holds.
fn dies_with_its_starter() -> Result<(), String> {
    use std::io::Read;
    let mut child = Command::new("/proc/self/exe")
        .env(ROLE, "starter")
        .env(CASE, "sleep")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut output = child.stdout.take().ok_or("no pipe")?;
    let mut ready = [0];
    output
        .read_exact(&mut ready)
        .map_err(|error| format!("the jailed process did not get ready: {error}"))?;
    child.kill().map_err(|error| error.to_string())?;
    child.wait().map_err(|error| error.to_string())?;
    let begun = std::time::Instant::now();
    // Ends when the last holder of the pipe does; the sleeper sleeps for a minute.
    output
        .read_to_end(&mut Vec::new())
        .map_err(|error| error.to_string())?;
    if begun.elapsed().as_secs() < 30 {
        Ok(())
    } else {
        Err("the jailed process outlived its starter".into())
    }
}

/// The jailed process: runs its case and says how it went.
fn jailed() -> u8 {
    let case = std::env::var(CASE).unwrap_or_default();
    let name = std::env::var("HULL_JAIL_TEST_ARGUMENT").unwrap_or_default();
    match case.as_str() {
        "report" => with_jail(|report| check_report(report, "")),
        "report-pid" => with_jail(|report| check_report(report, "own")),
        "report-unprivileged" => with_jail(|report| check_report(report, "the starter's")),
        "refuse-root-ids" => expect_refusal(JailConfig { uid: 0, gid: 1 }, |error| {
            matches!(error, JailError::RootIdentity { uid: 0, gid: 1 })
        }),
        "refuse-other-ids" => expect_refusal(JailConfig { uid: 99, gid: 99 }, |error| {
            matches!(error, JailError::Unprivileged { uid: 99, .. })
        }),
        "refuse-threads" => {
            let (_keep, wait) = std::sync::mpsc::channel::<()>();
            std::thread::spawn(move || wait.recv());
            expect_refusal(IDS, |error| {
                matches!(error, JailError::Threads { threads: 2 })
            })
        }
        "refuse-directory" => {
            let _directory = File::open("/tmp");
            expect_refusal(
                IDS,
                |error| matches!(error, JailError::DirectoryOpen { path, .. } if path == "/tmp"),
            )
        }
        "use-descriptors" => use_descriptors(),
        "sleep" => with_jail(|_| {
            print!("r");
            let ready = std::io::Write::flush(&mut std::io::stdout());
            std::thread::sleep(std::time::Duration::from_secs(60));
            u8::from(ready.is_err())
        }),
        "ordinary-work" => with_jail(|_| ordinary_work()),
        "abort" => with_filter(ThreadKind::Main, || std::process::abort()),
        "attempt" => with_jail(|_| try_it(&name)),
        "filtered-main" => with_filter(ThreadKind::Main, || try_it(&name)),
        "filtered-event-loop" => with_filter(ThreadKind::EventLoop, || try_it(&name)),
        "filtered-vcpu" => with_filter(ThreadKind::Vcpu, || try_it(&name)),
        _ => WRONG,
    }
}

fn with_jail(then: impl FnOnce(&JailReport) -> u8) -> u8 {
    match jail::enter(&IDS) {
        Ok(report) => then(&report),
        Err(error) => {
            let source = std::error::Error::source(&error);
            eprintln!("not entered: {error}: {source:?}");
            NOT_ENTERED
        }
    }
}

fn with_filter(kind: ThreadKind, then: impl FnOnce() -> u8) -> u8 {
    with_jail(|_| match seccomp::install(kind) {
        Ok(()) => then(),
        Err(error) => {
            eprintln!("no filter: {error}");
            NOT_ENTERED
        }
    })
}

fn try_it(name: &str) -> u8 {
    let Some(attempt) = ATTEMPTS.iter().find(|attempt| attempt.name == name) else {
        return WRONG;
    };
    match (attempt.run)() {
        Ok(()) => ALLOWED,
        Err(_) => REFUSED,
    }
}

fn expect_refusal(config: JailConfig, is: impl FnOnce(&JailError) -> bool) -> u8 {
    match jail::enter(&config) {
        Err(error) if is(&error) => REFUSED,
        Err(error) => {
            eprintln!("refused otherwise: {error}");
            WRONG
        }
        Ok(_) => ALLOWED,
    }
}

fn check_report(report: &JailReport, pid_namespace: &str) -> u8 {
    let holds = report.holds();
    let value = |name: &str| {
        holds
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value.as_str())
    };
    let uid_map = format!("{0} {0} 1", IDS.uid);
    let ok = value("capabilities") == "none in any set"
        && value("no-new-privs") == "1"
        && value("root-entries") == "0"
        && value("mounts") == "1"
        && value("parent-death-signal") == "SIGKILL"
        && value("uid-map") == uid_map
        && value("seccomp") == "main 0, event-loop 0, vcpu 0"
        && value("namespace-pid").contains(pid_namespace);
    if !ok || std::env::var_os("HULL_JAIL_TEST_SHOW").is_some() {
        holds
            .iter()
            .for_each(|(name, value)| eprintln!("{name}: {value}"));
    }
    if ok {
        REFUSED
    } else {
        WRONG
    }
}

/// A file and a socket that were open before can be used after.
fn use_descriptors() -> u8 {
    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;
    let (Ok(disk), Ok((mut near, mut far))) = (
        nix::sys::memfd::memfd_create("disk", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .map(File::from),
        UnixStream::pair(),
    ) else {
        return WRONG;
    };
    with_filter(ThreadKind::EventLoop, || {
        let mut buffer = [0; 4];
        let used = disk
            .write_all_at(b"disk", 1 << 30)
            .and_then(|()| disk.read_exact_at(&mut buffer, 1 << 30))
            .and_then(|()| disk.sync_data())
            .and_then(|()| near.set_nonblocking(true))
            .and_then(|()| near.write_all(b"sock"))
            .and_then(|()| far.read_exact(&mut buffer))
            .and_then(|()| near.shutdown(std::net::Shutdown::Write));
        match used {
            Ok(()) if buffer == *b"sock" => REFUSED,
            other => {
                eprintln!("{other:?}");
                WRONG
            }
        }
    })
}

/// What any thread of a Rust program does: allocate, lock, wait, look at the clock, end, be joined.
fn ordinary_work() -> u8 {
    let (sender, receiver) = std::sync::mpsc::channel();
    let workers: Vec<_> = [ThreadKind::EventLoop, ThreadKind::Vcpu]
        .into_iter()
        .map(|kind| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                seccomp::install(kind).map_err(|error| error.to_string())?;
                let mut blocks = Vec::new();
                for power in 4..26 {
                    blocks.push(vec![1_u8; 1 << power]);
                }
                blocks.iter_mut().for_each(|block| block.resize(1 << 20, 2));
                let map: std::collections::HashMap<_, _> =
                    blocks.iter().map(Vec::len).zip(0..).collect();
                // A vCPU waits in KVM alone.
                if kind != ThreadKind::Vcpu {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                let now = (std::time::Instant::now(), std::time::SystemTime::now());
                sender
                    .send(format!("{} {now:?}", map.len()))
                    .map_err(|error| error.to_string())
            })
        })
        .collect();
    if seccomp::install(ThreadKind::Main).is_err() {
        return NOT_ENTERED;
    }
    drop(sender);
    let messages = receiver.iter().count();
    let ended = workers
        .into_iter()
        .map(|worker| worker.join())
        .all(|result| matches!(result, Ok(Ok(()))));
    eprintln!("{messages} messages, {}", seccomp::installed());
    if messages == 2 && ended {
        REFUSED
    } else {
        WRONG
    }
}
