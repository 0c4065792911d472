//! The table alone, and the whole of it with the host's kernel and a guest that may lie.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use hull_protocol::watch::{Event, EVENT_BYTES};
use hull_vm_config::control::ExitReason;
use tempfile::TempDir;

use super::notice::{Notice, Place, Role, RENAME};
use super::table::Full;
use super::*;
use crate::vmm::FakeVmm;

const LIMIT: Duration = Duration::from_secs(10);

fn inode(node: u64) -> Inode {
    Inode { device: 1, node }
}

fn root(directory: &TempDir) -> OwnedFd {
    File::open(directory.path()).unwrap().into()
}

/// Whether the tests may use fanotify.
fn may_watch() -> bool {
    sys::group().is_ok()
}

#[test]
fn links_lead_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("0")).unwrap();
    File::create(path("0/f")).unwrap();
    symlink("/etc", path("0/out")).unwrap();
    symlink("f", path("0/in")).unwrap();
    symlink("/proc/self/root", path("0/magic")).unwrap();
    let root = root(&directory);
    let opened = |name: &str| super::open(&root, Path::new(name));
    assert!(opened("0").unwrap().is_directory && !opened("0/f").unwrap().is_directory);
    // A link itself can be watched.
    let link = opened("0/in").unwrap();
    assert_ne!(link.identity, opened("0/f").unwrap().identity);
    for bad in ["0/out/passwd", "0/magic/etc", "0/in/x", "0/none", "../x"] {
        assert!(matches!(opened(bad), Err(WatchError::Open(_))), "{bad}");
    }
}

fn table_with(directory: &TempDir, watches: &[(u64, u32, &str)]) -> Table {
    let mut table = Table::default();
    let root = root(directory);
    for (node, mask, path) in watches {
        let opened = super::open(&root, Path::new(path)).unwrap();
        table
            .add(inode(*node), *mask, opened, Path::new(path))
            .unwrap();
    }
    table
}

fn identity(directory: &TempDir, path: &str) -> Box<[u8]> {
    super::open(&root(directory), Path::new(path))
        .unwrap()
        .identity
}

#[test]
fn an_event_is_for_those_who_asked_and_not_for_its_cause() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("d")).unwrap();
    File::create(directory.path().join("d/f")).unwrap();
    let mut table = table_with(
        &directory,
        &[
            (1, mask::MODIFY | mask::CREATE, "d"),
            (2, mask::MODIFY, "d"),
            (3, mask::ATTRIB, "d/f"),
        ],
    );
    let (d, f) = (identity(&directory, "d"), identity(&directory, "d/f"));
    let notice = |bits: u32, pid| Notice {
        mask: bits.into(),
        pid,
        places: vec![
            Place {
                role: Role::Directory,
                identity: &d,
                name: b"f",
            },
            Place {
                role: Role::Itself,
                identity: &f,
                name: b"",
            },
            Place {
                role: Role::Itself,
                identity: b"unknown",
                name: b"",
            },
        ],
    };
    let told = table.lower(&notice(mask::MODIFY, 5), &[6]);
    let inodes: Vec<_> = told
        .iter()
        .map(|told| (told.inode.node, told.name.clone()))
        .collect();
    assert_eq!(inodes, [(1, b"f".to_vec()), (2, b"f".to_vec())]);
    let told = table.lower(&notice(mask::ATTRIB, 5), &[6]);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].inode, &told[0].name[..]), (inode(3), &b""[..]));
    assert!(table.lower(&notice(mask::MODIFY, 6), &[5, 6]).is_empty());
    // Both at once is told in an order that leaves what is there.
    let both = mask::CREATE | mask::DELETE;
    let told = table.lower(&notice(both, 5), &[]);
    let masks: Vec<_> = told.iter().map(|told| told.mask).collect();
    assert_eq!(masks, [mask::CREATE]);
}

