//! Why a registry did not give what it was asked for.

use std::io;
use std::time::Duration;

use super::super::ErrorKind;

/// Why a request to a registry failed. Each message names the image or blob and the registry.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RegistryError {
    #[error("failed to reach registry {registry} for {what}")]
    Unreachable {
        registry: String,
        what: String,
        source: reqwest::Error,
    },
    #[error("failed to read the certificates for registry {registry}")]
    Certificates { registry: String, source: io::Error },
    #[error("registry {registry} denied access to {what}: {detail} (log in, or check the name)")]
    Unauthorized {
        registry: String,
        what: String,
        detail: String,
    },
    #[error("{what} not found at registry {registry}: {detail}")]
    NotFound {
        registry: String,
        what: String,
        detail: String,
    },
    #[error("registry {registry} limits the rate of requests for {what} (429), given up after {attempts} tries{}", wait_hint(.retry_after))]
    RateLimited {
        registry: String,
        what: String,
        attempts: u32,
        retry_after: Option<Duration>,
    },
    #[error("registry {registry} failed with status {status} for {what}: {detail}")]
    Status {
        registry: String,
        what: String,
        status: u16,
        detail: String,
    },
    #[error("{what} from registry {registry} ended after {got} of {want} bytes")]
    Truncated {
        registry: String,
        what: String,
        got: u64,
        want: u64,
    },
    #[error("registry {registry} stopped taking {what}, or did not answer when it had it")]
    Stalled { registry: String, what: String },
    #[error("{what} from registry {registry} is larger than the limit of {limit} bytes")]
    TooLarge {
        registry: String,
        what: String,
        limit: u64,
    },
    #[error("{what} from registry {registry} has digest {found}, not {want}")]
    DigestMismatch {
        registry: String,
        what: String,
        want: String,
        found: String,
    },
    #[error("registry {registry} answered {what} in a way that is not understood: {detail}")]
    Protocol {
        registry: String,
        what: String,
        detail: String,
    },
    #[error("registry {registry} offers no search")]
    NoSearch { registry: String },
    #[error("failed to set up the HTTPS client")]
    Client { source: reqwest::Error },
}

fn wait_hint(retry_after: &Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| {
        format!("; it asks to wait {} s", wait.as_secs())
    })
}

impl RegistryError {
    /// Whether the registry was heard, and said no.
    pub(super) fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::Unauthorized { .. }
                | Self::NotFound { .. }
                | Self::Status { .. }
                | Self::Protocol { .. }
        )
    }

    /// The sort of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::RateLimited { .. } => ErrorKind::RateLimited,
            Self::Unreachable { .. }
            | Self::Status { .. }
            | Self::Truncated { .. }
            | Self::Stalled { .. }
            | Self::NoSearch { .. } => ErrorKind::Unavailable,
            Self::TooLarge { .. } | Self::DigestMismatch { .. } | Self::Protocol { .. } => {
                ErrorKind::BadImage
            }
            Self::Certificates { .. } | Self::Client { .. } => ErrorKind::Host,
        }
    }
}
