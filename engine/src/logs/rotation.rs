//! How large a log grows: docker's options of the driver `json-file`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard_stubs::models::HostConfig;

use crate::error::{EngineError, Result};

/// Options that only name what goes into each record of other drivers.
const IGNORED: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// When a log begins anew, and how many older files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of one file; `None`: it grows for ever.
    pub max_bytes: Option<u64>,
    /// Files, the present one included; at least 1.
    pub files: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            max_bytes: None,
            files: 1,
        }
    }
}

impl Rotation {
    /// What a container's configuration says.
    pub fn of(host: &HostConfig) -> Result<Self> {
        let config = host.log_config.as_ref().and_then(|log| log.config.as_ref());
        config.map_or_else(|| Ok(Self::default()), Self::parse)
    }

    fn parse(options: &HashMap<String, String>) -> Result<Self> {
        let mut rotation = Self::default();
        for (key, value) in options {
            let bad = || EngineError::BadRequest(format!("invalid value for {key}: {value:?}"));
            match key.as_str() {
                "max-size" => rotation.max_bytes = Some(bytes(value).ok_or_else(bad)?),
                "max-file" => {
                    let files: u32 = value.parse().map_err(|_| bad())?;
                    if files == 0 {
                        return Err(EngineError::BadRequest(
                            "max-file cannot be less than 1".to_owned(),
                        ));
                    }
                    rotation.files = files;
                }
                "compress" if value == "false" => {}
                "compress" => {
                    return Err(EngineError::NotBuilt("the log option compress".to_owned()))
                }
                other if IGNORED.contains(&other) => {}
                other => {
                    return Err(EngineError::BadRequest(format!(
                        "unknown log opt '{other}' for json-file log driver"
                    )))
                }
            }
        }
        Ok(rotation)
    }
}

/// A size with an optional suffix b, k, m or g (powers of 1024).
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        _ => (lower, 0),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| 0 < *bytes)
}

/// The file with this number, 1 being the one before the present.
pub(super) fn older(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// The older files that there are, the newest first.
pub(super) fn all_older(path: &Path) -> Vec<PathBuf> {
    let files = (1..).map(|number| older(path, number));
    files.take_while(|path| path.exists()).collect()
}

/// Moves each file on by one; the last goes.
pub(super) fn rotate(path: &Path, files: u32) -> std::io::Result<()> {
    if files < 2 {
        return std::fs::remove_file(path);
    }
    for number in (1..files - 1).rev() {
        match std::fs::rename(older(path, number), older(path, number + 1)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, older(path, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Rotation> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Rotation::parse(&options.collect())
    }

    #[test]
    fn dockers_options_are_read() {
        let rotation = parse(&[("max-size", "10m"), ("max-file", "3"), ("tag", "x")]).unwrap();
        assert_eq!(rotation.max_bytes, Some(10 << 20));
        assert_eq!(rotation.files, 3);
        for bad in [
            ("max-size", "x"),
            ("max-size", "0"),
            ("max-file", "0"),
            ("max-file", "-1"),
            ("compress", "true"),
            ("colour", "red"),
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
        assert_eq!(bytes("1kb"), Some(1024));
        assert_eq!(bytes("77"), Some(77));
    }
}
