//! How a VM ended under its processes, for who started it: an exit status has no room for it.

use super::container::Container;

/// File in the sandbox's runtime directory.
const FILE: &str = "vm-end.txt";
/// Longest text: part of it is the guest's, the last lines of its console.
const MAX_CHARS: usize = 2048;

/// Writes the reason down beside the sandbox; the first one counts.
pub(super) fn keep(container: &Container, reason: &str) {
    let path = container.sandbox.dir().join(FILE);
    if path.exists() {
        return;
    }
    let text: String = reason.trim().chars().take(MAX_CHARS).collect();
    if let Err(error) = crate::private::write(&path, text) {
        tracing::warn!(?path, %error, "the reason of the VM's end is lost");
    }
}
