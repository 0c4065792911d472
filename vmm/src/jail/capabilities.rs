use super::error::Attempt;
use super::{sys, JailError};

const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// What it takes to become another user and to make namespaces.
pub(super) const NEEDED: u64 = CAP_SETGID | CAP_SETUID | CAP_SYS_ADMIN;

/// Bits of `linux/securebits.h`: uid 0 means nothing, changing the uid changes no capability,
/// `KEEP_CAPS` is off, the ambient set stays empty; all locked.
pub(super) const SECUREBITS: u64 = NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | NO_AMBIENT_RAISE;
const NOROOT: u64 = 0b11;
const NO_SETUID_FIXUP: u64 = 0b11 << 2;
const KEEP_CAPS_LOCKED: u64 = 1 << 5;
const NO_AMBIENT_RAISE: u64 = 0b11 << 6;

/// Capability numbers end well before this; it bounds the loop.
const CAPABILITY_END: u64 = 64;

/// Drops every capability from every set, for good.
pub(super) fn drop_all() -> Result<(), JailError> {
    // First, as both need CAP_SETPCAP, which the last line gives up.
    sys::set_securebits(SECUREBITS).attempt("lock the secure bits")?;
    for capability in 0..CAPABILITY_END {
        if !sys::drop_bounding(capability).attempt("empty the capability bounding set")? {
            break;
        }
    }
    sys::clear_ambient().attempt("empty the ambient capabilities")?;
    sys::set_capabilities(0, 0).attempt("drop the capabilities")
}
