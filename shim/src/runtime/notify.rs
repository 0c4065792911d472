//! Readiness that a container tells of itself (`sd_notify`): the socket for it is the host's, and nothing
//! that a VM sends reaches it.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::error::{Result, RuntimeError};
use crate::spec::is_bind;

const VARIABLE: &str = "NOTIFY_SOCKET=";

/// Refuses a container that is to tell the host that it is ready: who waits for that would wait for ever.
/// An engine has its socket in a directory that is mounted (podman's `--sdnotify=container`).
pub(super) fn check(spec: &Spec) -> Result<()> {
    let process = spec.process().as_ref();
    let variables = process.and_then(|process| process.env().as_deref());
    let mut variables = variables.unwrap_or_default().iter();
    let Some(socket) = variables.find_map(|it| it.strip_prefix(VARIABLE)) else {
        return Ok(());
    };
    let holds = |mount: &&oci_spec::runtime::Mount| {
        let destination = mount.destination();
        destination != Path::new("/") && Path::new(socket).starts_with(destination)
    };
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    // The last one covers those before it.
    match mounts.iter().rfind(holds) {
        Some(mount) if is_bind(mount) => Err(RuntimeError::Usage(format!(
            "NOTIFY_SOCKET {socket:?} is a socket of the host, which a container in a VM does not \
             reach: it can't tell that it is ready. With podman, --sdnotify=conmon tells it when the \
             container has started, --sdnotify=healthy when it is healthy"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(variable: &str, mounts: serde_json::Value) -> Option<String> {
        let spec = json!({
            "ociVersion": "1.2.1",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "env": ["A=b", variable]},
            "mounts": mounts,
        });
        let spec = serde_json::from_value(spec).unwrap();
        check(&spec).err().map(|error| error.to_string())
    }

    #[test]
    fn who_is_to_notify_the_host_is_refused_by_name() {
        let bind =
            json!([{"destination": "/run/notify", "source": "/b/notify", "options": ["rbind"]}]);
        let own = json!([{"destination": "/run", "type": "tmpfs", "source": "tmpfs"}]);
        let socket = "NOTIFY_SOCKET=/run/notify/notify.sock";
        let error = refused(socket, bind.clone()).unwrap();
        assert!(error.contains("--sdnotify=conmon"), "{error}");
        // A supervisor in the container has one of its own.
        assert_eq!(refused(socket, own), None);
        assert_eq!(refused("NOTIFY_SOCKET=/run/notify2/x", bind.clone()), None);
        assert_eq!(refused("NOTIFY_SOCKET=@x", bind.clone()), None);
        assert_eq!(refused("PATH=/run/notify/x", bind), None);
    }
}
