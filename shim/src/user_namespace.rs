//! User namespaces of containers.
//!
//! The guest has its own user ids, and a container's root is root of nothing else: what a user
//! namespace is for on a shared kernel, the VM does. What is left of it is whose the host's files
//! are. So virtiofsd, which acts for the container there, runs in a user namespace with the
//! container's mappings: files of mapped ids show, and are made, as the container's; others belong
//! to nobody, and the host's kernel judges what may be done to them.
//!
//! A namespace can only be made by a process of one thread, which then waits until somebody outside
//! has written the mappings: the program [`main`], which becomes virtiofsd.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use oci_spec::runtime::LinuxIdMapping;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// First argument of a program that shall become another one in a user namespace (see [`main`]).
pub const ARGUMENT: &str = "in-user-namespace";
/// How long such a program has for its part.
const LIMIT: Duration = Duration::from_secs(10);

/// Which ids of the host the ids of a container are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub users: Vec<LinuxIdMapping>,
    /// Groups.
    pub groups: Vec<LinuxIdMapping>,
}

/// As `/proc/PID/uid_map` takes it.
fn text(mappings: &[LinuxIdMapping]) -> String {
    let line = |mapping: &LinuxIdMapping| {
        let (inside, outside) = (mapping.container_id(), mapping.host_id());
        format!("{inside} {outside} {}\n", mapping.size())
    };
    mappings.iter().map(line).collect()
}

/// What the kernel shows for an id without a mapping.
const NOBODY: u32 = 65_534;

/// The id inside for one outside.
pub(crate) fn inside(mappings: &[LinuxIdMapping], outside: u32) -> u32 {
    let within = |mapping: &LinuxIdMapping| {
        let offset = outside.checked_sub(mapping.host_id())?;
        let known = offset < mapping.size();
        known.then(|| mapping.container_id().saturating_add(offset))
    };
    mappings.iter().find_map(within).unwrap_or(NOBODY)
}

impl IdMaps {
    /// Writes the mappings of a program that was started as [`ARGUMENT`] with the other end of
    /// `link` as its standard input, and lets it go on.
    pub fn write(&self, pid: u32, mut link: UnixStream) -> io::Result<()> {
        self.map(pid, &mut link)?;
        link.write_all(b"g")
    }

    fn map(&self, pid: u32, link: &mut UnixStream) -> io::Result<()> {
        link.set_read_timeout(Some(LIMIT))?;
        link.read_exact(&mut [0; 1])?;
        for (file, mappings) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            std::fs::write(format!("/proc/{pid}/{file}"), text(mappings))?;
        }
        Ok(())
    }

    /// A user namespace with these mappings, in which nothing runs.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        let (mut link, theirs) = UnixStream::pair()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([ARGUMENT, "none"])
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = child.id();
        let mapped = self.map(pid, &mut link);
        let opened = mapped.and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
        // It waits for a word that does not come.
        let _ = child.kill();
        let _ = child.wait();
        opened.map(OwnedFd::from)
    }
}

/// Makes a user namespace, waits for its mappings, and becomes the program that the arguments name.
pub fn main(arguments: &[String]) -> ExitCode {
    let Err(error) = become_program(arguments);
    eprintln!("failed to start in a user namespace: {error}");
    ExitCode::FAILURE
}

fn become_program(arguments: &[String]) -> io::Result<std::convert::Infallible> {
    let (program, arguments) = arguments
        .split_first()
        .ok_or_else(|| io::Error::other("no program is named"))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
    let link = rustix::stdio::stdin();
    rustix::io::write(link, b"r")?;
    let mut go = [0; 1];
    if rustix::io::retry_on_intr(|| rustix::io::read(link, &mut go[..]))? == 0 {
        return Err(io::Error::other("its mappings can't be written"));
    }
    set_thread_groups(&[])?;
    let (group, user) = (rustix::process::Gid::ROOT, rustix::process::Uid::ROOT);
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let null = File::open("/dev/null")?;
    Err(Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(null)
        .exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_written_as_the_kernel_reads_them() {
        let mappings = serde_json::json!([
            {"containerID": 0, "hostID": 100_000, "size": 1000},
            {"containerID": 1000, "hostID": 1, "size": 1},
        ]);
        let mappings: Vec<LinuxIdMapping> = serde_json::from_value(mappings).unwrap();
        assert_eq!(text(&mappings), "0 100000 1000\n1000 1 1\n");
    }

    #[test]
    fn a_program_that_never_answers_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(IdMaps::default().write(1, ours).is_err());
    }
}
