//! Starts `hull-vmm` as its shim does, with a kernel that the test wrote by hand.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hull_vm_config::control::{Event, ExitReason, Request, MAX_MESSAGE_BYTES};
use hull_vm_config::{BootConfig, DeviceConfig, JailConfig, VmConfig, VM_CONFIG_VERSION};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// No payload of a test runs longer; for hosts that are badly overloaded.
const LIMIT: Duration = Duration::from_secs(60);
/// Where payloads are loaded and entered.
const ENTRY: u32 = 0x10_0000;

/// `/dev/kvm`, or `None` with a printed reason.
pub(crate) fn kvm() -> Option<OwnedFd> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(file) => Some(file.into()),
        Err(error) => {
            // Not by `println!`, which the test harness swallows.
            let reason = format!("skipped: /dev/kvm cannot be opened: {error}\n");
            drop(std::io::stderr().write_all(reason.as_bytes()));
            None
        }
    }
}

/// A configuration of one vCPU and no device that needs a file.
pub(crate) fn config() -> VmConfig {
    VmConfig {
        version: VM_CONFIG_VERSION,
        sandbox_id: "test".into(),
        vcpus: 1,
        memory_bytes: 64 << 20,
        boot: BootConfig {
            kernel: "kernel".into(),
            initramfs: "initramfs".into(),
            cmdline: vec![],
        },
        devices: DeviceConfig::default(),
        jail: JailConfig {
            uid: 99_998,
            gid: 99_998,
        },
    }
}

/// 32-bit instructions that the PVH entry can be made of.
pub(crate) mod code {
    /// `OUT` of a byte.
    pub(crate) fn out(port: u16, byte: u8) -> Vec<u8> {
        let [low, high] = port.to_le_bytes();
        vec![0x66, 0xba, low, high, 0xb0, byte, 0xee]
    }

    /// Loads `EAX` from a guest physical address.
    pub(crate) fn load(gpa: u32) -> Vec<u8> {
        [&[0xa1][..], &gpa.to_le_bytes()].concat()
    }

    /// Loads `EAX` from where `EBX` points to.
    pub(crate) fn load_ebx() -> Vec<u8> {
        vec![0x8b, 0x03]
    }

    /// Writes the four bytes of `EAX` to a port.
    pub(crate) fn out_eax(port: u16) -> Vec<u8> {
        let [low, high] = port.to_le_bytes();
        let mut bytes = vec![0x66, 0xba, low, high];
        for _ in 0..4 {
            bytes.extend([0xee, 0xc1, 0xe8, 0x08]);
        }
        bytes
    }

    /// Never ends.
    pub(crate) fn spin() -> Vec<u8> {
        vec![0xeb, 0xfe]
    }

    /// Loads an interrupt table of length zero and faults.
    pub(crate) fn triple_fault() -> Vec<u8> {
        [
            &[0x0f, 0x01, 0x1d][..],
            &0x8000u32.to_le_bytes(),
            &[0x0f, 0x0b],
        ]
        .concat()
    }
}

/// An ELF kernel with a PVH note.
pub(crate) fn kernel(parts: &[Vec<u8>]) -> Vec<u8> {
    elf(&parts.concat(), true)
}

