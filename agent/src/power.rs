//! The end of the machine.

use std::path::Path;
use std::time::Duration;

use rustix::mount::{unmount, UnmountFlags};

use crate::{console, sys};

/// How long the last reply has to leave the machine.
const LAST_REPLY: Duration = Duration::from_millis(10);

/// Ends all other processes, writes everything back and unmounts what holds data.
pub(crate) fn prepare() {
    if std::process::id() == 1 {
        // Everything but the agent: -1 leaves out PID 1 itself.
        let _ = sys::kill(-1, libc::SIGKILL as u32);
    }
    // Later mounts lie on earlier ones.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for target in targets.collect::<Vec<_>>().into_iter().rev() {
        if Path::new(target).starts_with("/run/hull") {
            // A busy one is written back by the sync below.
            let _ = unmount(target, UnmountFlags::DETACH);
        }
    }
    rustix::fs::sync();
}

/// Powers the machine off once the reply to the request for it has been sent.
pub(crate) async fn off_soon() {
    tokio::time::sleep(LAST_REPLY).await;
    off();
}

/// Powers the machine off, by the VMM's convention: there is no ACPI to do it. As any other process
/// than PID 1 (in tests) only this process ends.
pub(crate) fn off() {
    if std::process::id() != 1 {
        std::process::exit(0);
    }
    sys::power_off_notice();
    if let Err(error) = rustix::system::reboot(rustix::system::RebootCommand::Restart) {
        console::log(&format!("the machine could not be powered off: {error}"));
    }
}
