//! A UNIX socket of the API's own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::error::{EngineError, Result};

/// The API's socket; its file goes with it.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`. Members of `group` may connect, if there is such a group.
    pub(super) fn bind(path: &Path, group: Option<&str>) -> Result<Self> {
        let io = |what| move |source: std::io::Error| EngineError::io(what, path, source);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io("make the directory of"))?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io("listen on")(std::io::ErrorKind::AddrInUse.into()));
        }
        let _ = std::fs::remove_file(path);
        // Made under another name: nobody can connect before the mode is right.
        let staging = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&staging);
        let listener = UnixListener::bind(&staging).map_err(io("listen on"))?;
        if let Some(id) = group.and_then(group_id) {
            std::os::unix::fs::chown(&staging, None, Some(id)).map_err(io("set the group of"))?;
        }
        std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(0o660))
            .and_then(|()| std::fs::rename(&staging, path))
            .map_err(io("set up"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The number of a group of this host.
pub(super) fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_goes_with_its_daemon_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        std::fs::write(&path, "stale").unwrap();
        let socket = Socket::bind(&path, Some("no-such-group")).unwrap();
        assert!(Socket::bind(&path, None).is_err());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn groups_are_looked_up_by_name() {
        assert_eq!(
            (group_id("root"), group_id("no such group")),
            (Some(0), None)
        );
    }
}
