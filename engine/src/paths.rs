//! Where things lie on disk.

use std::path::{Path, PathBuf};

/// The two roots of a hulld.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    exec_root: PathBuf,
}

impl Paths {
    /// State below `root`, runtime files below `exec_root`.
    pub fn new(root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            exec_root: exec_root.into(),
        }
    }

    /// What survives a reboot.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What does not.
    pub fn exec_root(&self) -> &Path {
        &self.exec_root
    }

    /// The record store.
    pub fn store(&self) -> PathBuf {
        self.root.join("containers.redb")
    }

    /// The volumes.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The networks.
    pub fn networks(&self) -> PathBuf {
        self.root.join("networks.json")
    }

    /// Locked while a hulld owns the state directory.
    pub fn lock(&self) -> PathBuf {
        self.root.join("hulld.lock")
    }

    /// The empty ext4 file system that writable layers are copied from.
    pub fn scratch_template(&self) -> PathBuf {
        self.root.join("scratch-template.ext4")
    }

    /// The lasting files of all containers.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Lasting files of a container: writable layer and log.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// A container's writable layer.
    pub fn scratch(&self, id: &str) -> PathBuf {
        self.container(id).join("scratch.ext4")
    }

    /// A container's log.
    pub fn log(&self, id: &str) -> PathBuf {
        self.container(id).join(format!("{id}-json.log"))
    }

    /// A container's OCI bundle while it runs.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.exec_root.join("bundles").join(id)
    }

    /// The boot timeline that a container's shim writes.
    pub fn trace(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("trace.json")
    }

    /// How the VM ended under its container, if its shim wrote that.
    pub fn vm_end(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("vm-end.txt")
    }

    /// The runtime directory of a container's shim.
    fn sandbox(&self, id: &str) -> PathBuf {
        self.exec_root.join("sandboxes").join(format!("hull-{id}"))
    }

    /// The boot timeline, kept after the sandbox is gone.
    pub fn kept_trace(&self, id: &str) -> PathBuf {
        self.container(id).join("trace.json")
    }

    /// Where shims send their events (containerd's ttrpc events service).
    pub fn events_socket(&self) -> PathBuf {
        self.exec_root.join("events.sock")
    }

    /// The API's default socket.
    pub fn api_socket(&self) -> PathBuf {
        self.exec_root.join("hull.sock")
    }
}
