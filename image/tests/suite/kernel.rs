//! The kernel's EROFS, GNU tar and erofs-utils as judges. Each test says why it is skipped where
//! they, or the right to mount, are missing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::stack::{unpacked, Stack};
use crate::support::tarball::{Header, Tarball};

fn run(program: &str, arguments: &[&OsStr]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!(
            "{program}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// A mounted image; unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    /// `None`, with a printed reason, where this machine can't.
    fn of(stack: &Stack) -> Option<Self> {
        let folder = tempfile::tempdir().expect("folder");
        let options = ["-t", "erofs", "-o", "loop,ro"].map(OsStr::new);
        let arguments = [
            &options[..],
            &[stack.file.path().as_os_str(), folder.path().as_os_str()],
        ]
        .concat();
        match run("mount", &arguments) {
            Ok(_) => Some(Self(folder)),
            Err(reason) if is_root() && supports_erofs() => {
                panic!("the kernel refuses the image: {reason}")
            }
            Err(reason) => {
                println!("SKIP: cannot mount EROFS here: {reason}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run("umount", &[self.path().as_os_str()]);
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn supports_erofs() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("erofs"))
        && Path::new("/dev/loop-control").exists()
}

/// Silent if erofs-utils is not installed.
fn fsck(stack: &Stack) {
    match run("fsck.erofs", &[stack.file.path().as_os_str()]) {
        Err(reason) if reason.contains("No such file") => {
            println!("SKIP: fsck.erofs is not installed")
        }
        Err(reason) => panic!("{reason}"),
        Ok(_) => {}
    }
}

/// Everything about one file that an unpacker must keep.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    mtime: (i64, i64),
    links: u64,
    device: u64,
    content: Vec<u8>,
    xattrs: String,
}

fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).expect("metadata");
        let kind = metadata.file_type();
        let mut content = Vec::new();
        if kind.is_file() {
            content = fs::read(&path).expect("read");
        } else if kind.is_symlink() {
            content = fs::read_link(&path)
                .expect("link")
                .into_os_string()
                .into_encoded_bytes();
        } else if kind.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .expect("list")
                    .map(|entry| entry.expect("entry").path()),
            );
        }
        let is_device = kind.is_char_device() || kind.is_block_device();
        let xattrs = match run(
            "getfattr",
            &[
                OsStr::new("-hdm-"),
                OsStr::new("--absolute-names"),
                path.as_os_str(),
            ],
        ) {
            Ok(text) => text.lines().skip(1).collect::<Vec<_>>().join("\n"),
            Err(_) => String::new(),
        };
        let facts = Facts {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            size: if kind.is_dir() { 0 } else { metadata.size() },
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            links: if kind.is_dir() { 0 } else { metadata.nlink() },
            device: if is_device { metadata.rdev() } else { 0 },
            content,
            xattrs,
        };
        found.insert(path.strip_prefix(root).expect("below").to_owned(), facts);
    }
    found
}

/// A tree with one of everything, made by the shell.
const EVERYTHING: &str = r#"
set -e
cd "$1"
mkdir -p deep/er/est ro sgid sticky many names
echo hello > deep/er/est/f
ln deep/er/est/f link; ln -s ../deep/er sym; ln -s "$(printf 't%.0s' $(seq 1 4000))" longsym
ln sym symlink2 || true
head -c 5000000 /dev/urandom > random; head -c 4096 /dev/urandom > block; : > empty
truncate -s 5G sparse; printf end | dd of=sparse bs=1 seek=4900000000 conv=notrunc 2>/dev/null
for i in $(seq 1 3000); do echo $i > many/$i; done
for i in $(seq 1 60); do : > names/$(printf "%0255d" $i); done
touch '!first' '-' '.hidden' ..dots "$(printf 'uml\303\244ut')"
mknod null c 1 3; mknod disk b 259 300000; mkfifo pipe
chown 65534:4000000000 random; chmod 4755 block; chmod 0 empty; chmod 2755 sgid; chmod 1777 sticky
setfattr -n user.note -v value block; setfattr -n trusted.t -v x deep; setfattr -n user.empty empty || true
setcap cap_net_raw+ep random 2>/dev/null || true
setfacl -m u:1000:rw block 2>/dev/null || true
chmod 555 ro
touch -d '1960-01-02 03:04:05.123456789' block; touch -d '2100-01-01 00:00:00.5' many; touch -h -d @1 sym
"#;

#[test]
fn mounted_image_is_what_was_archived() {
    if !is_root() {
        println!("SKIP: needs root to make devices and owners");
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).expect("create");
    let script = ["-c", EVERYTHING, "sh"].map(OsStr::new);
    if let Err(reason) = run("sh", &[&script[..], &[tree.as_os_str()]].concat()) {
        println!("SKIP: cannot make the tree here: {reason}");
        return;
    }
    let before = facts_without_sparse(&tree);
    for format in ["posix", "gnu"] {
        let archive = folder.path().join(format!("{format}.tar"));
        let option = format!("--format={format}");
        let posix = ["--xattrs", "--xattrs-include=*"].map(OsStr::new);
        let options = ["-S", &option, "-cf"].map(OsStr::new);
        let tail = [
            archive.as_os_str(),
            OsStr::new("-C"),
            tree.as_os_str(),
            OsStr::new("."),
        ];
        let first = if format == "posix" { &posix[..] } else { &[] };
        run("tar", &[first, &options[..], &tail].concat()).expect("tar");
        let stack = unpacked(&[fs::read(&archive).expect("read")]);
        fsck(&stack);
        assert!(
            stack.allocated() < 64 << 20,
            "the sparse file is not stored"
        );
        let Some(mount) = Mount::of(&stack) else {
            return;
        };
        let mut after = facts_without_sparse(mount.path());
        assert_eq!(before.len(), after.len());
        for (path, want) in &before {
            let mut found = after
                .remove(path)
                .unwrap_or_else(|| panic!("{path:?} is missing"));
            if format == "gnu" {
                // That format has whole seconds and no attributes.
                found.xattrs.clone_from(&want.xattrs);
                found.mtime.1 = want.mtime.1;
            }
            assert!(found == *want, "{path:?}: {}", difference(&found, want));
        }
        sparse_is_right(mount.path());
    }
}

