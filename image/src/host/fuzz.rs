//! Entry points for fuzzing: any bytes must end in a result, in bounded time and memory.

use super::{manifest, Platform, Reference};
use crate::Digest;

/// Reads `data` as a manifest or index, and as an image's configuration.
pub fn manifest(data: &[u8]) {
    let digest = Digest::of(data);
    if let Ok(manifest::Document::Index(index)) = manifest::parse(data, None, &digest, "fuzz") {
        let _ = manifest::choose(&index, &Platform::default(), "fuzz");
    }
    for layers in [0, 1, 3] {
        if let Ok((config, _)) = manifest::parse_config(data, layers, &digest, "fuzz") {
            let _ = Platform::default().rank(&manifest::config_platform(&config));
        }
    }
}

/// Reads `data` as a reference: what is one reads the same again.
pub fn reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(
            reference.to_string().parse::<Reference>().ok(),
            Some(reference)
        );
    }
    let _ = text.parse::<Digest>();
    let _ = text.parse::<Platform>();
}

/// Reads `data` as the archive of a `docker load`, into a store of its own.
pub fn archive(data: &[u8]) {
    super::store::fuzz_archive(data);
}

/// Reads `data` as a registry's challenge.
pub fn challenge(data: &[u8]) {
    super::registry::fuzz_challenge(&String::from_utf8_lossy(data));
}
