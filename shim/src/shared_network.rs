//! Which sandbox has a network namespace: a container that joins one by path is made in the VM that
//! has it, since two VMs can't share a network stack.
//!
//! The sandbox's runtime directory says it. A namespace's numbers are given anew when it is gone;
//! the shim of a living sandbox holds it open, so what the directory of one says is true.

use std::io;
use std::path::Path;

use hull_network::foreign::{Namespace, NamespaceId};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::holder::Network;
use crate::runtime_dir::living;

/// Name of the file in a sandbox's runtime directory.
const FILE: &str = "netns.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// containerd's namespace, in which ids are told apart.
    engine: String,
    sandbox: String,
    device: u64,
    inode: u64,
}

/// Says in a sandbox's runtime directory which network namespace it has.
pub(crate) fn announce(
    directory: &Path,
    engine: &str,
    sandbox: &str,
    namespace: &Namespace,
) -> io::Result<()> {
    let id = namespace.id()?;
    let entry = Entry {
        engine: engine.to_owned(),
        sandbox: sandbox.to_owned(),
        device: id.device,
        inode: id.inode,
    };
    let new = directory.join(format!("{FILE}.new"));
    crate::private::write(&new, serde_json::to_vec(&entry)?)?;
    std::fs::rename(&new, directory.join(FILE))
}

/// The living sandbox of the same engine whose network namespace a configuration joins by path.
pub(crate) fn find(exec_root: &Path, engine: &str, spec: &Spec) -> Option<String> {
    let Network::Join(path) = Network::of(spec) else {
        return None;
    };
    let wanted = NamespaceId::at(&path).ok()?;
    living(exec_root).iter().find_map(|directory| {
        let text = std::fs::read(directory.join(FILE)).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        let is = (entry.device, entry.inode) == (wanted.device, wanted.inode);
        (is && entry.engine == engine).then_some(entry.sandbox)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime_dir::RuntimeDir;

    fn joining(path: &str) -> Spec {
        let namespaces = serde_json::json!([{"type": "network", "path": path}]);
        let linux = serde_json::json!({ "namespaces": namespaces });
        serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "linux": linux})).unwrap()
    }

    #[test]
    fn a_sandbox_is_found_by_its_network_namespace_while_it_lives() {
        let root = tempfile::tempdir().unwrap();
        let own = "/proc/self/ns/net";
        let sandbox = RuntimeDir::create(root.path(), "ns-c1").unwrap();
        assert_eq!(find(root.path(), "ns", &joining(own)), None);
        let namespace = Namespace::open(Path::new(own)).unwrap();
        announce(sandbox.path(), "ns", "c1", &namespace).unwrap();
        assert_eq!(find(root.path(), "ns", &joining(own)), Some("c1".into()));
        assert_eq!(find(root.path(), "other", &joining(own)), None);
        let other = root.path().join("file");
        std::fs::write(&other, "").unwrap();
        for path in [other.to_str().unwrap(), "/nonexistent"] {
            assert_eq!(find(root.path(), "ns", &joining(path)), None, "{path}");
        }
        drop(sandbox);
        assert_eq!(find(root.path(), "ns", &joining(own)), None);
    }
}
