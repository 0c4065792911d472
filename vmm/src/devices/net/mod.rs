//! virtio-net (virtio 1.2, section 5.1) on a tap. Frames go straight between guest memory and the
//! tap, each behind a vnet header, so that checksums and segmentation are left to the host's kernel.
//! The host's kernel moves them where it has vhost-net and nothing is to be limited, this process
//! elsewhere.

mod control;
mod device;
mod frames;
mod tap;
#[cfg(test)]
mod tests;
mod vhost;

pub(crate) use device::{Net, Plug};
pub(crate) use tap::Tap;
pub(crate) use vhost::{Backend, Kernel};
