//! virtio-rng (virtio 1.2, section 5.4): the host's entropy.

mod device;
#[cfg(test)]
mod tests;

pub(crate) use device::Rng;
