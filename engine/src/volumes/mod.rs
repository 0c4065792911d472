//! Volumes. Those of the local driver are directories below the state directory; of those that
//! plugins make, only the description is here.
//!
//! ```text
//! <root>/volumes/<name>/volume.json   what is known of it
//! <root>/volumes/<name>/_data         its files
//! <root>/volumes/<name>/disk.ext4     or the disk with them
//! <root>/volumes/.new-<id>            one that is being made, and is there at once by its name
//! <root>/volumes/.removed-<id>        one that is gone, and whose files are being removed
//! ```

mod disk;
mod manage;
mod options;
mod wanted;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, Result};
use crate::ids;

pub(crate) use manage::{Held, Shown};
pub(crate) use wanted::{wanted, VolumeUse};

/// The driver that is Hull's own.
pub(crate) const LOCAL: &str = "local";
/// The label that tells a volume without a name of its own.
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";
const DESCRIPTION: &str = "volume.json";
const DATA: &str = "_data";
const DISK: &str = "disk.ext4";
const TMPFS: &str = "tmpfs";
/// No volume's name begins so.
const NEW_PREFIX: &str = ".new-";
const REMOVED_PREFIX: &str = ".removed-";
/// How a guest's `trusted.hull.filling` is seen on this side of a shared directory.
const FILLING: &str = "user.virtiofs.trusted.hull.filling";
/// A disk of its own, with a file system in it.
const BLOCK: &str = "block";
/// Shortest name, in bytes.
const MIN_NAME_BYTES: usize = 2;
/// Longest name, in bytes: that of a directory.
const MAX_NAME_BYTES: usize = 255;

/// A volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) name: String,
    #[serde(default = "local")]
    pub(crate) driver: String,
    pub(crate) created: Timestamp,
    #[serde(default)]
    pub(crate) labels: HashMap<String, String>,
    #[serde(default)]
    pub(crate) options: HashMap<String, String>,
}

fn local() -> String {
    LOCAL.to_owned()
}

impl VolumeRecord {
    /// It is no plugin's.
    pub(crate) fn is_local(&self) -> bool {
        self.driver == LOCAL
    }