#[test]
fn both_halves_of_a_renaming_have_one_cookie() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("a")).unwrap();
    fs::create_dir(directory.path().join("b")).unwrap();
    let moved = mask::MOVED_FROM | mask::MOVED_TO;
    let mut table = table_with(&directory, &[(1, moved, "a"), (2, mask::MOVED_TO, "b")]);
    let (a, b) = (identity(&directory, "a"), identity(&directory, "b"));
    let mut renamed = |from: &[u8], to: &[u8]| {
        let notice = Notice {
            mask: RENAME | u64::from(mask::IS_DIRECTORY),
            pid: 0,
            places: vec![
                Place {
                    role: Role::From,
                    identity: from,
                    name: b"x",
                },
                Place {
                    role: Role::To,
                    identity: to,
                    name: b"y",
                },
            ],
        };
        table.lower(&notice, &[])
    };
    let told = renamed(&a, &b);
    assert_eq!(told[0].mask, mask::MOVED_FROM | mask::IS_DIRECTORY);
    assert_eq!(told[1].mask, mask::MOVED_TO | mask::IS_DIRECTORY);
    assert!(told[0].cookie != 0 && told[0].cookie == told[1].cookie);
    let again = renamed(&b, &a);
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].cookie, told[0].cookie);
}

#[test]
fn a_guest_has_a_bounded_number_of_watches() {
    let directory = tempfile::tempdir().unwrap();
    let root = root(&directory);
    let mut table = Table::default();
    let mut add = |node: usize, file: usize| {
        let path = PathBuf::from(file.to_string());
        File::create(directory.path().join(&path)).unwrap();
        let opened = super::open(&root, &path).unwrap();
        table.add(inode(node as u64), mask::MODIFY, opened, &path)
    };
    // One file has a bounded number of names in the guest.
    for node in 0..MAX_WATCHES {
        add(node, node / MAX_ALIASES).unwrap();
        if node + 1 == MAX_ALIASES {
            assert_eq!(add(usize::MAX, 0), Err(Full));
        }
    }
    assert_eq!(add(usize::MAX, MAX_WATCHES), Err(Full));
    for node in 0..MAX_WATCHES {
        let last = node % MAX_ALIASES == MAX_ALIASES - 1;
        assert_eq!(table.remove(inode(node as u64)).is_some(), last);
    }
    assert!(table.remove(inode(u64::MAX)).is_none() && !table.change(inode(7), 1));
    assert_eq!(table.len(), 0);
}

/// A guest, the directory that it is shared, and the thread that watches for it.
struct Guest {
    directory: TempDir,
    stream: UnixStream,
    fake: FakeVmm,
    task: std::thread::JoinHandle<()>,
}

impl Guest {
    fn new(servers: Vec<i32>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("0")).unwrap();
        let shared = Shared {
            root: root(&directory),
            servers,
        };
        let (sender, fake) = std::sync::mpsc::channel();
        let task = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (vm, fake) = FakeVmm::start();
                sender.send(fake).unwrap();
                serve(vm, shared).await;
            });
        });
        let fake = fake.recv().unwrap();
        let stream = fake.accept();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self {
            directory,
            stream,
            fake,
            task,
        }
    }

    fn send(&mut self, node: u64, mask: u32, path: &str) -> io::Result<()> {
        let change = Change {
            inode: inode(node),
            mask,
            length: path.len().try_into().unwrap(),
        };
        let mut frame = change.to_bytes().to_vec();
        frame.extend_from_slice(path.as_bytes());
        self.stream.write_all(&frame)
    }

    /// Watches, and knows that it does.
    fn watch(&mut self, node: u64, mask: u32, path: &str) {
        self.send(node, mask, path).unwrap();
        let probe = self.directory.path().join("probe");
        File::create(&probe).unwrap();
        self.send(u64::MAX, mask::ATTRIB, "/probe").unwrap();
        self.stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let mut header = [0; EVENT_BYTES];
        loop {
            // Not by this process, which may be one that is not told of.
            assert!(others("touch", &[&probe]));
            if self.stream.read_exact(&mut header).is_ok() {
                break;
            }
        }
        self.send(u64::MAX, 0, "").unwrap();
        while self.stream.read_exact(&mut header).is_ok() {}
        self.stream.set_read_timeout(Some(LIMIT)).unwrap();
    }

    fn next(&mut self) -> (u64, u32, String) {
        let mut header = [0; EVENT_BYTES];
        self.stream.read_exact(&mut header).unwrap();
        let event = Event::from_bytes(header).unwrap();
        let mut name = vec![0; event.length.into()];
        self.stream.read_exact(&mut name).unwrap();
        (
            event.inode.node,
            event.mask,
            String::from_utf8(name).unwrap(),
        )
    }

    fn end(self) {
        self.fake.end(ExitReason::Reset);
        self.task.join().unwrap();
    }
}

