//! A network namespace that somebody else prepared (CNI, dockerd, podman): its interfaces move into
//! a guest.
//!
//! Each Ethernet interface gets a tap beside it, in the same namespace, and what comes in at one
//! goes out at the other ([`redirect`]). The guest's interface has the same hardware address,
//! addresses, routes and permanent neighbours ([`survey`]), so nobody outside sees a difference.
//!
//! **Owner:** the tap lives as long as its descriptor, so it goes with the VMM. The queueing
//! discipline that redirects is removed by dropping [`Foreign`]; one that a killed owner left is
//! replaced by the next and goes with the namespace.

mod loopback;
mod redirect;
mod survey;
#[cfg(test)]
mod test_namespace;
mod watch;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

pub use loopback::Loopback;
pub use survey::Surveyed;
pub use watch::Watch;

use crate::netlink::{Neighbour, Netlink, NetlinkError, Route};
use crate::tap::{self, TapError};
use crate::Prefix;

/// Name of the first tap; the index of its interface follows.
const TAP_PREFIX: &str = "hull";
/// Ports that programs on the host side of the namespace use for what they ask there (their
/// resolver's questions). What is for these ports stays in the namespace, if it comes from port 53;
/// a guest's own ports are below.
pub const HOST_SIDE_PORTS: std::ops::RangeInclusive<u16> = 0xfc00..=0xffff;

/// Why a namespace's interfaces can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The namespace.
    #[error("failed to enter the network namespace {path:?}")]
    Enter {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel.
    #[error("network namespace {path:?}")]
    Netlink {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: NetlinkError,
    },
    /// The tap.
    #[error("network namespace {path:?}")]
    Tap {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: TapError,
    },
    /// Its loopback interface.
    #[error("network namespace {path:?}: failed to {action}")]
    Loopback {
        /// Its path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A setting of the namespace.
    #[error("network namespace {path:?}: failed to write {setting}")]
    Setting {
        /// Its path.
        path: PathBuf,
        /// Which.
        setting: String,
        /// Why.
        source: io::Error,
    },
    /// It is the namespace of this process: the host's own.
    #[error("network namespace {path:?} is the host's own, whose interfaces can't go into a VM")]
    Hosts {
        /// Its path.
        path: PathBuf,
    },
    /// Its interfaces are in another VM.
    #[error(
        "network namespace {path:?}: the interface {name:?} is in another container's VM already; \
         two VMs can't share a network stack: give each its own network"
    )]
    Shared {
        /// Its path.
        path: PathBuf,
        /// The interface.
        name: String,
    },
    /// More interfaces than a VM can have.
    #[error("network namespace {path:?} has {count} interfaces, a VM has at most {most}")]
    TooMany {
        /// Its path.
        path: PathBuf,
        /// In the namespace.
        count: usize,
        /// Possible.
        most: usize,
    },
    /// An interface that a VM can't have.
    #[error(
        "network namespace {path:?}: the interface {name:?} has addresses but is no Ethernet \
         interface, so it can't be given to a VM; use a network with veth, macvlan or a bridge"
    )]
    NotEthernet {
        /// The namespace's path.
        path: PathBuf,
        /// The interface.
        name: String,
    },
}

/// What an interface of the namespace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Index in the namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address.
    pub hardware_address: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Without link-local ones, which each end has by itself.
    pub addresses: Vec<Prefix>,
    /// Those among them that a router's advertisements gave: the guest hears further ones, and the
    /// namespace does not.
    pub advertised: Vec<Prefix>,
    /// Those straight through the interface first.
    pub routes: Vec<Route>,
    /// Permanent ones.
    pub neighbours: Vec<Neighbour>,
}

/// The interfaces of a namespace, redirected to taps.
#[derive(Debug)]
pub struct Foreign {
    namespace: Arc<Namespace>,
    /// Descriptors of each tap.
    queues: usize,
    /// Programs of the host answer in the namespace.
    host_side: bool,
    redirected: Vec<Redirected>,
}

#[derive(Debug, Clone, Copy)]
struct Redirected {
    interface: u32,
    /// Once it is there.
    tap: Option<u32>,
    /// What is for programs of the host stays here.
    host_side: bool,
}

/// What tells a namespace from all others that exist. The kernel gives it anew when the namespace
/// is gone: it means something as long as somebody holds the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceId {
    /// Device number of its file.
    pub device: u64,
    /// Inode number of its file.
    pub inode: u64,
}

