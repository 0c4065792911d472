//! The host half: everything hulld does with images short of looking inside a layer.

mod decompressed;
mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod lock;
mod manifest;
mod progress;
mod reference;
mod registry;
mod store;
mod transfer;

pub use decompressed::decompressed;
pub use error::{ErrorKind, ImageError};
pub use progress::{LayerPhase, NoProgress, Progress, ProgressEvent};
pub use reference::{Reference, ReferenceError};
pub use registry::{
    Found, Mirror, MirrorError, ParsePlatformError, Platform, RegistryConfig, RegistryError,
};
pub use store::{
    Damage, Distribution, Image, ImageLayer, Import, KnownLayer, LayerLengths, Leftovers,
    LoadedImage, PruneReport, Pushed, RemoveOptions, Removed, Rootfs, Saved, Store, UnpackJob,
    UnpackLayer, UnpackOutcome, UnpackProgress, Unpacker,
};
pub use transfer::transfer;
