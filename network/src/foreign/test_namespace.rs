//! A network namespace for a test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Namespace, NamespaceId};
use crate::netlink::Netlink;

/// A namespace, as long as it is not dropped.
pub(super) struct TestNamespace {
    keeper: Child,
    namespace: Namespace,
}

impl TestNamespace {
    /// `None` for a user who may not make one: the test has nothing to say then.
    pub(super) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("passed over: only root can make a network namespace");
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "600"]);
        let keeper = command.stdin(Stdio::null()).spawn().unwrap();
        let path = PathBuf::from(format!("/proc/{}/ns/net", keeper.id()));
        let own = NamespaceId::at(Path::new("/proc/self/ns/net")).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while NamespaceId::at(&path).unwrap() == own {
            assert!(Instant::now() < until, "no new namespace");
            std::thread::sleep(Duration::from_millis(1));
        }
        let namespace = Namespace::open(&path).unwrap();
        Some(Self { keeper, namespace })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Another handle of it.
    pub(super) fn again(&self) -> Namespace {
        Namespace::open(&self.namespace.path).unwrap()
    }

    /// Makes an Ethernet interface that is up; its index.
    pub(super) fn add_interface(&self, name: &str, address: &str) -> u32 {
        self.run(|netlink| {
            // Every kernel of a host of containers has bridges.
            let index = netlink.add_bridge(name, 1500).unwrap();
            netlink.set_up(index).unwrap();
            netlink
                .add_address(index, address.parse().unwrap())
                .unwrap();
            index
        })
    }

    pub(super) fn remove(&self, index: u32) {
        self.run(|netlink| netlink.delete_link(index).unwrap());
    }

    /// Works in it.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce(&Netlink) -> T + Send) -> T {
        let done = self.namespace.run(|| Ok(work(&Netlink::open().unwrap())));
        done.unwrap()
    }
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