impl NamespaceId {
    /// Of the namespace at a path.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|it| Self::of(&it))
    }

    fn of(file: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

/// An open network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Opens it by a path such as `/run/netns/x` or `/proc/1/ns/net`.
    pub fn open(path: &Path) -> Result<Self, ForeignError> {
        let file = File::open(path).map_err(|source| ForeignError::Enter {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Runs something in it, on a thread of its own: it never changes the caller's namespace.
    pub fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, ForeignError> + Send,
    ) -> Result<T, ForeignError> {
        let failed = |source| ForeignError::Enter {
            path: self.path.clone(),
            source,
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into());
            let thread = thread.spawn_scoped(scope, || {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|errno| failed(errno.into()))?;
                work()
            });
            let thread = thread.map_err(failed)?;
            let lost = || Err(failed(io::Error::other("the thread in it panicked")));
            thread.join().unwrap_or_else(|_| lost())
        })
    }

    /// Whether it is the namespace of the calling thread.
    pub fn is_own(&self) -> bool {
        self.is_at(Path::new("/proc/thread-self/ns/net"))
    }

    /// Whether a path names it too.
    pub fn is_at(&self, path: &Path) -> bool {
        match (NamespaceId::at(path), self.id()) {
            (Ok(other), Ok(own)) => other == own,
            _ => false,
        }
    }

    /// What tells it from others.
    pub fn id(&self) -> io::Result<NamespaceId> {
        self.file.metadata().map(|it| NamespaceId::of(&it))
    }

    fn netlink<T>(&self, result: Result<T, NetlinkError>) -> Result<T, ForeignError> {
        result.map_err(|source| ForeignError::Netlink {
            path: self.path.clone(),
            source,
        })
    }
}

impl Foreign {
    /// Of a namespace, which is not that of this process. No interface is taken yet.
    ///
    /// `queues`: so many descriptors of each tap are wanted.
    ///
    /// `host_side`: programs of the host (a resolver) answer in the namespace, and need to reach
    /// their own servers from there.
    pub fn new(namespace: Namespace, queues: usize, host_side: bool) -> Result<Self, ForeignError> {
        if namespace.is_own() {
            let path = namespace.path.clone();
            return Err(ForeignError::Hosts { path });
        }
        let mut foreign = Self {
            namespace: Arc::new(namespace),
            queues,
            host_side: false,
            redirected: Vec::new(),
        };
        if host_side {
            foreign.serve_host_side()?;
        }
        Ok(foreign)
    }

    /// The interfaces that it has now.
    pub fn survey(&self) -> Result<Surveyed, ForeignError> {
        let namespace = &self.namespace;
        namespace.run(|| {
            let netlink = namespace.netlink(Netlink::open())?;
            namespace.netlink(survey::interfaces(&netlink))
        })
    }

    /// Redirects an interface to a new tap; the tap's descriptors. One that is redirected may be
    /// taken again when its tap is gone: until then what comes in is dropped, and the namespace's
    /// own stack hears nothing of it.
    pub fn take(&mut self, interface: &Interface) -> Result<Vec<OwnedFd>, ForeignError> {
        let namespace = Arc::clone(&self.namespace);
        namespace.run(|| {
            let netlink = namespace.netlink(Netlink::open())?;
            let taken = self.redirect(&netlink, interface);
            // What another VM redirects is not ours to end.
            let begun = self
                .redirected
                .iter()
                .any(|it| it.interface == interface.index);
            if taken.is_err() && begun {
                self.clear(&netlink, interface.index)?;
            }
            taken
        })
    }

    /// Ends the redirection of an interface, which may have left the namespace.
    pub fn give_back(&mut self, index: u32) -> Result<(), ForeignError> {
        let namespace = Arc::clone(&self.namespace);
        namespace.run(|| {
            let netlink = namespace.netlink(Netlink::open())?;
            self.clear(&netlink, index)
        })
    }

    /// Programs of the host answer in the namespace from here on. Where it fails it can be tried
    /// again.
    pub fn serve_host_side(&mut self) -> Result<(), ForeignError> {
        if self.host_side {
            return Ok(());
        }
        let namespace = Arc::clone(&self.namespace);
        namespace.run(|| {
            let (first, last) = HOST_SIDE_PORTS.into_inner();
            self.set("ipv4/ip_local_port_range", &format!("{first} {last}"))?;
            let netlink = namespace.netlink(Netlink::open())?;
            for taken in self.redirected.iter_mut().filter(|it| !it.host_side) {
                let Some(tap) = taken.tap else { continue };
                match redirect::host_side(&netlink, taken.interface, tap) {
                    // It left a moment ago.
                    Err(NetlinkError::Refused { source, .. })
                        if source.raw_os_error() == Some(libc::ENODEV) => {}
                    served => {
                        namespace.netlink(served)?;
                        taken.host_side = true;
                    }
                }
            }
            Ok(())
        })?;
        self.host_side = true;
        Ok(())
    }

    /// More interfaces than a VM can have.
    pub fn too_many(&self, count: usize, most: usize) -> ForeignError {
        let path = self.namespace.path.clone();
        ForeignError::TooMany { path, count, most }
    }

    /// Its changes can't be read.
    pub fn unwatched(&self, source: io::Error) -> ForeignError {
        ForeignError::Netlink {
            path: self.namespace.path.clone(),
            source: NetlinkError::Refused {
                action: "watch for changes".into(),
                source,
            },
        }
    }

