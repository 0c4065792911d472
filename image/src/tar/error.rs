use std::io;

/// Why a tar archive could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Its bytes could not be had.
    #[error("failed to read the archive")]
    Io(#[from] io::Error),
    /// It is no tar archive, or a damaged one.
    #[error("{0}")]
    Malformed(String),
    /// An entry that can't be had.
    #[error("entry {path:?}: {reason}")]
    Entry {
        /// Its name, for people.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl TarError {
    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed(reason.into())
    }
}

impl From<TarError> for io::Error {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Io(error) => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
