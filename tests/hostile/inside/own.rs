//! Attempts with what a running VM has open, and on another VM.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::RawFd;

use crate::attempts::Target;

mod sys;

/// Not in the table: what every thread may do.
pub(crate) const CLOCK: &str = "clock";

/// Descriptors of the VM; -1: it has none.
pub(crate) struct Fds {
    kvm: RawFd,
    vm: RawFd,
    vcpu: RawFd,
    tap: RawFd,
    image: RawFd,
    /// The disk that can be written.
    scratch: RawFd,
}

impl Fds {
    /// Finds them by what the kernel calls them. Only before the jail.
    pub(crate) fn find() -> io::Result<Self> {
        let mut found = Self {
            kvm: -1,
            vm: -1,
            vcpu: -1,
            tap: -1,
            image: -1,
            scratch: -1,
        };
        for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
            let Some(number) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            let flags = flags.unwrap_or_default();
            let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"));
            let read_only = flags.is_some_and(|flags| flags.trim().ends_with('0'));
            match &*target {
                "/dev/kvm" => found.kvm = number,
                "anon_inode:kvm-vm" => found.vm = number,
                "/dev/net/tun" => found.tap = number,
                text if text.starts_with("anon_inode:kvm-vcpu") => found.vcpu = number,
                text if text.ends_with("(deleted)") && text.starts_with('/') => match read_only {
                    true => found.image = number,
                    false => found.scratch = number,
                },
                _ => {}
            }
        }
        Ok(found)
    }
}

/// An attempt: it has worked when it returns.
pub(crate) struct Own {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Fds, &Target, &str) -> io::Result<()>,
    /// It works before the jail: not what the file's own flags refuse, nor what takes a descriptor that is
    /// closed by then.
    pub(crate) works: bool,
}

const fn own(
    name: &'static str,
    what: &'static str,
    run: fn(&Fds, &Target, &str) -> io::Result<()>,
) -> Own {
    Own {
        name,
        what,
        run,
        works: true,
    }
}

pub(crate) fn read_the_clock() -> io::Result<()> {
    match std::time::SystemTime::now() > std::time::UNIX_EPOCH {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(crate) const OWN: &[Own] = &[
    own(
        "open-memory",
        "open another VMM's memory in /proc",
        |_, target, _| {
            let mut file = File::open(format!("/proc/{}/mem", target.pid))?;
            file.seek(io::SeekFrom::Start(0))?;
            // Nothing is mapped there: that the kernel looks is enough.
            match file.read(&mut [0]) {
                Err(error) if error.raw_os_error() != Some(libc::EIO) => Err(error),
                _ => Ok(()),
            }
        },
    ),
    own("other-tap", "attach to another VM's tap", |_, _, other| {
        let tun = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        sys::attach_tap(&tun, other)
    }),
    own(
        "send-on-other-tap",
        "send a frame on another VM's tap",
        |_, _, other| sys::send_frame(other),
    ),
    own(
        "own-tap-owner",
        "give its tap to another user",
        |fds, _, _| {
            // TUNSETOWNER.
            sys::control(fds.tap, 0x4004_54cc, 4711)
        },
    ),
    own("own-tap-stays", "have its tap outlive it", |fds, _, _| {
        // TUNSETPERSIST.
        sys::control(fds.tap, 0x4004_54cb, 1)
    }),
    own(
        "map-host-memory",
        "map more of its memory into the guest",
        |fds, _, _| sys::map_into_guest(fds.vm),
    ),
    own(
        "more-vcpus",
        "make a vCPU without a thread's filter",
        |fds, _, _| {
            // KVM_CREATE_VCPU.
            sys::control(fds.vm, 0xae41, 7)
        },
    ),
    own(
        "vcpu-state",
        "read its vCPU's system registers",
        |fds, _, _| sys::system_registers(fds.vcpu),
    ),
    Own {
        works: false,
        ..own(
            "second-vm",
            "make another VM by its KVM descriptor",
            |fds, _, _| {
                // KVM_CREATE_VM.
                sys::control(fds.kvm, 0xae01, 0)
            },
        )
    },
    Own {
        works: false,
        ..own("write-image", "write to its image", |fds, _, _| {
            sys::write_at_0(fds.image)
        })
    },
    own("cut-disk", "cut its disk to nothing", |fds, _, _| {
        sys::truncate(fds.scratch)
    }),
    own(
        "new-ring",
        "make a ring of its own (io_uring)",
        |_, _, _| sys::make_ring(),
    ),
    own("new-process", "make a process", |_, _, _| {
        sys::make_process()
    }),
    own("be-dumpable", "be open to debuggers again", |_, _, _| {
        sys::be_dumpable()
    }),
];
