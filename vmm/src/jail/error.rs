use std::io;

/// Why the jail could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The configuration asks for root.
    #[error(
        "the jail needs an unprivileged identity, not uid {uid}, gid {gid}: give the sandbox ids \
         above 0"
    )]
    RootIdentity {
        /// The user asked for.
        uid: u32,
        /// The group asked for.
        gid: u32,
    },
    /// Without privilege a process can only stay who it is.
    #[error(
        "cannot become uid {uid}, gid {gid} from uid {own_uid}, gid {own_gid} without \
         CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID: start as root, or with the own ids"
    )]
    Unprivileged {
        /// The user asked for.
        uid: u32,
        /// The group asked for.
        gid: u32,
        /// The user that runs this process.
        own_uid: u32,
        /// The group that runs this process.
        own_gid: u32,
    },
    /// Another thread would stay outside.
    #[error("the jail must be entered by a process with one thread, not {threads}")]
    Threads {
        /// Threads found.
        threads: u64,
    },
    /// An open directory is a way out of the empty root.
    #[error("descriptor {fd} is the directory {path:?}: a VMM is given files, never directories")]
    DirectoryOpen {
        /// The descriptor.
        fd: i32,
        /// What it is open on.
        path: String,
    },
    /// The starter ended while the jail was entered, so nobody would end this process.
    #[error("the process that started the VMM has ended")]
    ParentGone,
    /// The kernel refused a step.
    #[error("failed to {attempt}")]
    Step {
        /// What was attempted.
        attempt: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel accepted every step, yet reading back shows something else.
    #[error("the jail does not hold: {what} is {found:?}, wanted {want:?}")]
    NotHeld {
        /// Which part.
        what: &'static str,
        /// What the kernel shows.
        found: String,
        /// What must be shown.
        want: String,
    },
}

/// Names what was attempted where the kernel refused it.
pub(super) trait Attempt<T> {
    fn attempt(self, attempt: &'static str) -> Result<T, JailError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, attempt: &'static str) -> Result<T, JailError> {
        self.map_err(|source| JailError::Step {
            attempt,
            source: source.into(),
        })
    }
}
