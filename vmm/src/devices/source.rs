//! What the event loop watches for the devices.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use hull_vm_config::Slot;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Bits of a [`SourceId`] below the slot: the device's own token.
const TOKEN_BITS: u32 = 40;

/// Names a watched descriptor of a device; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceId(u64);

impl SourceId {
    /// A device's notifier: the driver kicked, or the transport has news.
    pub(crate) const NOTIFIER: u64 = 0;

    pub(crate) fn new(slot: Slot, token: u64) -> Self {
        Self(((slot.index() as u64) << TOKEN_BITS) | (token & ((1 << TOKEN_BITS) - 1)))
    }

    /// For the `data` of an epoll event; below 2^48, so the event loop's own marks can lie above.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The reverse of [`SourceId::as_u64`].
    pub fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) fn slot(self) -> Option<Slot> {
        Slot::from_index(usize::try_from(self.0 >> TOKEN_BITS).ok()?)
    }

    pub(crate) fn token(self) -> u64 {
        self.0 & ((1 << TOKEN_BITS) - 1)
    }
}

/// A change to what the event loop watches, to be applied in order, before it waits again.
#[derive(Debug)]
pub enum SourceChange {
    /// Watch a descriptor.
    Add(RawFd, EventSet, SourceId),
    /// Watch it for other events.
    Modify(RawFd, EventSet, SourceId),
    /// Stop watching it, then close it.
    Remove(OwnedFd),
}

impl SourceChange {
    /// Carries the change out.
    pub fn apply(self, epoll: &Epoll) -> io::Result<()> {
        let (operation, fd, event) = match &self {
            Self::Add(fd, events, id) => (
                ControlOperation::Add,
                *fd,
                EpollEvent::new(*events, id.as_u64()),
            ),
            Self::Modify(fd, events, id) => (
                ControlOperation::Modify,
                *fd,
                EpollEvent::new(*events, id.as_u64()),
            ),
            Self::Remove(fd) => (
                ControlOperation::Delete,
                fd.as_raw_fd(),
                EpollEvent::default(),
            ),
        };
        epoll.ctl(operation, fd, event)
    }
}

/// Where a device leaves its changes.
pub(crate) struct Sources<'a> {
    pub(crate) slot: Slot,
    pub(crate) changes: &'a mut Vec<SourceChange>,
}

impl Sources<'_> {
    /// Watches `fd` under `token`, which is above zero and never used twice.
    pub(crate) fn add(&mut self, fd: &impl AsRawFd, events: EventSet, token: u64) {
        let id = SourceId::new(self.slot, token);
        self.changes
            .push(SourceChange::Add(fd.as_raw_fd(), events, id));
    }

    /// Watches `fd`, which was added under `token`, for other events; none, and it costs nothing.
    pub(crate) fn modify(&mut self, fd: &impl AsRawFd, events: EventSet, token: u64) {
        let id = SourceId::new(self.slot, token);
        self.changes
            .push(SourceChange::Modify(fd.as_raw_fd(), events, id));
    }

    /// Stops watching `fd` and closes it.
    pub(crate) fn remove(&mut self, fd: impl Into<OwnedFd>) {
        self.changes.push(SourceChange::Remove(fd.into()));
    }
}