    /// Nobody gave it its name.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS_LABEL)
    }

    /// Another directory of the host that the volume shows, by `type=none,o=bind,device=PATH`.
    fn bound(&self) -> Option<PathBuf> {
        let device = self.options.get("device").map(PathBuf::from);
        device.filter(|_| self.tmpfs().is_none())
    }

    /// Fails if the directory that it shows is not there.
    pub(crate) fn check_bound(&self) -> Result<()> {
        let Some(bound) = self.bound().filter(|_| self.is_local()) else {
            return Ok(());
        };
        let why = match std::fs::metadata(&bound) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) => io::ErrorKind::NotADirectory.to_string(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "no such file or directory".to_owned()
            }
            Err(error) => error.to_string(),
        };
        Err(EngineError::BadRequest(format!(
            "error while mounting volume '{}': failed to mount local volume: {}: {why}",
            self.name,
            bound.display()
        )))
    }

    /// Options of the mount of a directory.
    pub(crate) fn flags(&self) -> Vec<String> {
        match self.bound() {
            Some(_) => options::flags(self.options.get("o").map(String::as_str)),
            None => Vec::new(),
        }
    }

    /// It is a disk, which only guests look into.
    pub(crate) fn is_disk(&self) -> bool {
        self.options.get("type").is_some_and(|kind| kind == BLOCK)
    }

    /// It is memory of each guest that has it: the options of its mount.
    pub(crate) fn tmpfs(&self) -> Option<String> {
        let is_tmpfs = self.options.get("type").is_some_and(|kind| kind == TMPFS);
        is_tmpfs.then(|| self.options.get("o").cloned().unwrap_or_default())
    }
}

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct CreateVolume {
    /// Empty: one is made up.
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) options: HashMap<String, String>,
}

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    all: Mutex<BTreeMap<String, VolumeRecord>>,
    /// Who waits for whom to fill which.
    fills: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Volumes {
    /// Reads what there is, and removes what was being made or removed when an engine ended. A
    /// directory without a readable description is left alone, and told of.
    pub(crate) fn open(root: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&root).map_err(|e| EngineError::io("create", &root, e))?;
        let mut all = BTreeMap::new();
        let entries = std::fs::read_dir(&root).map_err(|e| EngineError::io("read", &root, e))?;
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                remove_in_background(entry.path());
                continue;
            }
            let path = entry.path().join(DESCRIPTION);
            let read = std::fs::read(&path);
            let record = read.and_then(|text| Ok(serde_json::from_slice::<VolumeRecord>(&text)?));
            match record {
                Ok(record) => {
                    all.insert(record.name.clone(), record);
                }
                Err(error) => tracing::warn!(?path, %error, "no volume"),
            }
        }
        Ok(Self {
            root,
            all: Mutex::new(all),
            fills: Mutex::default(),
        })
    }

    /// What is held by who starts a guest that may fill a volume: another would find half of it.
    fn fill(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fills = self.fills.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fill) = fills.get(name).and_then(Weak::upgrade) {
            return fill;
        }
        fills.retain(|_, fill| fill.strong_count() > 0);
        let fill = Arc::default();
        fills.insert(name.to_owned(), Arc::downgrade(&fill));
        fill
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, VolumeRecord>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All, by name.
    pub(crate) fn all(&self) -> Vec<VolumeRecord> {
        self.lock().values().cloned().collect()
    }

    /// One, by its name.
    pub(crate) fn find(&self, name: &str) -> Result<VolumeRecord> {
        let found = self.lock().get(name).cloned();
        found.ok_or_else(|| EngineError::NoSuchVolume(name.to_owned()))
    }

    /// The driver of a volume, also of one that is gone.
    pub(crate) fn driver_of(&self, name: &str) -> String {
        self.find(name)
            .map_or_else(|_| local(), |volume| volume.driver)
    }

    /// The directory with a local volume's files, or the disk with them.
    pub(crate) fn data(&self, volume: &VolumeRecord) -> PathBuf {
        let name = if volume.is_disk() { DISK } else { DATA };
        volume
            .bound()
            .unwrap_or_else(|| self.root.join(&volume.name).join(name))
    }

    /// Whether nothing has been put into a local one. What is on a disk only the guest knows.
    pub(crate) fn is_empty(&self, volume: &VolumeRecord) -> bool {
        volume.is_disk() || is_empty(&self.data(volume))
    }

    /// Those of some parts of a local volume that are empty directories.
    pub(crate) fn empty_parts<'a>(
        &self,
        volume: &VolumeRecord,
        parts: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        match volume.is_disk() {
            true => parts.map(str::to_owned).collect(),
            false => empty_parts(&self.data(volume), parts),
        }
    }

    /// Makes a local volume, or finds the one of this name. `true`: it is new.
    fn create(&self, wanted: CreateVolume) -> Result<(VolumeRecord, bool)> {
        options::check(&wanted.options).map_err(|error| match error {
            EngineError::BadRequest(why) => {
                EngineError::BadRequest(format!("create {}: {why}", wanted.name))
            }
            other => other,
        })?;
        let mut labels = wanted.labels;
        let name = match wanted.name.as_str() {
            "" => {
                labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
                ids::new_id()
            }
            name => {
                check_name(name)?;
                name.to_owned()
            }
        };
        let record = VolumeRecord {
            name,
            driver: local(),
            created: Timestamp::now(),
            labels,
            options: wanted.options,
        };
        // As with dockerd: what there is keeps its options, whatever is asked for.
        if let Some(there) = self.lock().get(&record.name) {
            return Ok((there.clone(), false));
        }
        let made = self.root.join(format!("{NEW_PREFIX}{}", ids::new_id()));
        let placed = make(&made, &record).and_then(|()| self.place(&made, &record));
        if !matches!(placed, Ok((_, true))) {
            let _ = std::fs::remove_dir_all(&made);
        }
        placed
    }

    /// Gives a volume that is made its name, unless another has got it meanwhile.
    fn place(&self, made: &Path, record: &VolumeRecord) -> Result<(VolumeRecord, bool)> {
        let mut all = self.lock();
        if let Some(there) = all.get(&record.name) {
            return Ok((there.clone(), false));
        }
        let directory = self.root.join(&record.name);
        std::fs::rename(made, &directory)
            .map_err(|error| EngineError::io("create the volume", &directory, error))?;
        all.insert(record.name.clone(), record.clone());
        Ok((record.clone(), true))
    }

    /// Takes down that a plugin has a volume.
    fn register(&self, record: &VolumeRecord) -> Result<()> {
        let mut all = self.lock();
        describe(&self.root.join(&record.name), record)?;
        all.insert(record.name.clone(), record.clone());
        Ok(())
    }

    /// Removes a volume: it is gone at once, and its files when this returns. Whoever calls it knows
    /// that no container has it.
    fn remove(&self, name: &str) -> Result<VolumeRecord> {
        let failed = |path: &Path, error| EngineError::io("remove the volume", path, error);
        let gone = self.root.join(format!("{REMOVED_PREFIX}{}", ids::new_id()));
        let record = {
            let mut all = self.lock();
            let record = all
                .get(name)
                .cloned()
                .ok_or_else(|| EngineError::NoSuchVolume(name.to_owned()))?;
            let directory = self.root.join(name);
            match std::fs::rename(&directory, &gone) {
                // Somebody else took it away.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                renamed => renamed.map_err(|error| failed(&directory, error))?,
            }
            all.remove(name);
            record
        };
        match std::fs::remove_dir_all(&gone) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&gone, error)),
            _ => Ok(record),
        }
    }
}

