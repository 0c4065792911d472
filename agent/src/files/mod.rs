//! What the host asks of a container's files: to look at one, to read or write a tree as a tar
//! stream, and what changed against the image.
//!
//! Each job is a process of its own, started like an exec. Jobs on the container's tree run in its
//! mount namespace, so that every path and symbolic link means what it means to the container; jobs
//! on the layer run outside, where the image and the writable layer lie side by side.

mod archive;
mod changes;
mod pack;
mod scaffold;
mod stat;
mod unpack;

use std::io;
use std::path::{Path, PathBuf};

use hull_protocol::agent::files_job::Kind;
use hull_protocol::agent::FilesJob;
use serde::{Deserialize, Serialize};

use crate::error::{AgentError, Result};

/// A job, as its process gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Prints Docker's `ContainerPathStat` (JSON).
    Stat { path: PathBuf },
    /// Writes a tar of a file or tree.
    Read { path: PathBuf },
    /// Takes a tar into a directory.
    Write {
        path: PathBuf,
        keep_kinds: bool,
        /// A user and group of the container, who own it all.
        owner: Option<String>,
    },
    /// Writes a tar of the whole tree, without what is mounted in it.
    Export,
    /// Prints what changed against the image: a JSON value for each, on a line of its own.
    Changes { image: PathBuf, upper: PathBuf },
    /// Writes the changes as a layer of an OCI image.
    Layer { image: PathBuf, upper: PathBuf },
    /// Looks for a user of the container.
    User { user: String },
}

/// Where the parts of a container's root lie in the guest.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    pub(crate) image: PathBuf,
    pub(crate) upper: PathBuf,
}

impl Job {
    /// What the host asks for; `layers` are there if the root is made of an image and a writable
    /// layer.
    pub(crate) fn of(request: &FilesJob, layers: Option<Layers>) -> Result<Self> {
        let path = PathBuf::from(&request.path);
        let path = || match path.is_absolute() {
            true => Ok(path.clone()),
            false => Err(AgentError::invalid(format!("{path:?} is not absolute"))),
        };
        let layers = || {
            layers.clone().ok_or_else(|| {
                AgentError::invalid("the root file system is no image with a writable layer")
            })
        };
        Ok(match request.kind.enum_value() {
            Ok(Kind::STAT) => Self::Stat { path: path()? },
            Ok(Kind::READ) => Self::Read { path: path()? },
            Ok(Kind::WRITE) => Self::Write {
                path: path()?,
                keep_kinds: request.keep_kinds,
                owner: Some(request.owner.clone()).filter(|owner| !owner.is_empty()),
            },
            Ok(Kind::EXPORT) => Self::Export,
            Ok(Kind::CHANGES) => {
                let Layers { image, upper } = layers()?;
                Self::Changes { image, upper }
            }
            Ok(Kind::LAYER) => {
                let Layers { image, upper } = layers()?;
                Self::Layer { image, upper }
            }
            Ok(Kind::USER) => Self::User {
                user: request.owner.clone(),
            },
            Err(number) => return Err(AgentError::invalid(format!("no files job {number}"))),
        })
    }

    /// Whether it runs in the container's mount namespace.
    pub(crate) fn in_container(&self) -> bool {
        !matches!(self, Self::Changes { .. } | Self::Layer { .. })
    }

    /// Does it, between standard input and output.
    pub(crate) fn perform(&self) -> io::Result<()> {
        let output = || io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
        match self {
            Self::Stat { path } => stat::print(path, &mut output()),
            Self::Read { path } => pack::tree(path, output()),
            Self::Write {
                path,
                keep_kinds,
                owner,
            } => {
                let owner = owner.as_deref().map(owner_of).transpose()?;
                unpack::into(path, *keep_kinds, owner, io::stdin().lock())
            }
            Self::Export => pack::root(Path::new("/"), output()),
            Self::Changes { image, upper } => changes::print(image, upper, &mut output()),
            Self::Layer { image, upper } => pack::layer(image, upper, output()),
            Self::User { user } => owner_of(user).map(drop),
        }
    }
}

/// User and group numbers of a container's user.
fn owner_of(user: &str) -> io::Result<(u32, u32)> {
    let identity = crate::container::identity_of(user);
    let identity = identity.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok((identity.uid, identity.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_job_is_refused() {
        let job = |kind: Kind, path: &str| {
            let request = FilesJob {
                kind: kind.into(),
                path: path.into(),
                ..FilesJob::default()
            };
            Job::of(&request, None)
        };
        assert!(job(Kind::STAT, "/etc").unwrap().in_container());
        assert!(job(Kind::READ, "etc").is_err());
        assert!(job(Kind::CHANGES, "").is_err());
        let unknown = FilesJob {
            kind: protobuf::EnumOrUnknown::from_i32(99),
            ..FilesJob::default()
        };
        assert!(Job::of(&unknown, None).is_err());
    }
}
