//! Letting the host pass packets on.

use std::fs;
use std::path::{Path, PathBuf};

use super::RulesError;

const V4: &str = "/proc/sys/net/ipv4/ip_forward";
/// A folder for each interface, and `all`.
const V6: &str = "/proc/sys/net/ipv6/conf";

pub(super) fn switch_on_v4() -> Result<(), RulesError> {
    write(Path::new(V4), "1")
}

/// A host that forwards is a router, and would no longer listen to the routers that it had its own
/// addresses and routes from; so it is told to.
pub(super) fn switch_on_v6() -> Result<(), RulesError> {
    let all = PathBuf::from(V6).join("all/forwarding");
    if read(&all) == "1" {
        return Ok(());
    }
    let interfaces = fs::read_dir(V6).into_iter().flatten().flatten();
    for interface in interfaces {
        let accept = interface.path().join("accept_ra");
        if read(&accept) == "1" {
            write(&accept, "2")?;
        }
    }
    write(&all, "1")
}

fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

fn write(path: &Path, value: &str) -> Result<(), RulesError> {
    fs::write(path, value).map_err(|source| RulesError::Forwarding {
        path: path.display().to_string(),
        source,
    })
}