fn remove_in_background(path: PathBuf) {
    std::thread::spawn(move || {
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(?path, %error, "cannot remove what is left of a volume");
        }
    });
}

/// Makes a local volume's directory.
fn make(directory: &Path, record: &VolumeRecord) -> Result<()> {
    let io = |path: &Path, error| EngineError::io("create the volume", path, error);
    let data = match record.is_disk() {
        true => directory.to_owned(),
        false => directory.join(DATA),
    };
    std::fs::create_dir_all(&data).map_err(|error| io(&data, error))?;
    if let Some(bytes) = options::disk_bytes(&record.options)? {
        disk::make(&directory.join(DISK), bytes)?;
    }
    describe(directory, record)
}

fn describe(directory: &Path, record: &VolumeRecord) -> Result<()> {
    let io = |path: &Path, error| EngineError::io("create the volume", path, error);
    std::fs::create_dir_all(directory).map_err(|error| io(directory, error))?;
    let text = serde_json::to_vec(record).map_err(|source| EngineError::Json {
        what: "encode a volume",
        source,
    })?;
    let path = directory.join(DESCRIPTION);
    let new = directory.join(".volume.json.new");
    let written = std::fs::File::create(&new).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    written
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(|error| io(&path, error))
}

/// Whether nothing is in a directory, or a part of what a guest was copying into it: that counts as
/// nothing.
pub(crate) fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
        || rustix::fs::getxattr(directory, FILLING, &mut [0_u8; 16][..]).is_ok()
}

/// Those of some parts of a directory that are empty directories. No link leads out of it.
pub(crate) fn empty_parts<'a>(
    directory: &Path,
    parts: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(directory, flags, Mode::empty()) else {
        return Vec::new();
    };
    let is_empty = |part: &&str| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let Ok(opened) = rustix::fs::openat2(&root, *part, flags, Mode::empty(), resolve) else {
            return false;
        };
        if rustix::fs::fgetxattr(&opened, FILLING, &mut [0_u8; 16][..]).is_ok() {
            return true;
        }
        let entries = rustix::fs::Dir::new(opened);
        let dots = |name: &std::ffi::CStr| matches!(name.to_bytes(), b"." | b"..");
        entries.is_ok_and(|entries| {
            let mut entries = entries.flatten();
            entries.all(|entry| dots(entry.file_name()))
        })
    };
    parts.filter(is_empty).map(str::to_owned).collect()
}

