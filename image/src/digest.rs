//! Content digests and diff IDs: both are SHA-256 sums, of different things, so they are two types.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// Text that is not `sha256:` followed by 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest of the form sha256:<64 lower-case hexadecimal digits>")]
pub struct ParseDigestError {
    text: String,
}

/// SHA-256 of a blob as it is stored (a compressed layer, a manifest, an image configuration).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// SHA-256 of a layer's uncompressed tar archive (OCI image specification, "Layer DiffID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiffId([u8; 32]);

impl Digest {
    /// The digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }
}

impl DiffId {
    /// The diff ID of an uncompressed tar archive held in memory.
    pub fn of(tar: &[u8]) -> Self {
        Self(Sha256::digest(tar).into())
    }
}

/// Chain ID of a stack of layers, lowest first (OCI image specification, "Layer ChainID"): two
/// images with equal chain IDs have the same root file system. `None` for no layers.
pub fn chain_id(diff_ids: &[DiffId]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(Digest(first.0), |parent, diff_id| {
        Digest::of(format!("{parent} {diff_id}").as_bytes())
    }))
}

macro_rules! sha256_type {
    ($name:ident) => {
        impl $name {
            /// Wraps a finished SHA-256 sum.
            pub fn from_bytes(sum: [u8; 32]) -> Self {
                Self(sum)
            }

            /// The 32 bytes of the sum.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The 64 hexadecimal digits, without the algorithm.
            pub fn hex(&self) -> String {
                use fmt::Write as _;
                self.0
                    .iter()
                    .fold(String::with_capacity(64), |mut text, byte| {
                        // Writing to a String cannot fail.
                        let _ = write!(text, "{byte:02x}");
                        text
                    })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, ParseDigestError> {
                parse(text).map(Self).ok_or_else(|| ParseDigestError {
                    text: text.chars().take(200).collect(),
                })
            }
        }

        #[cfg(feature = "host")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        #[cfg(feature = "host")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

sha256_type!(Digest);
sha256_type!(DiffId);

fn parse(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?.as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let mut sum = [0; 32];
    for (byte, pair) in sum.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(sum)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest::of(b"hull");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().len(), 7 + 64);
    }

    #[test]
    fn other_algorithms_upper_case_and_short_sums_are_refused() {
        let good = Digest::of(b"").to_string();
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &good[..70],
            &good.to_uppercase(),
            &format!("{good}0"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn chain_id_of_one_layer_is_its_diff_id_and_order_matters() {
        let (a, b) = (DiffId::of(b"a"), DiffId::of(b"b"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[a]).map(|id| id.hex()), Some(a.hex()));
        assert_ne!(chain_id(&[a, b]), chain_id(&[b, a]));
    }
}
