//! Descriptors that this program was started with and that the container's process shall have:
//! `--preserve-fds`, and `LISTEN_FDS` of `sd_listen_fds(3)`.

use std::os::fd::OwnedFd;

use hull_protocol::MAX_PRESERVED;

use super::cli::Command;
use super::error::{Result, RuntimeError};
use crate::preserved::{direction_of, Direction};

/// The number of the first one.
const FIRST: usize = 3;

/// As they came.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    listen: usize,
    preserve: usize,
    fds: Vec<Option<OwnedFd>>,
}

/// What the process gets.
#[derive(Debug, Default)]
pub(super) struct Preserved {
    /// How many of them `LISTEN_FDS` counts; they come first.
    pub(super) listen_fds: u32,
    pub(super) fds: Vec<(Direction, OwnedFd)>,
}

impl Inherited {
    /// Takes what `command` asks for. Nothing has been opened before, so what is there was
    /// inherited.
    pub(super) fn take(command: Option<&Command>) -> Self {
        let (preserve, listens) = match command {
            Some(Command::Create(args)) => (args.preserve_fds, true),
            Some(Command::Run(args)) => (args.create.preserve_fds, true),
            Some(Command::Exec(args)) => (args.preserve_fds, false),
            _ => return Self::default(),
        };
        let preserve = preserve as usize;
        let listen = match listens {
            true => listen_fds(
                std::env::var("LISTEN_PID").ok().as_deref(),
                std::env::var("LISTEN_FDS").ok().as_deref(),
            ),
            false => 0,
        };
        // More than that are refused below.
        let count = listen.saturating_add(preserve).min(MAX_PRESERVED);
        let fds = (FIRST..FIRST + count).map(crate::sys::take_inherited);
        Self {
            listen,
            preserve,
            fds: fds.collect(),
        }
    }

    /// What of them a VM can have; anything else is refused by its number.
    pub(super) fn check(self) -> Result<Preserved> {
        let refused = |text: String| Err(RuntimeError::Usage(text));
        if MAX_PRESERVED < self.listen.saturating_add(self.preserve) {
            return refused(format!(
                "--preserve-fds {} and LISTEN_FDS={}: a microVM takes {MAX_PRESERVED} descriptors",
                self.preserve, self.listen
            ));
        }
        let mut fds = Vec::new();
        for (index, fd) in self.fds.into_iter().enumerate() {
            let number = FIRST + index;
            let Some(fd) = fd else {
                // runc's words.
                return refused(format!(
                    "unable to stat preserved-fd {index} (of {}): stat /proc/self/fd/{number}: no such file or directory",
                    self.preserve
                ));
            };
            match direction_of(&fd) {
                Ok(direction) => fds.push((direction, fd)),
                Err(unfit) => {
                    return refused(format!(
                        "descriptor {number} is {unfit}, which a microVM cannot inherit"
                    ))
                }
            }
        }
        Ok(Preserved {
            listen_fds: u32::try_from(self.listen).unwrap_or_default(),
            fds,
        })
    }
}

/// How many are for this very process.
fn listen_fds(pid: Option<&str>, count: Option<&str>) -> usize {
    let is_ours = pid.and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    let count = count.filter(|_| is_ours);
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited(preserve: usize, fds: Vec<Option<OwnedFd>>) -> Inherited {
        Inherited {
            listen: 0,
            preserve,
            fds,
        }
    }

    #[test]
    fn what_is_missing_or_unfit_is_named_by_its_number() {
        let pipe = || Some(OwnedFd::from(std::io::pipe().unwrap().0));
        let good = inherited(1, vec![pipe()]).check().unwrap();
        assert_eq!(good.fds[0].0, Direction::In);
        let error = inherited(2, vec![pipe(), None]).check().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("preserved-fd 1 (of 2)"), "{text}");
        let folder = std::fs::File::open("/").unwrap();
        let error = inherited(1, vec![Some(folder.into())]).check().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("descriptor 3 is a directory"), "{text}");
        assert!(inherited(MAX_PRESERVED + 1, Vec::new()).check().is_err());
    }

    #[test]
    fn sockets_of_systemd_are_for_the_process_that_is_named() {
        let own = std::process::id().to_string();
        assert_eq!(listen_fds(Some(&own), Some("2")), 2);
        assert_eq!(listen_fds(Some("1"), Some("2")), 0);
        assert_eq!(listen_fds(None, Some("2")), 0);
        assert_eq!(listen_fds(Some(&own), Some("x")), 0);
    }
}
