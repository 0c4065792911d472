//! What the host and the guest agree on: vsock ports, the stdio preamble and the agent's RPCs.
//!
//! **Invariant:** this crate knows nothing of KVM, files or processes, so both sides and the fuzz
//! targets can use it anywhere.

#[allow(
    missing_docs,
    unreachable_pub,
    unused,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

/// Messages of the agent's RPC interface (`proto/agent.proto`).
pub use generated::agent;
/// Client and server of the agent's RPC interface.
pub use generated::agent_ttrpc;
/// Messages of the shim's own RPC interface (`proto/sandbox.proto`).
pub use generated::sandbox;
/// Client and server of the shim's own RPC interface.
pub use generated::sandbox_ttrpc;

pub mod dial;
pub mod resolver;
pub mod socket;
pub mod watch;

/// Type of the `spec` of an exec that is a job on files: a [`agent::FilesJob`] (containerd's Task
/// API carries it as a `google.protobuf.Any`).
pub const FILES_JOB_TYPE: &str = "hull.agent.v1.FilesJob";

/// Version of this contract. The host and the agent are built together; a difference means a
/// stale initramfs and is refused at `Hello`.
pub const PROTOCOL_VERSION: u32 = 1;

/// vsock port (in the guest) on which the agent serves its RPCs.
pub const AGENT_PORT: u32 = 1024;

/// vsock port (in the guest) that takes stdio connections. Each starts with
/// [`stdio_preamble`]; after it the connection carries the raw bytes of that stream.
pub const STDIO_PORT: u32 = 1025;

/// Most descriptors of a client's that a process has beside its standard streams.
pub const MAX_PRESERVED: usize = 32;

/// vsock port of the host (CID 2) that the agent tries to connect to once its listeners are up.
/// The VMM answers with a reset, as it does for every connection from the guest; the attempt
/// itself is the message, on which it sends the connection requests that it has held back.
pub const READY_PORT: u32 = 1;

/// I/O port that takes boot-trace marks: one byte write per mark.
pub const TRACE_IO_PORT: u16 = 0x0d10;

/// Byte that, written to [`TRACE_IO_PORT`], tells the VMM that the reset which follows is a
/// power-off: a machine without ACPI has no other way to say so.
pub const POWER_OFF_BYTE: u8 = 0xff;

/// Boot-trace marks that the guest writes to [`TRACE_IO_PORT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TraceMark {
    /// The agent's first instruction in `main`.
    AgentStart = 1,
    /// Kernel file systems are mounted.
    AgentMounted = 2,
    /// The vsock listeners are up.
    AgentListening = 3,
    /// The first RPC was answered.
    AgentFirstReply = 4,
    /// A container's root file system is mounted.
    RootfsMounted = 5,
    /// A container's init process is about to execute the entrypoint.
    EntrypointExec = 6,
}

impl TraceMark {
    /// The mark for a byte written by the guest; `None` for a byte that is no mark.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::AgentStart,
            Self::AgentMounted,
            Self::AgentListening,
            Self::AgentFirstReply,
            Self::RootfsMounted,
            Self::EntrypointExec,
        ]
        .into_iter()
        .find(|mark| *mark as u8 == byte)
    }

    /// Name in `hull trace` and in the benchmarks.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentStart => "agent-start",
            Self::AgentMounted => "agent-mounted",
            Self::AgentListening => "agent-listening",
            Self::AgentFirstReply => "agent-first-reply",
            Self::RootfsMounted => "rootfs-mounted",
            Self::EntrypointExec => "entrypoint-exec",
        }
    }
}

/// First bytes of a stdio connection: the stream's token (a non-zero number that the host chose
/// in `Stdio`), little endian.
pub fn stdio_preamble(token: u64) -> [u8; 8] {
    token.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trace_mark_survives_its_byte() {
        for byte in 0..=u8::MAX {
            if let Some(mark) = TraceMark::from_byte(byte) {
                assert_eq!(mark as u8, byte);
            }
        }
        assert_eq!(TraceMark::from_byte(0), None);
        assert_eq!(TraceMark::from_byte(6), Some(TraceMark::EntrypointExec));
    }
}