/// Bytes of all files below a directory, or that a file takes; what can't be read counts nothing.
fn bytes_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => found.blocks() * 512,
        _ => directory_bytes(path),
    }
}

fn directory_bytes(directory: &Path) -> u64 {
    let mut total = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => left.push(entry.path()),
                Ok(metadata) => total += metadata.len(),
                Err(_) => {}
            }
        }
    }
    total
}

/// Docker's rule for names.
fn check_name(name: &str) -> Result<()> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if first && name.bytes().all(rest) && name.len() <= MAX_NAME_BYTES {
        if name.len() < MIN_NAME_BYTES {
            return Err(EngineError::BadRequest(format!(
                "create {name}: volume name is too short, names should be at least two alphanumeric \
                 characters"
            )));
        }
        return Ok(());
    }
    Err(EngineError::BadRequest(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes() -> (tempfile::TempDir, Volumes) {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path().join("volumes")).unwrap();
        (dir, volumes)
    }

    fn named(name: &str) -> CreateVolume {
        CreateVolume {
            name: name.into(),
            ..CreateVolume::default()
        }
    }

    #[test]
    fn volumes_survive_a_restart_and_are_made_once() {
        let (dir, volumes) = volumes();
        let (data, new) = volumes.create(named("data")).unwrap();
        assert!(new && !data.is_anonymous());
        assert!(!volumes.create(named("data")).unwrap().1);
        let (nameless, _) = volumes.create(named("")).unwrap();
        assert!(nameless.is_anonymous() && nameless.name.len() == 64);
        std::fs::write(volumes.data(&data).join("f"), "x").unwrap();
        let again = Volumes::open(dir.path().join("volumes")).unwrap();
        assert_eq!(again.all().len(), 2);
        assert!(!again.is_empty(&data) && again.is_empty(&nameless));
        again.remove("data").unwrap();
        assert!(matches!(
            again.find("data"),
            Err(EngineError::NoSuchVolume(_))
        ));
        assert!(again.remove("data").is_err());
        assert!(!dir.path().join("volumes/data").exists());
    }

    /// An engine that ends in the middle leaves a volume that is not there yet, or not any more.
    #[test]
    fn what_was_being_made_or_removed_is_no_volume() {
        let (dir, volumes) = volumes();
        let (data, _) = volumes.create(named("data")).unwrap();
        std::fs::write(volumes.data(&data).join("secret"), "x").unwrap();
        let root = dir.path().join("volumes");
        std::fs::rename(root.join("data"), root.join(".removed-1")).unwrap();
        std::fs::create_dir_all(root.join(".new-2/_data")).unwrap();
        let again = Volumes::open(root.clone()).unwrap();
        let (data, new) = again.create(named("data")).unwrap();
        assert!(new && again.is_empty(&data));
        for _ in 0..500 {
            if std::fs::read_dir(&root).unwrap().count() == 1 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("something is left beside the volume");
    }

    #[test]
    fn empty_parts_are_directories_within() {
        let (_dir, volumes) = volumes();
        let (data, _) = volumes.create(named("data")).unwrap();
        let top = volumes.data(&data);
        std::fs::create_dir_all(top.join("full/empty")).unwrap();
        std::fs::write(top.join("file"), "").unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), top.join("out")).unwrap();
        let parts = ["full", "full/empty", "file", "none", "out", "../data"];
        assert_eq!(
            volumes.empty_parts(&data, parts.into_iter()),
            ["full/empty"]
        );
    }

    #[test]
    fn bad_names_and_options_are_refused() {
        let (dir, volumes) = volumes();
        for name in ["a", "../x", "a/b", "-a", "a b", &"x".repeat(300)] {
            assert!(volumes.create(named(name)).is_err(), "{name}");
        }
        let with = |options: &[(&str, &str)]| CreateVolume {
            name: "opts".into(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..CreateVolume::default()
        };
        let path = dir.path().to_str().unwrap().to_owned();
        assert!(volumes.create(with(&[("size", "1g")])).is_err());
        assert!(volumes
            .create(with(&[("type", "nfs"), ("o", "addr=x")]))
            .is_err());
        // It may come before a container starts.
        let (absent, _) = volumes
            .create(CreateVolume {
                name: "absent".into(),
                ..with(&[("o", "bind"), ("device", "/no/such/directory")])
            })
            .unwrap();
        let error = absent.check_bound().unwrap_err().to_string();
        assert!(
            error.contains("/no/such/directory") && error.contains(&absent.name),
            "{error}"
        );
        let bound = |name: &str, o: &str| {
            volumes.create(CreateVolume {
                name: name.into(),
                ..with(&[("type", "none"), ("o", o), ("device", &path)])
            })
        };
        let (record, _) = bound("b1", "ro,bind,noexec,private,defaults,rw").unwrap();
        assert_eq!(record.flags(), ["ro", "noexec"]);
        assert!(bound("b2", "rbind").unwrap().0.flags().is_empty());
        let error = bound("b3", "bind,remount,ro").unwrap_err().to_string();
        assert!(error.contains("remount"), "{error}");
        // Of a file system, which takes none: dockerd's mount of a directory ignores them.
        let (record, _) = bound("b4", "bind,uid=1000,size=10g,nofail,ro").unwrap();
        assert_eq!(record.flags(), ["ro"]);
        let tmpfs = |o: &str| {
            volumes.create(CreateVolume {
                name: format!("t{}", o.len()),
                ..with(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", o)])
            })
        };
        let (record, _) = tmpfs("size=10m,uid=1000,mode=700,noexec").unwrap();
        assert_eq!(record.tmpfs().unwrap(), "size=10m,uid=1000,mode=700,noexec");
        assert!(volumes.data(&record).ends_with("_data"));
        assert!(tmpfs("size=ten").is_err() && tmpfs("mode=9").is_err() && tmpfs("x").is_err());
        for bad in [
            &[("type", "block")][..],
            &[("type", "block"), ("size", "much")],
            &[("type", "block"), ("size", "1k")],
            &[("type", "block"), ("size", "1g"), ("device", "/dev/sda")],
        ] {
            assert!(volumes.create(with(bad)).is_err(), "{bad:?}");
        }
        let bound = [("type", "none"), ("o", "bind"), ("device", path.as_str())];
        let (record, _) = volumes.create(with(&bound)).unwrap();
        assert_eq!(volumes.data(&record), dir.path());
        assert!(record.check_bound().is_ok());
        // What there is stays as it is.
        let (again, new) = volumes.create(with(&[("type", "tmpfs")])).unwrap();
        assert!(!new && again.options == record.options);
        volumes.remove("opts").unwrap();
        assert!(dir.path().exists());
    }

    #[test]
    fn descriptions_of_an_earlier_version_are_of_local_volumes() {
        let (dir, volumes) = volumes();
        let old = r#"{"name": "old", "created": "2026-01-01T00:00:00Z"}"#;
        let folder = dir.path().join("volumes/old");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(DESCRIPTION), old).unwrap();
        let record = VolumeRecord {
            name: "far".into(),
            driver: "plugin".into(),
            created: Timestamp::UNIX_EPOCH,
            labels: HashMap::new(),
            options: HashMap::new(),
        };
        volumes.register(&record).unwrap();
        let again = Volumes::open(dir.path().join("volumes")).unwrap();
        assert!(again.find("old").unwrap().is_local());
        assert_eq!(again.find("far").unwrap(), record);
        again.remove("far").unwrap();
        assert!(!dir.path().join("volumes/far").exists());
    }
}