/// An ELF kernel; without the note it cannot be started.
pub(crate) fn elf(code: &[u8], pvh: bool) -> Vec<u8> {
    const NOTE_AT: u64 = 64 + 2 * 56;
    const CODE_AT: u64 = 4096;
    let kind: u32 = if pvh { 18 } else { 1 };
    let mut note = Vec::new();
    for word in [4, 4, kind] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());

    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    file.extend(u64::from(ENTRY).to_le_bytes());
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes()); // section headers
    file.extend(0u32.to_le_bytes());
    file.extend([64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(program_header(4, NOTE_AT, 0, note.len()));
    file.extend(program_header(1, CODE_AT, u64::from(ENTRY), code.len()));
    file.extend(note);
    file.resize(CODE_AT as usize, 0);
    file.extend(code);
    file
}

fn program_header(kind: u32, offset: u64, address: u64, bytes: usize) -> Vec<u8> {
    let bytes = bytes as u64;
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(7u32.to_le_bytes());
    for value in [offset, address, address, bytes, bytes, 4096] {
        header.extend(value.to_le_bytes());
    }
    header
}

/// A running `hull-vmm`. Killed when dropped.
pub(crate) struct Vmm {
    child: Child,
    control: OwnedFd,
}

impl Vmm {
    /// Starts it.
    pub(crate) fn start(kvm: OwnedFd, config: &VmConfig, kernel: &[u8]) -> Self {
        let json = serde_json::to_vec(config).unwrap();
        Self::start_with(vec![
            ("kvm", kvm),
            ("config", file_of(&json)),
            ("kernel", file_of(kernel)),
            ("initramfs", file_of(b"nothing that this kernel reads")),
        ])
    }

    /// Starts it with any descriptors, and a control socket.
    pub(crate) fn start_with(fds: Vec<(&str, OwnedFd)>) -> Self {
        Self::start_program(Command::new(env!("CARGO_BIN_EXE_hull-vmm")), fds)
    }

    /// The same with another program.
    pub(crate) fn start_program(mut command: Command, mut fds: Vec<(&str, OwnedFd)>) -> Self {
        let (control, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        fds.push(("control", theirs));
        for (name, fd) in &fds {
            command
                .arg("--fd")
                .arg(format!("{name}={}", fd.as_raw_fd()));
        }
        let child = inherit::spawn(&mut command, &fds);
        Self { child, control }
    }

    /// PID of the process.
    #[allow(dead_code, reason = "for those who look at the process from outside")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its control socket.
    #[allow(dead_code, reason = "for those who send descriptors")]
    pub(crate) fn control(&self) -> &OwnedFd {
        &self.control
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: &Request) {
        self.send_raw(&serde_json::to_vec(request).unwrap());
    }

    /// Sends a request; false if the VMM takes none any more.
    #[allow(dead_code, reason = "for guests that may end their VM")]
    pub(crate) fn try_send(&self, request: &Request) -> bool {
        let packet = serde_json::to_vec(request).unwrap();
        rustix::net::send(&self.control, &packet, SendFlags::NOSIGNAL).is_ok()
    }

    /// Sends any packet.
    pub(crate) fn send_raw(&self, packet: &[u8]) {
        rustix::net::send(&self.control, packet, SendFlags::NOSIGNAL).unwrap();
    }

    /// Waits for the next event.
    pub(crate) fn event(&self) -> Event {
        let mut ready = [PollFd::new(&self.control, PollFlags::IN)];
        let limit = Timespec::try_from(LIMIT).unwrap();
        assert_ne!(poll(&mut ready, Some(&limit)).unwrap(), 0, "no event came");
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut nothing = rustix::net::RecvAncillaryBuffer::default();
        let received =
            rustix::net::recvmsg(&self.control, &mut parts, &mut nothing, RecvFlags::empty());
        let bytes = received.unwrap().bytes;
        assert_ne!(bytes, 0, "the VMM closed its control socket without a word");
        serde_json::from_slice(&buffer[..bytes]).unwrap()
    }

    /// Waits for the end; returns the reason and the exit status.
    pub(crate) fn ended(mut self) -> (ExitReason, Option<i32>) {
        loop {
            if let Event::Exited { reason } = self.event() {
                return (reason, self.child.wait().unwrap().code());
            }
        }
    }

    /// Waits for the process to end by itself.
    #[allow(dead_code, reason = "for programs that tell no reason")]
    pub(crate) fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// Closes the control socket and waits for the process to end.
    pub(crate) fn abandon(mut self) -> Option<i32> {
        let (placeholder, _) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        drop(std::mem::replace(&mut self.control, placeholder));
        self.child.wait().unwrap().code()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A file with this content.
pub(crate) fn file_of(content: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.into()
}

/// Spawning with inherited descriptors, one at a time.
mod inherit {
    use super::*;
    use rustix::io::{fcntl_setfd, FdFlags};
    use std::sync::{Mutex, PoisonError};

    /// While a descriptor is inheritable no other test may start a process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    pub(super) fn spawn(command: &mut Command, fds: &[(&str, OwnedFd)]) -> Child {
        let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, fd) in fds {
            fcntl_setfd(fd, FdFlags::empty()).unwrap();
        }
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        for (_, fd) in fds {
            fcntl_setfd(fd, FdFlags::CLOEXEC).unwrap();
        }
        child
    }
}
