//! Images: references, registries, the content store, layers to EROFS.
//!
//! The crate has two halves that meet only in [`UnpackJob`] and its guest-side twin:
//!
//! - feature `host` (default), used by hulld: [`Reference`] names an image, [`Store`] pulls, loads,
//!   lists, tags, removes and prunes images and keeps each layer's content once, with EROFS metadata
//!   per distinct root file system. The host never looks inside a layer: [`Store::ensure_unpacked`] hands the blobs to an
//!   [`Unpacker`], which runs a one-off microVM.
//! - feature `credentials`, part of it and all that the command line needs: logins at registries.
//! - feature `archives`, part of both: [`tar::TarReader`], for whoever takes archives from strangers.
//! - feature `unpack`, used by the guest agent: [`unpack::unpack`] decompresses layers, verifies
//!   their diff IDs, merges them and writes the EROFS image. Pure Rust, no I/O of its own.
//!
//! ```no_run
//! # #[cfg(feature = "host")]
//! # async fn demo(unpacker: &dyn hull_image::Unpacker) -> Result<(), hull_image::ImageError> {
//! use hull_image::{NoProgress, Platform, Reference, RegistryConfig, Store};
//!
//! let store = Store::open("/var/lib/hull".as_ref(), RegistryConfig::default())?;
//! let reference: Reference = "busybox".parse()?;
//! let image = store.pull(&reference, &Platform::default(), &NoProgress).await?;
//! let erofs = store.ensure_unpacked(&image.id, unpacker, &NoProgress).await?;
//! println!("{} is at {}", image.id, erofs.metadata.display());
//! # Ok(())
//! # }
//! ```
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod compression;
#[cfg(feature = "credentials")]
pub mod credentials;
#[cfg(any(feature = "host", feature = "unpack"))]
mod decompress;
mod digest;
#[cfg(feature = "archives")]
pub mod tar;

pub use compression::Compression;
pub use digest::{chain_id, DiffId, Digest, ParseDigestError};

#[cfg(feature = "unpack")]
mod erofs;
#[cfg(feature = "unpack")]
pub mod unpack;

#[cfg(feature = "host")]
mod host;
#[cfg(feature = "credentials")]
pub use credentials::Credentials;
#[cfg(feature = "host")]
pub use host::*;
