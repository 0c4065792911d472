//! The open descriptors that the VMM was started with, by name.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use hull_vm_config::FdName;

use crate::devices::{MissingFd, TakeFd};
use crate::sys;

/// First descriptor number after stdin, stdout and stderr.
const FIRST_FREE_FD: RawFd = 3;

/// Size that the process's descriptor table is grown to while it has one thread: growing it later,
/// with several, waits for an RCU grace period each time.
const FD_TABLE_SIZE: RawFd = 256;

/// Something is wrong with the descriptors handed over.
#[derive(Debug, thiserror::Error)]
pub enum FdError {
    /// An argument that is not `--fd NAME=NUMBER`.
    #[error("argument {argument:?} is not of the form --fd NAME=NUMBER")]
    BadArgument {
        /// The argument.
        argument: String,
    },
    /// The number is 0, 1, 2, or taken by another name.
    #[error("descriptor {number} cannot be given to {name}: it is one of stdin, stdout and stderr, or has a name already")]
    Taken {
        /// The name it was to have.
        name: FdName,
        /// The number.
        number: RawFd,
    },
    /// Two descriptors with one name.
    #[error("descriptor {name} is given twice")]
    DuplicateName {
        /// The name.
        name: FdName,
    },
    /// The number is not an open descriptor.
    #[error("descriptor {name} (number {number}) is not open")]
    NotOpen {
        /// The name.
        name: FdName,
        /// The number.
        number: RawFd,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Descriptors by name. What is still inside when the table is dropped gets closed.
#[derive(Debug, Default)]
pub struct FdTable {
    fds: BTreeMap<FdName, OwnedFd>,
}

impl FdTable {
    /// Reads `--fd NAME=NUMBER` pairs and takes ownership of those descriptors. To be called once,
    /// before the process opens anything.
    pub fn from_args(args: impl IntoIterator<Item = String>) -> Result<Self, FdError> {
        let mut table = Self::default();
        let mut numbers = Vec::new();
        for (name, number) in parse_args(args)? {
            if number < FIRST_FREE_FD || numbers.contains(&number) {
                return Err(FdError::Taken { name, number });
            }
            let fd = sys::adopt_fd(number).map_err(|source| FdError::NotOpen {
                name: name.clone(),
                number,
                source,
            })?;
            numbers.push(number);
            if table.fds.insert(name.clone(), fd).is_some() {
                return Err(FdError::DuplicateName { name });
            }
        }
        Ok(table)
    }

    /// Adds a descriptor; the name must be new.
    pub fn insert(&mut self, name: FdName, fd: OwnedFd) -> Result<(), FdError> {
        if self.fds.contains_key(&name) {
            return Err(FdError::DuplicateName { name });
        }
        self.fds.insert(name, fd);
        Ok(())
    }

    /// Closes every descriptor above stderr that is not in the table, so that nothing a careless
    /// parent left open is inside the jail. Call it before the process opens anything else.
    pub fn close_others(&self) -> io::Result<()> {
        let mut kept: Vec<RawFd> = self.fds.values().map(AsRawFd::as_raw_fd).collect();
        kept.sort_unstable();
        sys::close_all_but(FIRST_FREE_FD, &kept)
    }
}

impl TakeFd for FdTable {
    fn take(&mut self, name: &FdName) -> Result<OwnedFd, MissingFd> {
        self.fds.remove(name).ok_or_else(|| MissingFd(name.clone()))
    }
}

/// Grows the descriptor table once. Failure costs time later, nothing else.
pub fn presize_fd_table(any_fd: &OwnedFd) {
    drop(rustix::io::fcntl_dupfd_cloexec(any_fd, FD_TABLE_SIZE - 1));
}

fn parse_args(args: impl IntoIterator<Item = String>) -> Result<Vec<(FdName, RawFd)>, FdError> {
    let mut args = args.into_iter();
    let mut pairs = Vec::new();
    while let Some(flag) = args.next() {
        let pair = match flag.as_str() {
            "--fd" => args.next().unwrap_or_default(),
            _ => return Err(FdError::BadArgument { argument: flag }),
        };
        let parsed = pair.split_once('=').and_then(|(name, number)| {
            let number: RawFd = number.parse().ok()?;
            (!name.is_empty()).then(|| (FdName::from(name), number))
        });
        pairs.push(parsed.ok_or(FdError::BadArgument { argument: pair })?);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    fn args(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pairs_are_parsed_in_order() {
        let pairs = parse_args(args(&["--fd", "kvm=5", "--fd", "config=7"])).unwrap();
        assert_eq!(pairs, [("kvm".into(), 5), ("config".into(), 7)]);
    }

    #[test]
    fn malformed_arguments_are_named() {
        for bad in [
            &["--fd", "kvm"][..],
            &["--fd", "=5"],
            &["--fd", "a=x"],
            &["--fd"],
            &["-x"],
        ] {
            let error = parse_args(args(bad)).unwrap_err();
            assert!(
                matches!(error, FdError::BadArgument { .. }),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn stdin_cannot_be_handed_over() {
        let error = FdTable::from_args(args(&["--fd", "kvm=0"])).unwrap_err();
        assert!(matches!(error, FdError::Taken { number: 0, .. }));
    }

    #[test]
    fn closed_number_is_refused() {
        let error = FdTable::from_args(args(&["--fd", "kvm=99999"])).unwrap_err();
        assert!(error.to_string().contains("kvm (number 99999) is not open"));
    }

    #[test]
    fn taken_descriptor_is_missing_afterwards() {
        let raw = OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into_raw_fd();
        let mut table = FdTable::from_args(args(&["--fd", &format!("null={raw}")])).unwrap();
        assert!(table.take(&"null".into()).is_ok());
        let error = table.take(&"null".into()).unwrap_err();
        assert!(error.to_string().contains("null"));
    }
}
