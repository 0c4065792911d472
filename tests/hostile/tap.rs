//! The host's end of a hostile guest's network: a real tap that leads nowhere.

use std::os::fd::OwnedFd;

use hull_network::netlink::Netlink;
use hull_network::tap;

/// A tap that is up; it goes when this does.
pub(crate) struct Tap {
    name: String,
}

impl Tap {
    /// `Err` says why there is none. Its name begins with `prefix`.
    pub(crate) fn make(prefix: &str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a tap needs root".into());
        }
        let tap = Self {
            name: format!("{prefix}{}", std::process::id()),
        };
        tap::create(&tap.name, false).map_err(|error| error.to_string())?;
        let up = Netlink::open().and_then(|netlink| match netlink.link(&tap.name)? {
            Some(link) => netlink.set_up(link.index),
            None => Ok(()),
        });
        up.map_err(|error| error.to_string())?;
        Ok(tap)
    }

    /// Its name.
    #[allow(dead_code, reason = "for those who reach for another VM's")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The end for the VMM.
    pub(crate) fn open(&self) -> Result<OwnedFd, String> {
        let opened = tap::open(&self.name, 1).map_err(|error| error.to_string())?;
        opened.into_iter().next().ok_or("no tap".into())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Err(error) = tap::remove(&self.name) {
            eprintln!("{error}");
        }
    }
}
