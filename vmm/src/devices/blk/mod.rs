//! virtio-blk (virtio 1.2, section 5.2), backed by extents of files.

mod device;
mod disk;
mod request;
#[cfg(test)]
mod tests;

pub(crate) use device::Blk;
#[cfg(test)]
pub(crate) use tests::on_file;
