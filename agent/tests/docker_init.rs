//! `docker-init` as a program: exit statuses and signals. (What it reaps as PID 1 is seen in a VM.)

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

fn init(script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hull-agent"));
    command
        .arg0("/sbin/docker-init")
        .args(["--", "sh", "-c", script]);
    command
}

/// Starts a script and waits for its first line.
fn started(script: &str) -> (Child, String) {
    let mut child = init(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, line.trim().to_owned())
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &pid]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn it_ends_as_the_program_does() {
    assert_eq!(init("exit 7").status().unwrap().code(), Some(7));
    assert_eq!(init("kill -9 $$").status().unwrap().code(), Some(137));
}

#[test]
fn a_program_that_is_not_there_has_the_known_statuses() {
    let run = |program: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hull-agent"));
        command.arg0("/sbin/docker-init").args(["--", program]);
        command.output().unwrap()
    };
    let missing = run("/no/such/program");
    assert_eq!(missing.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"));
    assert_eq!(run("/etc/passwd").status.code(), Some(126));
}

#[test]
fn signals_are_passed_on() {
    let (mut child, ready) =
        started("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    assert_eq!(ready, "ready");
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    // One that it would die of itself.
    let (mut child, _) = started("echo ready; exec sleep 600");
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_program_has_a_process_group_and_no_blocked_signal() {
    let (mut child, line) = started("grep SigBlk /proc/self/status; read _ </proc/self/stat");
    assert_eq!(line, "SigBlk:\t0000000000000000");
    assert!(child.wait().unwrap().success());
}