    /// An interface that no VM can have.
    pub fn not_ethernet(&self, name: &str) -> ForeignError {
        ForeignError::NotEthernet {
            path: self.namespace.path.clone(),
            name: name.to_owned(),
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> Arc<Namespace> {
        Arc::clone(&self.namespace)
    }

    fn redirect(
        &mut self,
        netlink: &Netlink,
        interface: &Interface,
    ) -> Result<Vec<OwnedFd>, ForeignError> {
        let namespace = Arc::clone(&self.namespace);
        let path = || namespace.path.clone();
        let name = format!("{TAP_PREFIX}{}", interface.index);
        let tap = tap::open_new(&name, self.queues).map_err(|source| match source.is_busy() {
            true => ForeignError::Shared {
                path: path(),
                name: interface.name.clone(),
            },
            false => ForeignError::Tap {
                path: path(),
                source,
            },
        })?;
        // The namespace's own stack has nothing to say on it.
        let setting = format!("ipv6/conf/{name}/disable_ipv6");
        if Path::new("/proc/sys/net").join(&setting).exists() {
            self.set(&setting, "1")?;
        }
        let mut taken = Redirected {
            interface: interface.index,
            tap: None,
            host_side: self.host_side,
        };
        let made = netlink.link(&name).and_then(|link| {
            let link = link.ok_or_else(|| NetlinkError::Answer {
                action: format!("make the tap {name}"),
                reason: "it is not there".into(),
            })?;
            taken.tap = Some(link.index);
            netlink.set_name_and_mtu(link.index, &name, interface.mtu)?;
            netlink.set_up(link.index)?;
            redirect::clear(netlink, interface.index)?;
            redirect::both_ways(netlink, interface.index, link.index)?;
            match self.host_side {
                true => redirect::host_side(netlink, interface.index, link.index),
                false => Ok(()),
            }
        });
        self.redirected.retain(|it| it.interface != taken.interface);
        self.redirected.push(taken);
        namespace.netlink(made)?;
        Ok(tap)
    }

    fn clear(&mut self, netlink: &Netlink, index: u32) -> Result<(), ForeignError> {
        self.redirected.retain(|taken| taken.interface != index);
        // The interface may be gone with its other end.
        self.namespace.netlink(redirect::clear(netlink, index))
    }

    fn set(&self, setting: &str, value: &str) -> Result<(), ForeignError> {
        std::fs::write(Path::new("/proc/sys/net").join(setting), value).map_err(|source| {
            ForeignError::Setting {
                path: self.namespace.path.clone(),
                setting: setting.to_owned(),
                source,
            }
        })
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let redirected: Vec<u32> = self
            .redirected
            .iter()
            .map(|taken| taken.interface)
            .collect();
        if redirected.is_empty() {
            return;
        }
        let namespace = Arc::clone(&self.namespace);
        let cleared = namespace.run(|| {
            let netlink = namespace.netlink(Netlink::open())?;
            redirected
                .into_iter()
                .try_for_each(|index| self.clear(&netlink, index))
        });
        if let Err(error) = cleared {
            tracing::debug!(%error, path = ?self.namespace.path, "the redirection stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::test_namespace::TestNamespace;
    use super::*;

    /// `None` where the kernel can't redirect.
    fn take(foreign: &mut Foreign, interface: &Interface) -> Option<Vec<OwnedFd>> {
        match foreign.take(interface) {
            Ok(tap) => Some(tap),
            Err(error) => {
                let cause = std::error::Error::source(&error);
                eprintln!("passed over: {error}: {cause:?}");
                None
            }
        }
    }

    #[test]
    fn what_the_host_hears_is_completed_after_a_failure() {
        let Some(test) = TestNamespace::new() else {
            return;
        };
        let mut foreign = Foreign::new(test.again(), 1, false).unwrap();
        let gone = test.add_interface("one", "192.0.2.1/24");
        test.add_interface("two", "198.51.100.1/24");
        let mut taps = Vec::new();
        for interface in &foreign.survey().unwrap().interfaces {
            let Some(tap) = take(&mut foreign, interface) else {
                return;
            };
            taps.push(tap);
        }
        assert_eq!(taps.len(), 2);
        test.remove(gone);
        foreign.serve_host_side().unwrap();
        let served = |foreign: &Foreign| {
            let all = foreign.redirected.iter();
            all.map(|it| (it.interface == gone, it.host_side))
                .collect::<Vec<_>>()
        };
        assert_eq!(served(&foreign), [(true, false), (false, true)]);
        // As if it had failed after what it did.
        foreign.host_side = false;
        foreign.redirected[1].host_side = false;
        foreign.serve_host_side().unwrap();
        assert_eq!(served(&foreign), [(true, false), (false, true)]);
    }

    #[test]
    fn an_interface_is_taken_again_when_its_tap_is_gone() {
        let Some(test) = TestNamespace::new() else {
            return;
        };
        let mut foreign = Foreign::new(test.again(), 1, false).unwrap();
        test.add_interface("one", "192.0.2.1/24");
        let one = foreign.survey().unwrap().interfaces.remove(0);
        let Some(tap) = take(&mut foreign, &one) else {
            return;
        };
        drop(tap);
        let tap = take(&mut foreign, &one);
        assert!(tap.is_some() && foreign.redirected.len() == 1);
        let surveyed = foreign.survey().unwrap();
        // The tap is none of the interfaces that are to be given away.
        assert_eq!(surveyed.interfaces, [one]);
        assert_eq!(surveyed.bare.len(), 1);
    }
}
