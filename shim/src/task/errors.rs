//! Errors as ttrpc statuses.

use containerd_shim_protos::ttrpc;
use ttrpc::{get_status, Code, Error};

use crate::agent::AgentError;
use crate::report::chain;

pub(super) fn not_found(what: impl std::fmt::Display) -> Error {
    status(Code::NOT_FOUND, format!("{what} not found"))
}

pub(super) fn already_exists(what: impl std::fmt::Display) -> Error {
    status(Code::ALREADY_EXISTS, format!("{what} already exists"))
}

pub(super) fn precondition(why: impl Into<String>) -> Error {
    status(Code::FAILED_PRECONDITION, why.into())
}

pub(super) fn invalid(why: impl Into<String>) -> Error {
    status(Code::INVALID_ARGUMENT, why.into())
}

pub(super) fn not_built(what: &str) -> Error {
    status(Code::UNIMPLEMENTED, format!("not supported yet: {what}"))
}

pub(super) fn failed(error: &dyn std::error::Error) -> Error {
    status(Code::UNKNOWN, chain(error))
}

/// The agent's own class and words pass through; the rest is a failure of the sandbox.
pub(super) fn of_agent(error: &AgentError) -> Error {
    match error {
        AgentError::Status { code, message, .. } => status(*code, message.clone()),
        other => failed(other),
    }
}

fn status(code: Code, message: String) -> Error {
    Error::RpcStatus(get_status(code, message))
}
