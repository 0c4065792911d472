//! Fuzz targets: one for each parser that sees bytes of a guest, an image, a registry or a client.
//!
//! A target takes any bytes and returns: a panic, an endless loop or memory without bound is a
//! fault. The corpus lies in `corpus/<target>/`; the tests replay it, and `hull-fuzz` mutates it for
//! a given time, and what it finds that reaches new code.

mod coverage;
mod mutate;
mod sys;
mod targets;

use std::path::{Path, PathBuf};

pub use coverage::Coverage;
pub use mutate::Mutator;

/// A named entry point.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of its folder in the corpus.
    pub name: &'static str,
    /// What it takes bytes of.
    pub what: &'static str,
    /// The entry point.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = targets::ALL;

/// The folder of all corpora.
pub fn corpus_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs that are kept of a target, in the order of their names.
pub fn corpus(target: &Target) -> std::io::Result<Vec<Vec<u8>>> {
    let folder = corpus_root().join(target.name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}
