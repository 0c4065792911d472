//! One attack: an attacker's VM and a neighbour's, and what can be seen of them from the host.

use std::fs::File;
use std::io::{IoSlice, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hull_vm_config::control::{Event, Request};
use hull_vm_config::{BlockConfig, Extent, FsConfig, NetConfig, QueuePair, VmConfig};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::attacks::{Attack, Outcome};
use crate::cage::Cage;
use crate::code::Code;
use crate::common::{code, config, kernel, kvm, Vmm};
use crate::share::Share;
use crate::tap::Tap;
use crate::{DONE, MEMORY_BYTES};

/// For hosts that emulate guests, and are busy.
const LIMIT: Duration = Duration::from_secs(120);
/// What a guest gets that may stand still.
const CONTAINED: Duration = Duration::from_secs(1);
/// Until the guest is asked again whether it is done.
const POLL: Duration = Duration::from_millis(20);
/// How long a busy host may take to give the neighbour some time.
const PROGRESS: Duration = Duration::from_secs(20);
/// Bytes of the disk that the guest sees, and of the guards before and after it.
const DISK_BYTES: u64 = 1 << 20;
const GUARD: u8 = 0xc3;
/// What a VMM may use beside guest memory, in KiB.
const OVERHEAD_KIB: u64 = 48 << 10;
/// Descriptors that a VMM of this size has at most.
const DESCRIPTORS: usize = 96;

/// How an attack was held.
pub(crate) enum Done {
    Held(String),
    Skipped(String),
}

/// Runs an attack.
pub(crate) fn run(attack: &Attack) -> Result<Done, String> {
    let (Some(ours), Some(neighbours)) = (kvm(), kvm()) else {
        return Ok(Done::Skipped("no KVM".into()));
    };
    let neighbour = Vmm::start(neighbours, &config(), &kernel(&[code::spin()]));
    expect(
        &neighbour,
        |event| event == Event::Started,
        "the neighbour started",
    )?;

    let share = match attack.share.then(Share::start) {
        None => None,
        Some(Ok(share)) => Some(share),
        Some(Err(why)) => return Ok(Done::Skipped(why)),
    };
    let tap = match attack.tap.then(|| Tap::make("hx")) {
        None => None,
        Some(Ok(tap)) => Some(tap),
        Some(Err(why)) => return Ok(Done::Skipped(why)),
    };
    let vhost = match attack.vhost.then(open_vhost) {
        None => None,
        Some(Ok(vhost)) => Some(vhost),
        Some(Err(why)) => return Ok(Done::Skipped(format!("no vhost-net: {why}"))),
    };
    let disks = Disks::make().map_err(|error| format!("no disks: {error}"))?;
    // It outlives the attacker: a cgroup can go when nobody is in it.
    let cage;
    let attacker = start(ours, &disks, share.as_ref(), tap.as_ref(), vhost, attack)?;
    cage = Cage::around(attacker.pid())?;
    let before = ticks(neighbour.pid());
    expect(
        &attacker,
        |event| event == Event::Started,
        "the attacker started",
    )?;
    // Two connections that the guest may answer as it likes.
    let mut connections = Vec::new();
    // A guest that ends its VM may have done so by now.
    let wanted = if attack.outcome == Outcome::Served {
        2
    } else {
        0
    };
    for _ in 0..wanted {
        connections.push(connect(&attacker).map_err(|error| format!("no connection: {error}"))?);
    }
    let evidence = match attack.outcome {
        Outcome::Served => served(&attacker)?,
        Outcome::Contained => contained(&attacker)?,
        Outcome::Ends(want) => {
            let (reason, _) = attacker.ended();
            let reason = reason.to_string();
            if !reason.starts_with(want) {
                return Err(format!("the VM ended so: {}", first_words(&reason)));
            }
            first_words(&reason)
        }
    };
    let charged = cage.as_ref().map(Cage::check).transpose()?;
    goes_on(&neighbour, before)?;
    disks.check()?;
    if let Some(share) = share {
        share.check(attack.outcome == Outcome::Served)?;
    }
    neighbour.send(&Request::Pause);
    expect(
        &neighbour,
        |event| event == Event::Paused,
        "the neighbour still obeys",
    )?;
    let charged = charged.map_or_else(String::new, |charged| format!("; {charged}"));
    Ok(Done::Held(evidence + &charged))
}

/// The neighbour's guest, which spins, gets time.
fn goes_on(neighbour: &Vmm, before: u64) -> Result<(), String> {
    let until = Instant::now() + PROGRESS;
    while ticks(neighbour.pid()) <= before {
        if until < Instant::now() {
            return Err("the neighbour stands still".into());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// CPU time of a process so far, in clock ticks; 0 if it is gone.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = after_name.split_whitespace().skip(11).take(2);
    times.filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn expect(vmm: &Vmm, is: impl FnOnce(Event) -> bool, what: &str) -> Result<(), String> {
    let event = vmm.event();
    let text = format!("{event:?}");
    is(event)
        .then_some(())
        .ok_or(format!("instead of \"{what}\": {text}"))
}

/// Waits until the guest says that it is done, then looks at what is left of the VMM.
fn served(attacker: &Vmm) -> Result<String, String> {
    let until = Instant::now() + LIMIT;
    loop {
        // What it said before it ended can still be read.
        let _ = attacker.try_send(&Request::Trace);
        match attacker.event() {
            Event::Trace { marks } if marks.iter().any(|mark| mark.name == DONE.name()) => break,
            Event::Trace { .. } | Event::Ready => {}
            other => return Err(format!("the VM did not go on: {other:?}")),
        }
        if until < Instant::now() {
            return Err("the guest did not get through".into());
        }
        std::thread::sleep(POLL);
    }
    let facts = facts(attacker.pid()).map_err(|error| format!("no facts: {error}"))?;
    facts.check()?;
    attacker.send(&Request::Pause);
    loop {
        match attacker.event() {
            Event::Paused => break,
            Event::Ready | Event::Trace { .. } => {}
            other => return Err(format!("it does not pause: {other:?}")),
        }
    }
    Ok(format!(
        "at most {} KiB, {} open files",
        facts.peak_kib, facts.descriptors
    ))
}

/// Gives the guest some time, then asks it to stand still.
fn contained(attacker: &Vmm) -> Result<String, String> {
    std::thread::sleep(CONTAINED);
    // One that has ended has none.
    if let Ok(facts) = facts(attacker.pid()) {
        facts.check()?;
    }
    let alive = attacker.try_send(&Request::Pause);
    loop {
        match attacker.event() {
            Event::Paused if alive => return Ok("it obeys".into()),
            Event::Exited { reason } => return Ok(first_words(&reason.to_string())),
            Event::Ready => {}
            other => return Err(format!("it does not pause: {other:?}")),
        }
    }
}

/// Of a reason, which ends with the end of the guest's console.
fn first_words(reason: &str) -> String {
    reason.chars().take(120).collect()
}

struct Facts {
    peak_kib: u64,
    descriptors: usize,
}

impl Facts {
    fn check(&self) -> Result<(), String> {
        if (MEMORY_BYTES >> 10) + OVERHEAD_KIB < self.peak_kib {
            return Err(format!("the VMM grew to {} KiB", self.peak_kib));
        }
        if DESCRIPTORS < self.descriptors {
            return Err(format!("the VMM has {} open files", self.descriptors));
        }
        Ok(())
    }
}

fn facts(pid: u32) -> std::io::Result<Facts> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    Ok(Facts {
        peak_kib: peak.ok_or_else(|| std::io::Error::other("no VmHWM"))?,
        descriptors: match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(entries) => entries.count(),
            // Only root may look into a jail.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => 0,
            Err(error) => return Err(error),
        },
    })
}

fn start(
    kvm: OwnedFd,
    disks: &Disks,
    share: Option<&Share>,
    tap: Option<&Tap>,
    vhost: Option<OwnedFd>,
    attack: &Attack,
) -> Result<Vmm, String> {
    let mut program = Code::new();
    (attack.write)(&mut program);
    program.out(hull_protocol::TRACE_IO_PORT, DONE as u8);
    program.raw(&code::spin());
    let mut config = attackers_config();
    config.devices.fs = share.map(|_| FsConfig {
        socket: "fs".into(),
        tag: "hull".into(),
    });
    config.devices.nets.extend(tap.map(|_| NetConfig {
        pairs: vec![QueuePair {
            tap: "tap".into(),
            vhost: vhost.as_ref().map(|_| "vhost".into()),
        }],
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
    }));
    let json = serde_json::to_vec(&config).map_err(|error| error.to_string())?;
    let clone = |file: &File| file.try_clone().map(OwnedFd::from);
    let console = tempfile::tempfile().and_then(|file| clone(&file));
    let failed = |error: std::io::Error| error.to_string();
    let mut files = vec![
        ("kvm", kvm),
        ("config", crate::common::file_of(&json)),
        (
            "kernel",
            crate::common::file_of(&kernel(&[program.into_bytes()])),
        ),
        ("initramfs", crate::common::file_of(b"nothing")),
        ("image", clone(&disks.image).map_err(failed)?),
        ("scratch", clone(&disks.scratch).map_err(failed)?),
        ("console", console.map_err(failed)?),
    ];
    if let Some(share) = share {
        let socket = share.connection.try_clone().map_err(failed)?;
        files.push(("fs", socket.into()));
    }
    if let Some(vhost) = vhost {
        files.push(("vhost", vhost));
    }
    if let Some(tap) = tap {
        files.push(("tap", tap.open()?));
    }
    Ok(Vmm::start_with(files))
}

fn open_vhost() -> std::io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/vhost-net")?;
    Ok(file.into())
}

fn attackers_config() -> VmConfig {
    let mut config = config();
    config.memory_bytes = MEMORY_BYTES;
    let disk = |fd: &str, offset, read_only| BlockConfig {
        extents: vec![Extent {
            fd: fd.into(),
            offset,
            length: DISK_BYTES,
        }],
        read_only,
        serial: fd.into(),
    };
    config.devices.image = Some(disk("image", 0, true));
    config.devices.scratch = Some(disk("scratch", DISK_BYTES, false));
    config.devices.console = Some("console".into());
    config
}

/// What the guest gets, and what it must not change.
struct Disks {
    image: File,
    /// The guest's disk lies between two guards.
    scratch: File,
}

impl Disks {
    fn make() -> std::io::Result<Self> {
        let guard = vec![GUARD; usize::try_from(DISK_BYTES).unwrap_or_default()];
        let mut image = tempfile::tempfile()?;
        image.write_all(&guard)?;
        let scratch = tempfile::tempfile()?;
        scratch.write_all_at(&guard, 0)?;
        scratch.write_all_at(&guard, 2 * DISK_BYTES)?;
        Ok(Self { image, scratch })
    }

    fn check(mut self) -> Result<(), String> {
        let mut content = Vec::new();
        let read = self
            .image
            .rewind()
            .and_then(|()| self.image.read_to_end(&mut content));
        read.map_err(|error| format!("the image: {error}"))?;
        let whole = content.len() as u64 == DISK_BYTES;
        if !whole || content.iter().any(|byte| *byte != GUARD) {
            return Err("the image was changed".into());
        }
        content.clear();
        let read = self
            .scratch
            .rewind()
            .and_then(|()| self.scratch.read_to_end(&mut content));
        read.map_err(|error| format!("the disk: {error}"))?;
        let disk = usize::try_from(DISK_BYTES).unwrap_or_default();
        let guards = content
            .iter()
            .take(disk)
            .chain(content.iter().skip(2 * disk));
        if content.len() != 3 * disk || guards.into_iter().any(|byte| *byte != GUARD) {
            return Err("what lies beside the disk was changed".into());
        }
        Ok(())
    }
}

/// Asks for a connection to the guest; returns the host's end.
fn connect(vmm: &Vmm) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let request = serde_json::to_vec(&Request::Connect { port: 1024 })?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [theirs.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let parts = [IoSlice::new(&request)];
    rustix::net::sendmsg(vmm.control(), &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(ours)
}
