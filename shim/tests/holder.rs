//! The holder as a program: it starts, passes signals on, and ends as told. It needs root for its
//! mount namespace; without it, the tests say so and pass.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const SETUP: &str = r#"{"network":"inherit","root":null,"terminal":false}"#;

fn may_not() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: a holder makes a mount namespace, which needs root");
    }
    !root
}

fn start(setup: &str) -> (std::process::Child, std::os::fd::OwnedFd) {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_containerd-shim-hull-v2"))
        .env("HULL_HOLDER", setup)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (child, ours)
}

fn next(link: &std::os::fd::OwnedFd) -> String {
    let mut buffer = [0; 4096];
    let (_, length) = rustix::net::recv(link, &mut buffer[..], RecvFlags::empty()).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn it_says_its_pid_passes_signals_on_and_ends_as_told() {
    if may_not() {
        return;
    }
    let (mut child, link) = start(SETUP);
    let want = format!(r#"{{"ready":{{"pid":{}}}}}"#, child.id());
    assert_eq!(next(&link), want);
    let root = std::fs::read_dir(format!("/proc/{}/root/", child.id())).unwrap();
    assert_eq!(root.count(), 0, "an empty root");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(next(&link), r#"{"request":{"signal":15}}"#);
    rustix::net::send(&link, br#"{"status":42}"#, SendFlags::empty()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn it_ends_with_137_when_its_shim_is_gone() {
    if may_not() {
        return;
    }
    let (mut child, link) = start(SETUP);
    next(&link);
    drop(link);
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(137), None));
}

#[test]
fn what_it_cannot_enter_it_names() {
    if may_not() {
        return;
    }
    let setup = r#"{"network":{"join":"/nonexistent/netns"},"root":null,"terminal":false}"#;
    let (mut child, link) = start(setup);
    let report = next(&link);
    assert!(report.contains("/nonexistent/netns"), "{report}");
    assert!(!child.wait().unwrap().success());
}
