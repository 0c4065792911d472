//! The engine's error type and its meaning in HTTP.

use std::io;
use std::path::PathBuf;

/// What went wrong, as the API reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 304: nothing to do.
    NotModified,
    /// 400: the request is wrong.
    BadRequest,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409: not in this state, or a name is taken.
    Conflict,
    /// 503: not in the engine's present role.
    Unavailable,
    /// 501: known, and not there yet.
    NotBuilt,
    /// 500: the host or Hull failed.
    Internal,
}

/// A failed operation of the engine. `Display` is the text that users see, without the causes;
/// [`EngineError::message`] adds them.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container has this name, id or id prefix.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// Several containers share this id prefix.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    /// No exec has this id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// No local image has this name.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// The image that is here is for another platform than the wanted one.
    #[error(
        "image with reference {name} was found but its platform ({found}) does not match the \
         specified platform ({wanted})"
    )]
    OtherPlatform {
        /// Its name.
        name: String,
        /// What it is for.
        found: String,
        /// What is wanted.
        wanted: String,
    },
    /// No network has this name.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// A container has no such file.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile {
        /// The path.
        path: String,
        /// The container's name.
        container: String,
    },
    /// No volume has this name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// The name is held by another container.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". \
         You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The wanted name, without slash.
        name: String,
        /// Id of the container that has it.
        holder: String,
    },
    /// The name has characters or a length that names may not have.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    InvalidName(String),
    /// The request is refused for this reason.
    #[error("{0}")]
    BadRequest(String),
    /// The object is not in a state that allows the operation.
    #[error("{0}")]
    Conflict(String),
    /// Already so.
    #[error("{0}")]
    NotModified(String),
    /// Not for this object.
    #[error("{0}")]
    Forbidden(String),
    /// The host's network refused something.
    #[error("{0}")]
    Network(String),
    /// A port of the host can't be had.
    #[error(
        "failed to set up container networking: driver failed programming external connectivity on \
         endpoint {container}: {why}"
    )]
    Publish {
        /// Name of the container that it was for.
        container: String,
        /// With the port.
        why: String,
    },
    /// No user or group of the image has this name.
    #[error("{0}")]
    NoSuchUser(String),
    /// A part of the Docker API that Hull does not have yet.
    #[error("{0} is not built yet")]
    NotBuilt(String),
    /// The log driver keeps nothing.
    #[error("configured logging driver does not support reading")]
    UnreadableLogs,
    /// It can't be had with a VM.
    #[error("not supported: {0}")]
    NotSupported(String),
    /// The container store is no store, or a part of it is lost.
    #[error(
        "the container store {path:?} can't be opened: bring it back from a backup, or move it and \
         the folder containers beside it away to start without its containers"
    )]
    StoreDamaged {
        /// The file.
        path: PathBuf,
        /// What the store says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the state directory can't be used.
    #[error(
        "the file of {what} {path:?} can't be read: bring it back from a backup, or move it away to \
         start without these {what}"
    )]
    StateDamaged {
        /// What it keeps.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was written by a newer Hull.
    #[error(
        "the file of {what} {path:?} has schema version {found}, this hulld reads up to {known}: \
         start the newer hulld, or another --root"
    )]
    StateTooNew {
        /// What it keeps.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A wish that Hull does not serve, by its name in the API.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The field, with its value where that matters.
        what: String,
        /// The reason.
        why: String,
    },
    /// Of a swarm manager.
    #[error(
        "This node is not a swarm manager. Hull has no swarm mode of its own: use dockerd with Hull \
         as its runtime."
    )]
    NoSwarm,
    /// Of a member of a swarm.
    #[error("This node is not part of a swarm")]
    NoPartOfSwarm,
    /// No plugin has this name.
    #[error("plugin \"{0}\" not found")]
    NoSuchPlugin(String),
    /// The same, of a volume.
    #[error(
        "create {volume}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
    )]
    NoSuchVolumePlugin {
        /// Name of the volume that was to be made.
        volume: String,
        /// Its driver.
        driver: String,
    },
    /// A plugin failed or refused, in its own words.
    #[error("{0}")]
    Plugin(String),
    /// No part of the Docker API.
    #[error("page not found")]
    PageNotFound,
    /// The shim or the agent refused to create or start the container.
    #[error("failed to create task for container: {0}")]
    Start(StartFailure),
    /// The same, of one more process in it.
    #[error("OCI runtime exec failed: {0}")]
    StartExec(StartFailure),
    /// The shim's Task API failed.
    #[error("{call} of container {id} failed: {reason}")]
    Task {
        /// Name of the RPC.
        call: &'static str,
        /// Container id.
        id: String,
        /// The shim's text.
        reason: String,
    },
    /// A container's guest did not do what it was asked for in time.
    #[error("{what} of container {id} {how} for {seconds} seconds, and was ended")]
    Stuck {
        /// What it was asked for.
        what: &'static str,
        /// Container id.
        id: String,
        /// What it did, or did not.
        how: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// Options for a list of processes.
    #[error(transparent)]
    Ps(hull_shim::ps::PsError),
    /// Starting the shim failed.
    #[error("failed to start the shim for container {id}: {reason}")]
    Shim {
        /// Container id.
        id: String,
        /// What the shim printed, or what the system said.
        reason: String,
    },
    /// A system call on the host failed.
    #[error("failed to {what} {path:?}")]
    Io {
        /// The verb phrase, such as `create`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The record store failed.
    #[error("the container store failed to {what}")]
    Store {
        /// The verb phrase.
        what: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record or a generated document could not be encoded or decoded.
    #[error("failed to {what}")]
    Json {
        /// The verb phrase.
        what: &'static str,
        /// The cause.
        source: serde_json::Error,
    },
    /// The store was written by a newer Hull.
    #[error(
        "the container store {path:?} has schema version {found}, this hulld reads up to {known}: \
         start the newer hulld, or another --root"
    )]
    StoreTooNew {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Another hulld owns the state directory.
    #[error("another hulld already runs on {0:?}: use that one, or another --root")]
    StateInUse(PathBuf),
    /// The API can't be served there.
    #[error("{0}")]
    Listen(String),
    /// An image operation failed.
    #[error("{0}")]
    Image(ImageFailure),
}

/// A failed start, classified by what Docker clients make of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// The shim's or the agent's text.
    pub reason: String,
}

