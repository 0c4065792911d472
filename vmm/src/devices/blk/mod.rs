//! virtio-blk (virtio 1.2, section 5.2), backed by extents of files.
//!
//! A chain is read as a request ([`request`]), which comes down to operations on files
//! ([`operation`]); an engine carries them out ([`engine`], [`ring`]), and when all of a request are
//! over it is answered ([`in_flight`]).

mod device;
mod disk;
mod engine;
mod in_flight;
mod operation;
mod request;
mod ring;
mod sys;
#[cfg(test)]
mod tests;

pub(crate) use device::Blk;
#[cfg(test)]
pub(crate) use tests::{on_file, start, By};