/// The sparse file is too large to read whole.
fn facts_without_sparse(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let sparse = root.join("sparse");
    assert_eq!(fs::metadata(&sparse).expect("metadata").size(), 5 << 30);
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root).expect("list") {
        let entry = entry.expect("entry");
        if entry.file_name() == "sparse" {
            continue;
        }
        let below = facts(&entry.path());
        found.extend(
            below
                .into_iter()
                .map(|(path, facts)| (Path::new(&entry.file_name()).join(path), facts)),
        );
    }
    found
}

fn sparse_is_right(root: &Path) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::open(root.join("sparse")).expect("open");
    let mut around = [1; 9];
    file.read_exact_at(&mut around, 4_900_000_000 - 3)
        .expect("read");
    assert_eq!(&around, b"\0\0\0end\0\0\0");
}

fn difference(found: &Facts, want: &Facts) -> String {
    let short = |facts: &Facts| {
        let Facts {
            mode,
            owner,
            size,
            mtime,
            links,
            device,
            xattrs,
            ..
        } = facts;
        format!("{mode:o} {owner:?} {size} {mtime:?} {links} {device} {xattrs:?}")
    };
    format!(
        "{} instead of {} (content equal: {})",
        short(found),
        short(want),
        found.content == want.content
    )
}

#[test]
fn kernel_lists_and_finds_large_directories() {
    let mut tar = Tarball::new();
    for n in 0..80 {
        let name = format!("long/{n:0>255}");
        tar = tar.pax(&[("path", name.as_bytes())]).file("cut", b"");
    }
    for n in 0..450 {
        tar = tar.symlink(&format!("links/{n}"), &format!("target of {n}"));
    }
    for n in 0..20_000 {
        tar = tar.file(&format!("many/{n}"), n.to_string().as_bytes());
    }
    let stack = unpacked(&[tar.finish()]);
    fsck(&stack);
    let Some(mount) = Mount::of(&stack) else {
        return;
    };
    for (folder, count) in [("long", 80), ("links", 450), ("many", 20_000)] {
        assert_eq!(
            fs::read_dir(mount.path().join(folder))
                .expect("list")
                .count(),
            count
        );
    }
    for n in 0..20_000 {
        assert_eq!(
            fs::read_to_string(mount.path().join(format!("many/{n}"))).expect("read"),
            n.to_string()
        );
    }
    for n in 0..450 {
        let target = fs::read_link(mount.path().join(format!("links/{n}"))).expect("link");
        assert_eq!(target, Path::new(&format!("target of {n}")));
    }
    for n in 0..80 {
        assert!(mount.path().join(format!("long/{n:0>255}")).exists());
    }
    assert!(!mount.path().join("many/20000").exists());
}

#[test]
fn kernel_reads_attributes_that_cross_blocks() {
    let large = vec![b'v'; 60_000];
    let mut tar = Tarball::new();
    for n in 0..40_usize {
        let value = &large[..n * 37];
        tar = tar
            .pax(&[
                ("SCHILY.xattr.user.a", value),
                ("SCHILY.xattr.user.b", b"after"),
            ])
            .entry(
                format!("s{n}").as_bytes(),
                &Header {
                    kind: b'2',
                    link: vec![b't'; 90],
                    ..Header::default()
                },
                b"",
            )
            .pax(&[
                ("SCHILY.xattr.user.a", value),
                ("SCHILY.xattr.user.b", b"after"),
            ])
            .directory(&format!("d{n}/"), 0o755);
    }
    tar = tar
        .pax(&[("SCHILY.xattr.user.large", &large)])
        .file("large", b"content");
    let stack = unpacked(&[tar.finish()]);
    fsck(&stack);
    let Some(mount) = Mount::of(&stack) else {
        return;
    };
    let value = |path: &str, name: &str| {
        let path = mount.path().join(path);
        let options = ["-h", "--only-values", "-n", name, "--absolute-names"].map(OsStr::new);
        run("getfattr", &[&options[..], &[path.as_os_str()]].concat())
    };
    match value("large", "user.large") {
        Err(reason) if reason.contains("No such file") => {
            println!("SKIP: getfattr is not installed")
        }
        found => assert_eq!(found.expect("large").len(), large.len()),
    }
    for n in 0..40 {
        assert_eq!(
            fs::read_link(mount.path().join(format!("s{n}")))
                .expect("link")
                .as_os_str()
                .len(),
            90
        );
        assert!(fs::read_dir(mount.path().join(format!("d{n}")))
            .expect("list")
            .next()
            .is_none());
        if let Ok(found) = value(&format!("d{n}"), "user.b") {
            assert_eq!(found, "after");
            assert_eq!(value(&format!("d{n}"), "user.a").expect("a").len(), n * 37);
        }
    }
}
