use std::io;

/// Why a tar archive could not be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("failed to read the archive")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Malformed(String),
    #[error("entry {path:?}: {reason}")]
    Entry { path: String, reason: String },
}

impl TarError {
    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed(reason.into())
    }
}
