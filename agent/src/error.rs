//! The agent's one error type: what was attempted, on what, and how the host should take it.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use ttrpc::Code;

/// How a failure is reported over ttrpc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Something named in the request does not exist (an executable, a container).
    NotFound,
    /// It exists and may not be used (an executable without its mode bit).
    PermissionDenied,
    /// The request contradicts itself or the specification.
    InvalidArgument,
    /// The container or process is in the wrong state.
    FailedPrecondition,
    /// A container of that id, or an exec of that id, is there already.
    AlreadyExists,
    /// A limit of the container or of the guest.
    ResourceExhausted,
    /// A valid request for something that this agent cannot do.
    Unsupported,
    /// Everything else.
    Internal,
}

/// A failed operation.
#[derive(Debug)]
pub(crate) struct AgentError {
    kind: Kind,
    message: String,
    source: Option<io::Error>,
}

/// Result of the agent's operations.
pub(crate) type Result<T> = std::result::Result<T, AgentError>;

impl AgentError {
    /// An error without a cause below it.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Shorthand for [`Kind::InvalidArgument`].
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// Shorthand for [`Kind::NotFound`].
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// The kind.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The whole text, cause included: errors leave the guest as one string.
    pub(crate) fn text(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {}", self.message, plain_text(source)),
            None => self.message.clone(),
        }
    }
}

/// The system's text for an error, without Rust's "(os error N)".
pub(crate) fn plain_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AgentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl From<AgentError> for ttrpc::Error {
    fn from(error: AgentError) -> Self {
        let code = match error.kind {
            Kind::NotFound => Code::NOT_FOUND,
            Kind::PermissionDenied => Code::PERMISSION_DENIED,
            Kind::InvalidArgument => Code::INVALID_ARGUMENT,
            Kind::FailedPrecondition => Code::FAILED_PRECONDITION,
            Kind::AlreadyExists => Code::ALREADY_EXISTS,
            Kind::ResourceExhausted => Code::RESOURCE_EXHAUSTED,
            Kind::Unsupported => Code::UNIMPLEMENTED,
            Kind::Internal => Code::INTERNAL,
        };
        ttrpc::Error::RpcStatus(ttrpc::get_status(code, error.text()))
    }
}

/// Adds what was attempted to a system error.
pub(crate) trait Context<T> {
    /// `what` completes "…: No such file or directory".
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| AgentError {
            kind: Kind::Internal,
            message: what(),
            source: Some(source.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_holds_the_cause_without_its_number() {
        let error = Err::<(), _>(io::Error::from_raw_os_error(2))
            .context(|| "failed to open /x".to_string())
            .unwrap_err();
        assert_eq!(error.text(), "failed to open /x: No such file or directory");
    }
}
