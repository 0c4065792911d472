//! virtio-console (virtio 1.2, section 5.3): one port, output only.

mod device;
mod tail;
#[cfg(test)]
mod tests;

pub(crate) use device::Console;
pub use tail::ConsoleTail;
