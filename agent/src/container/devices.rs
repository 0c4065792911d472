//! Device nodes and links below /dev, by the OCI runtime specification ("Default Devices", "Dev
//! symbolic links").

use std::fs;
use std::io;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;

use rustix::fs::{FileType, Mode};

use super::mounts::{self, Tree};
use super::plan::{DeviceKind, DevicePlan};
use super::resolve;
use crate::error::{Context, Result};

/// Path, major and minor number; all character devices of mode 0666.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Major and minor number of what loop devices are asked for by.
const LOOP_CONTROL: (u32, u32) = (10, 237);
const LOOP_MAJOR: u32 = 7;
/// As many as the kernel of a host has from its start.
const LOOPS: u32 = 8;

/// Link and target.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Makes the default devices, those of the configuration, and the links.
pub(super) fn create(devices: &[DevicePlan]) -> Result<()> {
    for (path, major, minor) in DEFAULT {
        let device = DevicePlan {
            path: path.into(),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        if !devices.iter().any(|named| named.path == device.path) {
            make(&device).context(|| format!("failed to make device {path}"))?;
        }
    }
    for device in devices.iter().chain(&loops(devices)) {
        make(device).context(|| format!("failed to make device {}", device.path.display()))?;
    }
    for (link, target) in LINKS {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).context(|| format!("failed to link {link} to {target}"))
            }
            _ => {}
        }
    }
    if Path::new("/dev/pts/ptmx").exists() {
        let _ = fs::remove_file("/dev/ptmx");
        symlink("pts/ptmx", "/dev/ptmx")
            .context(|| "failed to link /dev/ptmx to pts/ptmx".to_string())?;
    }
    Ok(())
}

/// A default device of the guest, and where it belongs.
pub(super) type Node = (&'static str, Tree);

/// Opens the guest's own default devices.
pub(super) fn open_default() -> Result<Vec<Node>> {
    let open = |(path, _, _): (&'static str, u32, u32)| {
        let tree = mounts::open_source(Path::new(path), false)?;
        Ok((path, tree))
    };
    DEFAULT.into_iter().map(open).collect()
}

/// Shows them in a /dev of somebody else's, whose nodes of that name mean another kernel's. Where it has
/// none, nothing is made. Read-only: a device can be written to all the same, but its mode is the guest's.
pub(super) fn show_default(nodes: &[Node]) -> Result<()> {
    for (path, tree) in nodes {
        let path = Path::new(path);
        if path.exists() {
            mounts::mount_file(tree, path, true)?;
        }
    }
    Ok(())
}

/// Gives the container terminals of its own where those at their place are the host's, of which none can
/// be opened here.
pub(super) fn own_terminals() -> Result<()> {
    let terminals = Path::new("/dev/pts");
    if !terminals.is_dir() || !mounts::is_shared(terminals)? {
        return Ok(());
    }
    mounts::devpts(terminals)?;
    let multiplexer = Path::new("/dev/ptmx");
    if !multiplexer.exists() || !mounts::is_shared(multiplexer)? {
        return Ok(());
    }
    let own = mounts::open_source(&terminals.join("ptmx"), false)?;
    mounts::mount_file(&own, multiplexer, false)
}

/// The guest's loop devices, for who may ask for them: nobody else makes their nodes.
fn loops(named: &[DevicePlan]) -> Vec<DevicePlan> {
    let asks = |device: &DevicePlan| {
        device.kind == DeviceKind::Char && (device.major, device.minor) == LOOP_CONTROL
    };
    if !named.iter().any(asks) {
        return Vec::new();
    }
    let loops = (0..LOOPS).map(|minor| DevicePlan {
        path: format!("/dev/loop{minor}").into(),
        kind: DeviceKind::Block,
        major: LOOP_MAJOR,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 0,
    });
    loops
        .filter(|device| !named.iter().any(|other| other.path == device.path))
        .collect()
}

fn make(device: &DevicePlan) -> io::Result<()> {
    let path = resolve::follow(Path::new("/"), &device.path)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Something is mounted there: the configuration's mounts come before default devices.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
        other => other?,
    }
    let kind = match device.kind {
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    let number = rustix::fs::makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode);
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, number)?;
    // The umask does not apply to what the configuration asks for.
    fs::set_permissions(&path, fs::Permissions::from_mode(device.mode))?;
    std::os::unix::fs::chown(&path, Some(device.uid), Some(device.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, kind: DeviceKind, major: u32, minor: u32) -> DevicePlan {
        DevicePlan {
            path: path.into(),
            kind,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn who_may_ask_for_loop_devices_has_their_nodes() {
        let control = device("/dev/loop-control", DeviceKind::Char, 10, 237);
        let third = device("/dev/loop3", DeviceKind::Block, 7, 3);
        let fuse = device("/dev/fuse", DeviceKind::Char, 10, 229);
        assert!(loops(&[fuse.clone(), third.clone()]).is_empty());
        let paths: Vec<_> = loops(&[fuse, third, control])
            .into_iter()
            .map(|made| (made.path, made.major, made.minor))
            .collect();
        assert_eq!(paths.len(), 7);
        assert_eq!(paths[3], ("/dev/loop4".into(), 7, 4));
    }
}
