//! The containers that this runtime knows: a directory per container below `--root`.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{io_error, Result, RuntimeError};
use crate::runtime_dir::ProcessId;

/// `--root` where none is given.
const DEFAULT_ROOT: &str = "/run/hull-runtime";
/// Name of a container's file.
const STATE_FILE: &str = "state.json";
/// Name of its file while it is being made.
const DRAFT_FILE: &str = "draft.json";
/// Longest id, in bytes: as runc's.
const MAX_ID_BYTES: usize = 1024;
/// Longest id that a shim takes as it is.
const MAX_PLAIN_ID_BYTES: usize = 64;

/// What is written down of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
    #[serde(default)]
    pub(super) annotations: HashMap<String, String>,
    /// Its first process has a terminal.
    #[serde(default)]
    pub(super) terminal: bool,
    /// Its cgroup on the host, below the root of them.
    #[serde(default)]
    pub(super) cgroup: Option<PathBuf>,
    /// Id of its VM's sandbox; `None`: the one that follows from its own.
    #[serde(default)]
    pub(super) sandbox: Option<String>,
    /// It was made in the VM of an earlier container.
    #[serde(default)]
    pub(super) joined: Option<Joined>,
    /// The shim's ttrpc address.
    pub(super) address: String,
    /// PID of the holder.
    pub(super) pid: u32,
}

/// The VM of another container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Joined {
    /// The cgroup that it is in.
    pub(super) cgroup: Option<PathBuf>,
}

impl Record {
    /// The cgroup of its VM, its own or that of the VM's first container.
    fn vm_cgroup(&self) -> Option<&PathBuf> {
        match &self.joined {
            Some(joined) => joined.cgroup.as_ref(),
            None => self.cgroup.as_ref(),
        }
    }

    /// The cgroups that go with it. That of a VM is removed by the VM's last container.
    pub(super) fn cgroups(&self, vm_lives: bool) -> Vec<&PathBuf> {
        let joined = self.joined.as_ref().and(self.cgroup.as_ref());
        let of_vm = self.vm_cgroup().filter(|_| !vm_lives);
        joined.into_iter().chain(of_vm).collect()
    }

    /// Id of its VM's sandbox.
    pub(super) fn sandbox(&self) -> String {
        let named = self.sandbox.clone();
        named.unwrap_or_else(|| sandbox_id(&self.id))
    }
}

/// What is written down of a container that is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Draft {
    creator: ProcessId,
    /// Its cgroup, as in [`Record`].
    #[serde(default)]
    pub(super) cgroup: Option<PathBuf>,
    /// Its VM's sandbox.
    #[serde(default)]
    pub(super) vm: VmName,
}

/// The sandbox of a container that is being made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VmName {
    /// Its id; `None`: the one that follows from the container's.
    pub(super) sandbox: Option<String>,
    /// It is there already, for others.
    pub(super) joined: bool,
}

impl VmName {
    /// Id of the sandbox for a container.
    pub(super) fn sandbox(&self, id: &str) -> String {
        let named = self.sandbox.clone();
        named.unwrap_or_else(|| sandbox_id(id))
    }
}

/// All containers of one `--root`.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: PathBuf,
    /// It is made when it is needed, so that it may be missing.
    is_default: bool,
}

/// A container's directory that is being filled; dropped before [`Claim::keep`], it is removed.
#[derive(Debug)]
pub(super) struct Claim {
    directory: PathBuf,
    kept: bool,
}

impl Store {
    /// Of a `--root`, if one is given.
    pub(super) fn new(root: Option<&Path>) -> Result<Self> {
        let is_default = root.is_none();
        let root = root.unwrap_or(Path::new(DEFAULT_ROOT));
        let root = std::path::absolute(root).map_err(io_error("find", root))?;
        Ok(Self { root, is_default })
    }

    /// Where a container is, if its id is one.
    pub(super) fn directory(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(self.root.join(id))
    }

