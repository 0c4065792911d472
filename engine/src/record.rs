//! The container record: everything that hulld knows of a container across restarts.

use std::path::PathBuf;
use std::time::Duration;

use bollard_stubs::models::{ContainerConfig, HostConfig, Mount, RestartPolicyNameEnum};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::health::Health;
use crate::lifecycle::{RestartPolicy, Status};
use crate::network::{BoundAddress, Endpoint, Wanted};
use crate::spec::Bind;
use crate::volumes::{Held, VolumeUse};

/// Shape of [`Record`]; the store refuses a higher one.
pub const SCHEMA: u32 = 1;

/// One container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The image.
    pub image: ImageUse,
    /// Program and arguments as executed: entrypoint and command joined.
    pub argv: Vec<String>,
    /// Docker's `Config`, image defaults merged in.
    pub config: ContainerConfig,
    /// Docker's `HostConfig`, as asked for.
    pub host: HostConfig,
    /// What happened to it.
    pub state: State,
    /// ttrpc address of its shim while it is live.
    #[serde(default)]
    pub shim: Option<String>,
    /// Its volumes.
    #[serde(default)]
    pub(crate) volumes: Vec<VolumeUse>,
    /// Images that are mounted in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_mounts: Vec<ImageMount>,
    /// Those of plugins that it holds.
    #[serde(default)]
    pub(crate) held: Vec<Held>,
    /// Bind mounts of the containers whose volumes it has too.
    #[serde(default)]
    pub(crate) inherited_binds: Vec<Bind>,
    /// Their memory file systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) inherited_tmpfs: Vec<Mount>,
    /// Networks that it is to be on.
    #[serde(default)]
    pub(crate) networks: Vec<Wanted>,
    /// Its ends on networks while it is live.
    #[serde(default)]
    pub(crate) endpoints: Vec<Endpoint>,
    /// Where its ports are published while it is live: an engine that comes later takes the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) published: Vec<BoundAddress>,
    /// Index of the interface that is being plugged in or pulled out while it runs: an engine that
    /// finds this was cut off, and pulls it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replugged: Option<usize>,
}

/// The image that a container was made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageUse {
    /// As the user wrote it.
    pub reference: String,
    /// `sha256:...` of the image's configuration.
    pub id: String,
    /// The EROFS file with its root file system; with layers, its metadata.
    pub rootfs: PathBuf,
    /// What the layers hold, as the root file system needs it.
    #[serde(default)]
    pub layers: Vec<PathBuf>,
}

/// An image that a container sees, besides its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageMount {
    /// The image.
    pub image: ImageUse,
    /// Absolute path in the container.
    pub target: String,
    /// The part of the image that is shown, relative to its root.
    #[serde(default)]
    pub subpath: Option<String>,
}

/// The changing part of a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The life-cycle state.
    pub status: Status,
    /// Process id that the shim reported; 0 when not live.
    #[serde(default)]
    pub pid: u32,
    /// Exit code of the last run.
    #[serde(default)]
    pub exit_code: i64,
    /// Why the last start failed, or empty.
    #[serde(default)]
    pub error: String,
    /// The kernel's OOM killer ended a process in the last run.
    #[serde(default)]
    pub oom_killed: bool,
    /// Start of the last run.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// End of the last run.
    #[serde(default)]
    pub finished: Option<Timestamp>,
    /// Automatic restarts so far.
    #[serde(default)]
    pub restarts: u32,
    /// Back-off before the last automatic restart.
    #[serde(default)]
    pub last_delay: Option<Duration>,
    /// How it does, if somebody checks.
    #[serde(default)]
    pub health: Option<Health>,
    /// A user asked for the end of the last run.
    #[serde(default)]
    pub stopped_by_user: bool,
    /// A user restarts it, and it has yet to start: its end does not remove it, though it was made to be
    /// removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarting_by_user: bool,
}

impl State {
    /// State of a container that never ran.
    pub fn created() -> Self {
        Self {
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started: None,
            finished: None,
            restarts: 0,
            last_delay: None,
            health: None,
            stopped_by_user: false,
            restarting_by_user: false,
        }
    }
}

impl Record {
    /// Its own image, and those that are mounted in it.
    pub fn images(&self) -> impl Iterator<Item = &ImageUse> {
        let mounted = self.image_mounts.iter().map(|mount| &mount.image);
        std::iter::once(&self.image).chain(mounted)
    }

    /// The restart policy.
    pub fn restart_policy(&self) -> RestartPolicy {
        let Some(policy) = &self.host.restart_policy else {
            return RestartPolicy::No;
        };
        match policy.name {
            Some(RestartPolicyNameEnum::ALWAYS) => RestartPolicy::Always,
            Some(RestartPolicyNameEnum::UNLESS_STOPPED) => RestartPolicy::UnlessStopped,
            Some(RestartPolicyNameEnum::ON_FAILURE) => RestartPolicy::OnFailure {
                retries: policy
                    .maximum_retry_count
                    .and_then(|count| u32::try_from(count).ok())
                    .unwrap_or(0),
            },
            _ => RestartPolicy::No,
        }
    }

    /// Whether it has a terminal.
    pub fn tty(&self) -> bool {
        self.config.tty.unwrap_or(false)
    }

    /// Whether it is removed when it ends.
    pub fn auto_remove(&self) -> bool {
        self.host.auto_remove.unwrap_or(false)
    }

    /// Whether its present end removes it.
    pub fn goes_with_its_end(&self) -> bool {
        self.auto_remove() && !self.state.restarting_by_user
    }

    /// The signal that asks it to end.
    pub fn stop_signal(&self) -> &str {
        match self.config.stop_signal.as_deref() {
            None | Some("") => "SIGTERM",
            Some(signal) => signal,
        }
    }

    /// How long it may take to end after that; `None`: for ever.
    pub fn stop_timeout(&self) -> Option<Duration> {
        timeout_of(self.config.stop_timeout.unwrap_or(10))
    }
}

/// Docker's timeout in seconds: negative means for ever.
pub fn timeout_of(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A container that never ran.
    pub(crate) fn record() -> Record {
        Record {
            id: "0123456789ab".repeat(6)[..64].to_owned(),
            name: "calm_otter".into(),
            created: Timestamp::UNIX_EPOCH,
            image: ImageUse {
                reference: "busybox".into(),
                id: "sha256:1".into(),
                rootfs: "/images/1.erofs".into(),
                layers: Vec::new(),
            },
            argv: vec!["true".into()],
            config: ContainerConfig::default(),
            host: HostConfig::default(),
            state: State::created(),
            shim: None,
            volumes: Vec::new(),
            image_mounts: Vec::new(),
            held: Vec::new(),
            inherited_binds: Vec::new(),
            inherited_tmpfs: Vec::new(),
            networks: Vec::new(),
            endpoints: Vec::new(),
            published: Vec::new(),
            replugged: None,
        }
    }
}