impl StartFailure {
    /// The exit code that a container has after it: 127 not found, 126 not executable, 128 else.
    pub fn exit_code(&self) -> i64 {
        let text = &self.reason;
        let not_there = [
            "executable file not found",
            "no such file or directory",
            "not a directory",
        ];
        if not_there.iter().any(|words| text.contains(words)) {
            127
        } else if text.contains("permission denied") || text.contains("is a directory") {
            126
        } else {
            128
        }
    }
}

impl std::fmt::Display for StartFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

/// A failed image operation with its HTTP meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFailure {
    /// The HTTP meaning.
    pub kind: Kind,
    /// The text, causes included.
    pub text: String,
}

impl std::fmt::Display for ImageFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Short for results of the engine.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

impl EngineError {
    /// A failed system call on a path.
    pub fn io(what: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            path: path.into(),
            source: source.into(),
        }
    }

    /// The HTTP meaning.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchContainer(_)
            | Self::NoSuchExec(_)
            | Self::NoSuchImage(_)
            | Self::OtherPlatform { .. }
            | Self::NoSuchNetwork(_)
            | Self::NoSuchVolume(_)
            | Self::NoSuchFile { .. }
            | Self::NoSuchPlugin(_)
            | Self::NoSuchVolumePlugin { .. }
            | Self::PageNotFound => Kind::NotFound,
            Self::AmbiguousPrefix(_) | Self::InvalidName(_) | Self::BadRequest(_) => {
                Kind::BadRequest
            }
            Self::Start(failure) | Self::StartExec(failure) if failure.exit_code() != 128 => {
                Kind::BadRequest
            }
            Self::NameInUse { .. } | Self::Conflict(_) => Kind::Conflict,
            Self::Forbidden(_) => Kind::Forbidden,
            Self::NotModified(_) => Kind::NotModified,
            Self::NotBuilt(_)
            | Self::NotSupported(_)
            | Self::Unsupported { .. }
            | Self::UnreadableLogs => Kind::NotBuilt,
            Self::NoSwarm | Self::NoPartOfSwarm => Kind::Unavailable,
            Self::Image(failure) => failure.kind,
            Self::Start(_)
            | Self::StartExec(_)
            | Self::Task { .. }
            | Self::Stuck { .. }
            | Self::Shim { .. }
            | Self::Ps(_)
            | Self::Io { .. }
            | Self::Store { .. }
            | Self::Json { .. }
            | Self::StoreTooNew { .. }
            | Self::StoreDamaged { .. }
            | Self::StateTooNew { .. }
            | Self::StateDamaged { .. }
            | Self::Network(_)
            | Self::Plugin(_)
            | Self::Publish { .. }
            | Self::NoSuchUser(_)
            | Self::Listen(_)
            | Self::StateInUse(_) => Kind::Internal,
        }
    }

    /// The text with its causes, on one line.
    pub fn message(&self) -> String {
        chain(self)
    }
}

/// An error's text and those of its causes, joined by `: `, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_get_the_shell_exit_codes() {
        let code = |reason: &str| {
            StartFailure {
                reason: reason.into(),
            }
            .exit_code()
        };
        assert_eq!(code("exec: \"x\": executable file not found in $PATH"), 127);
        assert_eq!(
            code("exec: \"/x\": stat /x: no such file or directory"),
            127
        );
        assert_eq!(code("chdir to cwd (\"/f\"): not a directory"), 127);
        assert_eq!(code("exec: \"/etc\": permission denied"), 126);
        assert_eq!(code("no memory"), 128);
    }

    #[test]
    fn message_holds_every_cause_once() {
        let error = EngineError::io("create", "/x", io::Error::other("disk is gone"));
        assert_eq!(error.message(), "failed to create \"/x\": disk is gone");
    }
}