fn others(program: &str, arguments: &[&Path]) -> bool {
    Command::new(program)
        .args(arguments)
        .status()
        .unwrap()
        .success()
}

#[test]
fn what_others_do_is_told_and_what_the_guest_does_is_not() {
    if !may_watch() {
        return;
    }
    let mut guest = Guest::new(vec![std::process::id().try_into().unwrap()]);
    guest.watch(1, mask::TOLD, "/0");
    let file = guest.directory.path().join("0/f");
    // As virtiofsd, for the guest.
    fs::write(guest.directory.path().join("0/own"), "x").unwrap();
    assert!(others("touch", &[&file]));
    let name = || "f".to_owned();
    assert_eq!(guest.next(), (1, mask::CREATE, name()));
    assert_eq!(guest.next(), (1, mask::ATTRIB, name()));
    assert_eq!(guest.next(), (1, mask::CLOSE_WRITE, name()));
    let other = guest.directory.path().join("0/g");
    assert!(others("mv", &[&file, &other]));
    assert_eq!(guest.next(), (1, mask::MOVED_FROM, name()));
    assert_eq!(guest.next(), (1, mask::MOVED_TO, "g".to_owned()));
    assert!(others("rm", &[&other]));
    assert_eq!(guest.next(), (1, mask::DELETE, "g".to_owned()));
    guest.end();
}

#[test]
fn the_end_of_what_is_watched_is_told_though_it_is_open() {
    if !may_watch() {
        return;
    }
    let mut guest = Guest::new(Vec::new());
    let path = |name: &str| guest.directory.path().join(name);
    let (file, inner) = (path("0/f"), path("0/d"));
    fs::write(&file, "x").unwrap();
    fs::create_dir(&inner).unwrap();
    let ends = mask::DELETE_SELF;
    guest.watch(1, ends, "/0/f");
    guest.watch(2, ends, "/0/d");
    guest.watch(3, mask::CREATE, "/0");
    fs::remove_file(&file).unwrap();
    assert_eq!(guest.next(), (1, ends, String::new()));
    fs::remove_dir(&inner).unwrap();
    assert_eq!(guest.next(), (2, ends, String::new()));
    guest.end();
}

#[test]
fn a_guest_that_lies_watches_nothing_and_hurts_nobody() {
    if !may_watch() {
        return;
    }
    let mut guest = Guest::new(Vec::new());
    symlink("/etc", guest.directory.path().join("0/out")).unwrap();
    for bad in ["/0/out/passwd", "/../x", "", "/", "/0/none", "0", "/0/\0"] {
        guest.send(1, mask::TOLD, bad).unwrap();
    }
    for node in 0..20_000 {
        // A watch that is none ends often, and one that is changes often.
        guest.send(node, 0, "").unwrap();
        guest.send(9, mask::TOLD, "/0").unwrap();
    }
    let file = guest.directory.path().join("0/f");
    guest.watch(9, mask::CREATE, "/0");
    assert!(others("touch", &[&file]));
    assert_eq!(guest.next(), (9, mask::CREATE, "f".to_owned()));
    // What is no frame ends it.
    guest.stream.write_all(&[0xff; CHANGE_BYTES]).unwrap();
    guest.task.join().unwrap();
}
