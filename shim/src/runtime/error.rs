//! What goes wrong, in runc's words where it has some: callers look for them.

use std::io;
use std::path::PathBuf;

use crate::cgroup::CgroupError;
use crate::spec::JsonError;

/// Exit status of a failed command.
const FAILURE: u8 = 1;
/// Exit status of an exec that did not come to run.
const EXEC_FAILURE: u8 = 255;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such container.
    #[error("container does not exist")]
    NotFound,
    /// The id is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// No id.
    #[error("container id cannot be empty")]
    EmptyId,
    /// The id is none.
    #[error("invalid container ID format")]
    BadId,
    /// Its process has ended, or was never started.
    #[error("container not running")]
    NotRunning,
    /// It is not paused.
    #[error("container not paused")]
    NotPaused,
    /// The state does not allow what was asked for.
    #[error("{0}")]
    State(String),
    /// The command line, or what it names, does not fit.
    #[error("{0}")]
    Usage(String),
    /// A file.
    #[error("failed to {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A file that is no JSON, or other JSON.
    #[error("failed to read {what}")]
    Json {
        /// What it should be.
        what: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file of the caller's that does not say what it should.
    #[error("failed to read {what}")]
    Config {
        /// The file.
        what: String,
        /// Where and why.
        source: JsonError,
    },
    /// Something of the system.
    #[error("failed to {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The shim answered with an error.
    #[error("{0}")]
    Shim(String),
    /// The container's process can't be run.
    #[error("unable to start container process: {0}")]
    Process(String),
    /// A command that could not do its work.
    #[error("hull-runtime {command} failed")]
    Command {
        /// `create` or `run`.
        command: &'static str,
        /// Why.
        source: Box<RuntimeError>,
    },
    /// An exec that could not do its work.
    #[error("exec failed")]
    Exec {
        /// Why.
        source: Box<RuntimeError>,
    },
}

/// What commands return.
pub(super) type Result<T> = std::result::Result<T, RuntimeError>;

impl RuntimeError {
    /// Exit status of the program.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exec { .. } => EXEC_FAILURE,
            _ => FAILURE,
        }
    }

    pub(super) fn in_command(command: &'static str) -> impl FnOnce(Self) -> Self {
        move |source| Self::Command {
            command,
            source: Box::new(source),
        }
    }

    pub(super) fn in_exec(self) -> Self {
        Self::Exec {
            source: Box::new(self),
        }
    }
}

pub(super) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.into();
    move |source| RuntimeError::Io {
        action,
        path,
        source,
    }
}

pub(super) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |error| RuntimeError::System {
        action,
        source: error.into(),
    }
}
