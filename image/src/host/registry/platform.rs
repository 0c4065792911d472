//! Which entry of an index (manifest list) fits this host.

use std::fmt;
use std::str::FromStr;

/// `OS/ARCHITECTURE[/VARIANT]`, in Go's names: `linux/amd64`, `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Architecture.
    pub architecture: String,
    /// CPU variant, normalized: arm64 has none for v8, arm has `v7` where none is given.
    pub variant: Option<String>,
}

/// The platform that microVMs on this host run.
impl Default for Platform {
    fn default() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self::new("linux", architecture, None)
    }
}

impl Platform {
    /// A platform with its architecture and variant normalized as containerd does.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let variant = variant
            .filter(|v| !v.is_empty())
            .map(str::to_ascii_lowercase);
        let architecture = architecture.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("aarch64", v) => ("arm64", v),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            ("i386" | "i686", v) => ("386", v),
            (other, v) => (other, v),
        };
        let variant = match (architecture, variant) {
            ("amd64", Some("v1")) | ("arm64", Some("8" | "v8")) => None,
            ("arm", None | Some("7")) => Some("v7".to_owned()),
            ("arm", Some(v @ ("5" | "6" | "8"))) => Some(format!("v{v}")),
            (_, v) => v.map(str::to_owned),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant,
        }
    }

    /// Whether an image for `offered` runs where this is asked for.
    pub fn takes(&self, offered: &Platform) -> bool {
        self.rank(offered).is_some()
    }

    /// How well an image for `offered` runs here: `None` not at all, higher is better.
    pub(crate) fn rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let level = |p: &Platform| -> Option<u32> {
            match (p.architecture.as_str(), p.variant.as_deref()) {
                ("amd64", None) => Some(1),
                ("arm64", None) => Some(8),
                ("amd64" | "arm", Some(v)) => v.strip_prefix('v')?.parse().ok(),
                _ => None,
            }
        };
        match (level(self), level(offered)) {
            (Some(own), Some(other)) if other <= own => Some(other),
            _ if self.variant == offered.variant => Some(u32::MAX),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .as_deref()
            .map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// Text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePlatformError {
    /// A part of it has characters that parts do not have, or none.
    #[error("{part:?} is an invalid {kind} of {text:?}: {WANTED}")]
    Part {
        /// The part.
        part: String,
        /// What it is.
        kind: &'static str,
        /// The whole.
        text: String,
    },
    /// It is one word, of which nobody knows.
    #[error("{0:?}: unknown operating system or architecture")]
    Unknown(String),
    /// It has too many parts.
    #[error("{0:?}: cannot parse platform specifier: {WANTED}")]
    TooLong(String),
}

const WANTED: &str =
    "a platform is OS, ARCHITECTURE, OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, as in linux/amd64";

/// Go's names, as containerd knows them.
const SYSTEMS: [&str; 16] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
];
const ARCHITECTURES: [&str; 14] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "wasm",
];

impl FromStr for Platform {
    type Err = ParsePlatformError;

    /// One word is an operating system for this machine's architecture, or an architecture.
    fn from_str(text: &str) -> Result<Self, ParsePlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        for (index, part) in parts.iter().enumerate() {
            let usual = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
            if part.is_empty() || !part.bytes().all(usual) {
                return Err(ParsePlatformError::Part {
                    part: (*part).to_owned(),
                    kind: if index == 0 {
                        "OS component"
                    } else {
                        "component"
                    },
                    text: text.to_owned(),
                });
            }
        }
        let own = Self::default();
        match parts.as_slice() {
            [word] => {
                let named = Self::new(word, word, None);
                if SYSTEMS.contains(&named.os.as_str()) {
                    Ok(Self::new(&named.os, &own.architecture, None))
                } else if ARCHITECTURES.contains(&named.architecture.as_str()) {
                    Ok(Self {
                        os: own.os,
                        ..named
                    })
                } else {
                    Err(ParsePlatformError::Unknown(text.to_owned()))
                }
            }
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(ParsePlatformError::TooLong(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect("platform")
    }

    #[test]
    fn variants_are_normalized() {
        assert_eq!(platform("linux/arm64/v8"), platform("linux/aarch64"));
        assert_eq!(platform("linux/amd64/v1"), platform("linux/x86_64"));
        assert_eq!(platform("linux/arm"), platform("linux/arm/v7"));
    }

    #[test]
    fn rank_prefers_the_highest_level_that_runs() {
        let own = platform("linux/arm/v7");
        assert!(own.rank(&platform("linux/arm/v6")) < own.rank(&platform("linux/arm/v7")));
        assert_eq!(own.rank(&platform("linux/arm/v8")), None);
        assert_eq!(
            platform("linux/amd64").rank(&platform("linux/amd64/v3")),
            None
        );
        assert_eq!(
            platform("linux/amd64").rank(&platform("windows/amd64")),
            None
        );
        assert_eq!(
            platform("linux/amd64").rank(&platform("unknown/unknown")),
            None
        );
    }

    #[test]
    fn one_word_is_a_system_or_an_architecture() {
        assert_eq!(platform("LINUX"), Platform::default());
        assert_eq!(platform("aarch64"), platform("linux/arm64"));
        assert_eq!(platform("macOS/arm64").os, "darwin");
    }

    #[test]
    fn bad_platforms_are_refused() {
        for (bad, why) in [
            ("", "OS component"),
            ("  ", "OS component"),
            ("linux/", "\"\" is an invalid component"),
            ("linux/amd 64", "invalid component"),
            ("foobar", "unknown operating system or architecture"),
            ("a/b/c/d", "cannot parse"),
        ] {
            let error = bad.parse::<Platform>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
