//! virtio-net (virtio 1.2, section 5.1) on a tap. Frames go straight between guest memory and the
//! tap, each behind a vnet header, so that checksums and segmentation are left to the host's kernel.

mod device;
mod tap;
#[cfg(test)]
mod tests;

pub(crate) use device::Net;
pub(crate) use tap::Tap;
