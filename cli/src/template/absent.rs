//! What docker's types have and its API leaves out.
//!
//! Docker's command line fills templates from Go's types, where a member that nobody has set is empty. In
//! the API's documents such a member may not be there. Documents have no types: which one an object is of
//! is seen by members that are always there.

use serde_json::Value;

/// What a member is that is not there, and how nothing is printed where it would be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Empty {
    /// A pointer: `<nil>`.
    Nil,
    Text,
    Number,
    No,
    List,
    Map,
}

/// A type: members one of which is always there, and those that may be missing.
struct Type {
    marks: &'static [&'static str],
    members: &'static [(&'static str, Empty)],
}

use Empty::{List, Map, Nil, No, Number, Text};

const TYPES: [Type; 10] = [
    Type {
        marks: &["OOMKilled"],
        members: &[("Health", Nil)],
    },
    // A container.
    Type {
        marks: &["HostConfig"],
        members: &[
            ("SizeRw", Nil),
            ("SizeRootFs", Nil),
            ("ImageManifestDescriptor", Nil),
            ("ExecIDs", List),
        ],
    },
    Type {
        marks: &["RestartPolicy"],
        members: &[
            ("Annotations", Map),
            ("Init", Nil),
            ("KernelMemory", Number),
            ("KernelMemoryTCP", Number),
            ("Mounts", List),
            ("PortBindings", Map),
            ("Runtime", Text),
            ("StorageOpt", Map),
            ("Sysctls", Map),
            ("Tmpfs", Map),
            ("PidsLimit", Nil),
            ("MemorySwappiness", Nil),
            ("OomKillDisable", Nil),
            ("Binds", List),
            ("CapAdd", List),
            ("CapDrop", List),
            ("DeviceCgroupRules", List),
            ("DeviceRequests", List),
            ("Devices", List),
            ("Dns", List),
            ("DnsOptions", List),
            ("DnsSearch", List),
            ("ExtraHosts", List),
            ("GroupAdd", List),
            ("Links", List),
            ("MaskedPaths", List),
            ("ReadonlyPaths", List),
            ("SecurityOpt", List),
            ("Ulimits", List),
            ("VolumesFrom", List),
        ],
    },
    // The configuration of a container or an image.
    Type {
        marks: &["AttachStdin", "Cmd", "Entrypoint", "WorkingDir", "Env"],
        members: &[
            ("ArgsEscaped", No),
            ("Cmd", List),
            ("Domainname", Text),
            ("Entrypoint", List),
            ("Env", List),
            ("ExposedPorts", Map),
            ("Healthcheck", Nil),
            ("Hostname", Text),
            ("Image", Text),
            ("Labels", Map),
            ("MacAddress", Text),
            ("NetworkDisabled", No),
            ("OnBuild", List),
            ("Shell", List),
            ("StopSignal", Text),
            ("StopTimeout", Nil),
            ("User", Text),
            ("Volumes", Map),
            ("WorkingDir", Text),
        ],
    },
    // A container's place on a network.
    Type {
        marks: &["NetworkID"],
        members: &[
            ("Aliases", List),
            ("DNSNames", List),
            ("DriverOpts", Map),
            ("EndpointID", Text),
            ("Gateway", Text),
            ("GlobalIPv6Address", Text),
            ("GlobalIPv6PrefixLen", Number),
            ("GwPriority", Number),
            ("IPAMConfig", Nil),
            ("IPAddress", Text),
            ("IPPrefixLen", Number),
            ("IPv6Gateway", Text),
            ("Links", List),
            ("MacAddress", Text),
        ],
    },
    // A container's network settings.
    Type {
        marks: &["Networks"],
        members: &[
            ("Bridge", Text),
            ("EndpointID", Text),
            ("Gateway", Text),
            ("GlobalIPv6Address", Text),
            ("GlobalIPv6PrefixLen", Number),
            ("HairpinMode", No),
            ("IPAddress", Text),
            ("IPPrefixLen", Number),
            ("IPv6Gateway", Text),
            ("LinkLocalIPv6Address", Text),
            ("LinkLocalIPv6PrefixLen", Number),
            ("MacAddress", Text),
            ("Ports", Map),
            ("SandboxID", Text),
            ("SandboxKey", Text),
            ("SecondaryIPAddresses", List),
            ("SecondaryIPv6Addresses", List),
        ],
    },
    // What is mounted.
    Type {
        marks: &["Destination"],
        members: &[
            ("Driver", Text),
            ("Mode", Text),
            ("Name", Text),
            ("Propagation", Text),
            ("Source", Text),
        ],
    },
    // An image.
    Type {
        marks: &["RootFS"],
        members: &[
            ("Author", Text),
            ("Comment", Text),
            ("Config", Nil),
            ("Container", Text),
            ("Created", Text),
            ("Descriptor", Nil),
            ("DockerVersion", Text),
            ("GraphDriver", Map),
            ("Manifests", List),
            ("OsVersion", Text),
            ("Parent", Text),
            ("RepoDigests", List),
            ("RepoTags", List),
            ("Variant", Text),
            ("VirtualSize", Number),
        ],
    },
    // A network, and one of its subnets.
    Type {
        marks: &["IPAM", "Subnet"],
        members: &[
            ("AuxAddress", Map),
            ("Gateway", Text),
            ("IPRange", Text),
            ("Labels", Map),
            ("Options", Map),
            ("Peers", List),
            ("Services", Map),
        ],
    },
    // A volume.
    Type {
        marks: &["Mountpoint"],
        members: &[
            ("ClusterVolume", Nil),
            ("CreatedAt", Text),
            ("Labels", Map),
            ("Options", Map),
            ("Status", Map),
            ("UsageData", Nil),
        ],
    },
];

/// Maps whose keys are the user's.
const MAPS: [&str; 15] = [
    "Annotations",
    "AuxiliaryAddresses",
    "Containers",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "Status",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Whether the member of this name is a map whose keys are the user's: one that is not there is nothing.
pub(super) fn is_map(name: &str) -> bool {
    MAPS.contains(&name)
}

/// The member of an object of docker's that is not there, if its type has it.
pub(super) fn member(object: &Value, name: &str) -> Option<Value> {
    let object = object.as_object()?;
    let is_of = |of: &&Type| of.marks.iter().any(|mark| object.contains_key(*mark));
    let members = TYPES.iter().filter(is_of).flat_map(|of| of.members);
    let mut members = members.filter(|(known, _)| *known == name);
    members.next().map(|(_, empty)| match empty {
        Nil | List | Map => Value::Null,
        Text => "".into(),
        Number => 0.into(),
        No => false.into(),
    })
}

/// How nothing is printed that is the member of this name.
pub(super) fn nothing(name: &str) -> &'static str {
    let mut members = TYPES.iter().flat_map(|of| of.members);
    match members.find(|(known, _)| *known == name) {
        Some((_, List)) => "[]",
        Some((_, Map)) => "map[]",
        _ if is_map(name) => "map[]",
        _ => "<nil>",
    }
}