    /// Takes an id, for a container with this cgroup and VM.
    pub(super) fn claim(&self, id: &str, cgroup: Option<&Path>, vm: &VmName) -> Result<Claim> {
        let directory = self.directory(id)?;
        let mut builder = DirBuilder::new();
        builder.mode(0o711);
        let all = builder.recursive(true).create(&self.root);
        all.map_err(io_error("make", &self.root))?;
        match builder.recursive(false).create(&directory) {
            Ok(()) => {
                let claim = Claim {
                    directory,
                    kept: false,
                };
                claim.write_draft(cgroup, vm)?;
                Ok(claim)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(RuntimeError::Exists),
            Err(error) => Err(io_error("make", &directory)(error)),
        }
    }

    /// Ids whose makers died before they were done.
    pub(super) fn abandoned(&self) -> Vec<(String, Draft)> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| {
                let id = name.to_str()?.to_owned();
                let draft = self.draft(&id)?;
                let is_whole = self.root.join(&id).join(STATE_FILE).exists();
                (!is_whole && !draft.creator.is_alive()).then_some((id, draft))
            })
            .collect()
    }

    /// What is known of a container that is, or was, being made.
    pub(super) fn draft(&self, id: &str) -> Option<Draft> {
        let path = self.directory(id).ok()?.join(DRAFT_FILE);
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// A container's record.
    pub(super) fn load(&self, id: &str) -> Result<Record> {
        let path = self.directory(id)?.join(STATE_FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RuntimeError::NotFound)
            }
            read => read.map_err(io_error("read", &path))?,
        };
        serde_json::from_slice(&text).map_err(|source| RuntimeError::Json {
            what: path.display().to_string(),
            source,
        })
    }

    /// All containers that are complete, by id, with the UID that made them.
    pub(super) fn list(&self) -> Result<Vec<(Record, u32)>> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if self.is_default && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Vec::new())
            }
            read => read.map_err(io_error("read", &self.root))?,
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let record = name.to_str().map(|id| self.load(id));
            if let (Some(Ok(record)), Ok(metadata)) = (record, entry.metadata()) {
                found.push((record, metadata.uid()));
            }
        }
        found.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
        Ok(found)
    }

    /// Forgets a container.
    pub(super) fn remove(&self, id: &str) -> Result<()> {
        let directory = self.directory(id)?;
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &directory)(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether a container with another id has a cgroup, too.
    pub(super) fn has_another_in(&self, cgroup: &Path, id: &str) -> bool {
        let all = self.list().unwrap_or_default();
        let mut others = all.iter().filter(|(record, _)| record.id != id);
        others.any(|(record, _)| record.cgroup.as_deref() == Some(cgroup))
    }

    /// Whether a cgroup is that of a VM which containers have joined, and no container's own any more.
    pub(super) fn has_vm_alone_in(&self, cgroup: &Path) -> bool {
        let all = self.list().unwrap_or_default();
        let records = || all.iter().map(|(record, _)| record);
        let is_own = |record: &Record| record.cgroup.as_deref() == Some(cgroup);
        let is_of_vm = |record: &Record| record.vm_cgroup().map(PathBuf::as_path) == Some(cgroup);
        records().any(is_of_vm) && !records().any(is_own)
    }

    /// The cgroup of a VM, by the address of its shim.
    pub(super) fn cgroup_of(&self, address: &str) -> Option<PathBuf> {
        let all = self.list().ok()?;
        let mut vms = all.iter().filter(|(record, _)| record.address == address);
        vms.find_map(|(record, _)| record.vm_cgroup().cloned())
    }

    /// containerd's namespace for this root: two roots may have containers of one id.
    pub(super) fn namespace(&self) -> String {
        format!(
            "oci-{}",
            short_hash(self.root.as_os_str().as_encoded_bytes())
        )
    }
}

/// The id by which a shim knows a container's sandbox: the same where it is simple and short.
pub(super) fn sandbox_id(id: &str) -> String {
    let simple = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if simple && id.len() <= MAX_PLAIN_ID_BYTES {
        id.to_owned()
    } else {
        format!("id-{}", short_hash(id.as_bytes()))
    }
}

fn short_hash(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(RuntimeError::EmptyId);
    }
    let valid = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.'));
    if valid && id != "." && id != ".." && id.len() <= MAX_ID_BYTES {
        Ok(())
    } else {
        Err(RuntimeError::BadId)
    }
}

impl Claim {
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn write_draft(&self, cgroup: Option<&Path>, vm: &VmName) -> Result<()> {
        let path = self.directory.join(DRAFT_FILE);
        let Some(creator) = ProcessId::of(std::process::id()) else {
            return Ok(());
        };
        let draft = Draft {
            creator,
            cgroup: cgroup.map(Path::to_owned),
            vm: vm.clone(),
        };
        let json = serde_json::to_vec(&draft).map_err(|source| RuntimeError::Json {
            what: path.display().to_string(),
            source,
        })?;
        crate::private::write(&path, json).map_err(io_error("write", &path))
    }

