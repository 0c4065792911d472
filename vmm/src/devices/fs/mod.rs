//! virtio-fs (virtio 1.2, section 5.11): a directory of the host, served by virtiofsd.
//!
//! virtiofsd speaks vhost-user, which would have it map all of guest memory. It does not get that:
//! each of the guest's queues has a *shadow* in a small region of its own ([`bounce`]), the only
//! memory that is shared. A request is copied there, served, and its answer copied back
//! ([`shadow`]). So neither side can reach the other but through bytes that this process copied, and
//! guest memory may be mapped in any way.
//!
//! **Invariant:** what virtiofsd writes is as little trusted as what the guest writes.

mod backend;
mod bounce;
mod device;
mod shadow;
#[cfg(test)]
mod tests;

pub(crate) use device::Fs;
#[cfg(feature = "fuzz")]
pub(crate) use device::Shared;
