//! What a command can fail with, and the exit status each failure has.

use bollard::errors::Error as ApiError;

/// Result of a command.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

/// A failed command. Its text is what the user reads after `hull: `.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The engine refused or failed.
    #[error("{message}")]
    Engine {
        /// HTTP status; 0 where the failure came inside a stream.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The engine cannot be reached.
    #[error("cannot reach the engine at {host}: {source}; is hulld running?")]
    Unreachable {
        /// As the user named it.
        host: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Another engine answers.
    #[error(
        "the engine at {host} is not Hull's: its containers would have no microVM; leave DOCKER_HOST \
         and docker's contexts out of it by -H unix:///run/hull/hull.sock, or use docker's own command"
    )]
    NotHull {
        /// As the user named it.
        host: String,
    },
    /// The engine could not be started.
    #[error("cannot start the engine: {message}; its log is {log}")]
    EngineStart {
        /// What went wrong.
        message: String,
        /// Path of the log.
        log: String,
    },
    /// The connection failed in the middle.
    #[error("the connection to the engine failed: {0}")]
    Connection(String),
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// A command that has its own exit status.
    #[error("{message}")]
    Failed {
        /// The exit status.
        status: u8,
        /// What went wrong.
        message: String,
    },
    /// Docker's configuration of this user, or a helper that it names.
    #[error("{}", with_cause(.0))]
    Credentials(#[from] hull_image::credentials::CredentialsError),
    /// A file of this machine.
    #[error("{what}: {source}")]
    Io {
        /// What was done, with the path.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl CliError {
    /// A command-line error.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// A file error: `what` names the action and the path.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Exit status of a command that failed so, as docker has it.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Failed { status, .. } => *status,
            Self::Usage(_) | Self::NotHull { .. } => 125,
            _ => 1,
        }
    }

    /// As an error of `run` or of what gets its image: 125.
    pub(crate) fn of_run(self) -> Self {
        match self {
            failed @ Self::Failed { .. } => failed,
            broken if broken.is_broken_pipe() => broken,
            other => Self::Failed {
                status: 125,
                message: other.to_string(),
            },
        }
    }

    /// Nobody reads this process's output any more.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// Exit status of `run` and `exec` for a process that could not be started, as docker has it:
    /// 127 not found, 126 found but not executable, else 125.
    pub(crate) fn start_status(&self) -> u8 {
        let Self::Engine { message, .. } = self else {
            return 125;
        };
        let has = |text: &str| message.contains(text);
        if has("executable file not found") || has("no such file or directory") {
            127
        } else if has("permission denied") || has("is a directory") {
            126
        } else {
            125
        }
    }

    /// The thing named does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Engine { status: 404, .. })
    }
}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::DockerResponseServerError {
                status_code,
                message,
            } => Self::Engine {
                status: status_code,
                message,
            },
            ApiError::DockerStreamError { error } => Self::Engine {
                status: 0,
                message: error,
            },
            other => Self::Connection(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_command_line_and_run_have_a_status_of_their_own() {
        let refused = || CliError::Engine {
            status: 409,
            message: "taken".into(),
        };
        assert_eq!(refused().exit_status(), 1);
        assert_eq!(refused().of_run().exit_status(), 125);
        assert_eq!(refused().of_run().to_string(), refused().to_string());
        assert_eq!(CliError::usage("x").exit_status(), 125);
        let missing = CliError::Failed {
            status: 127,
            message: "x".into(),
        };
        assert_eq!(missing.of_run().exit_status(), 127);
    }

    #[test]
    fn start_failures_map_to_dockers_statuses() {
        let status = |message: &str| {
            CliError::Engine {
                status: 400,
                message: message.into(),
            }
            .start_status()
        };
        assert_eq!(
            status("exec: \"x\": executable file not found in $PATH"),
            127
        );
        assert_eq!(status("exec /x: no such file or directory"), 127);
        assert_eq!(status("exec /etc/passwd: permission denied"), 126);
        assert_eq!(status("exec /etc: is a directory"), 126);
        assert_eq!(status("/dev/kvm is missing"), 125);
    }
}