    /// Writes the record: from now on the container is known.
    pub(super) fn keep(mut self, record: &Record) -> Result<()> {
        let path = self.directory.join(STATE_FILE);
        let temporary = self.directory.join("state.json.new");
        let json = serde_json::to_vec(record).map_err(|source| RuntimeError::Json {
            what: path.display().to_string(),
            source,
        })?;
        crate::private::write(&temporary, json).map_err(io_error("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(io_error("write", &path))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::runtime) fn record(id: &str) -> Record {
        Record {
            oci_version: "1.0.2".into(),
            id: id.into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-25T11:15:01.5Z".into(),
            annotations: HashMap::new(),
            terminal: false,
            cgroup: None,
            sandbox: None,
            joined: None,
            address: "unix:///nonexistent".into(),
            pid: 0,
        }
    }

    #[test]
    fn ids_are_runcs() {
        for good in ["a", "A-b_c.d+e", "0", "..."] {
            assert!(check_id(good).is_ok(), "{good:?}");
        }
        for bad in [".", "..", "a/b", "a b", "ä", &"x".repeat(1025)] {
            assert!(matches!(check_id(bad), Err(RuntimeError::BadId)), "{bad:?}");
        }
        assert!(matches!(check_id(""), Err(RuntimeError::EmptyId)));
    }

    #[test]
    fn the_cgroup_of_a_vm_goes_with_its_last_container() {
        let mut own = record("c1");
        own.cgroup = Some("a".into());
        assert_eq!(own.cgroups(true), [] as [&Path; 0]);
        assert_eq!(own.cgroups(false), [Path::new("a")]);
        let mut joined = record("c2");
        joined.cgroup = Some("b".into());
        joined.sandbox = Some("c1".into());
        joined.joined = Some(Joined {
            cgroup: Some("a".into()),
        });
        assert_eq!(joined.cgroups(true), [Path::new("b")]);
        assert_eq!(joined.cgroups(false), [Path::new("b"), Path::new("a")]);
        assert_eq!(
            (own.sandbox(), joined.sandbox()),
            ("c1".into(), "c1".into())
        );
    }

    #[test]
    fn a_cgroup_that_only_a_vm_is_left_in_is_known() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(Some(root.path())).unwrap();
        let keep = |record: &Record| {
            let claim = store.claim(&record.id, None, &VmName::default()).unwrap();
            claim.keep(record).unwrap();
        };
        let mut own = record("c1");
        own.cgroup = Some("a".into());
        let mut joined = record("c2");
        joined.joined = Some(Joined {
            cgroup: Some("a".into()),
        });
        keep(&own);
        keep(&joined);
        let is_alone = || store.has_vm_alone_in(Path::new("a"));
        assert!(!is_alone());
        store.remove("c1").unwrap();
        assert!(is_alone());
        store.remove("c2").unwrap();
        assert!(!is_alone());
    }

    #[test]
    fn every_id_has_a_sandbox() {
        assert_eq!(sandbox_id("c1"), "c1");
        let long = sandbox_id(&"x".repeat(1000));
        assert!(long.len() < 64);
        assert_ne!(sandbox_id("a+b"), sandbox_id("a+c"));
    }

    #[test]
    fn a_claim_holds_an_id_and_a_dropped_one_frees_it() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(Some(&root.path().join("new/root"))).unwrap();
        assert!(matches!(store.load("c1"), Err(RuntimeError::NotFound)));
        let claim = store.claim("c1", None, &VmName::default()).unwrap();
        assert!(matches!(
            store.claim("c1", None, &VmName::default()),
            Err(RuntimeError::Exists)
        ));
        assert!(store.abandoned().is_empty(), "this process lives");
        // Not complete, so not there yet.
        assert!(matches!(store.load("c1"), Err(RuntimeError::NotFound)));
        drop(claim);
        store
            .claim("c1", None, &VmName::default())
            .unwrap()
            .keep(&record("c1"))
            .unwrap();
        assert_eq!(store.load("c1").unwrap(), record("c1"));
        assert_eq!(store.list().unwrap().len(), 1);
        store.remove("c1").unwrap();
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_root_that_is_named_is_there() {
        let missing = Store::new(Some(Path::new("/nonexistent/root"))).unwrap();
        assert!(matches!(missing.list(), Err(RuntimeError::Io { .. })));
    }

    #[test]
    fn what_a_dead_maker_left_is_found() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(Some(root.path())).unwrap();
        let directory = root.path().join("c1");
        std::fs::create_dir(&directory).unwrap();
        assert!(store.abandoned().is_empty(), "nobody is known");
        let draft = r#"{"creator": {"pid": 1, "start_time": 99999999999}, "cgroup": "a/b"}"#;
        std::fs::write(directory.join(DRAFT_FILE), draft).unwrap();
        let found = store.abandoned();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.cgroup, Some("a/b".into()));
        std::fs::write(directory.join(STATE_FILE), "{}").unwrap();
        assert!(store.abandoned().is_empty(), "it is whole");
    }
}
