//! virtio-balloon (virtio 1.2, section 5.5), for one thing: the guest reports pages that it has free, and
//! the host takes its memory back. It comes again, as zeroes, when the guest uses them.

mod device;
#[cfg(test)]
mod tests;

pub(crate) use device::Balloon;
