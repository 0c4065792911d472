//! Container logs: files in Docker's `json-file` format, one JSON object per line part of at most
//! 16 KiB, and servers that get the same lines.

mod cuts;
mod facts;
mod older;
mod options;
mod reader;
mod remote;
mod rotation;
mod writer;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use options::LogOptions;
pub(crate) use options::{
    check, check_defaults, driver_of, flag, is_readable, merge_defaults, DEFAULT_DRIVER, DRIVERS,
};
pub use reader::{read, ReadOptions};
pub(crate) use rotation::bytes;
pub use rotation::Rotation;
pub use writer::Log;

/// Longest part of a line in one record, in bytes.
pub const MAX_PART_BYTES: usize = 16 << 10;

/// An output stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// Its number in Docker's multiplexed format.
    pub fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// One record of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The text with its line end; without one, the line goes on in the next record.
    pub log: String,
    /// Where it came from.
    pub stream: Stream,
    /// Facts of its container that its log options name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attrs: BTreeMap<String, String>,
    /// When it was read.
    pub time: Timestamp,
}

#[cfg(test)]
mod tests;
