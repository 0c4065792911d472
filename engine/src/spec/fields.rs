//! What becomes of each field that a client may set: the one table behind refusals, warnings,
//! `inspect` and `docs/compatibility.md`.

use serde_json::{json, Map, Value};

/// What Hull does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As dockerd does.
    Honoured,
    /// Has its effect inside the container's own machine.
    Guest,
    /// Kept and shown, without effect: there is nothing that it could change.
    Kept,
    /// Discarded, and the client is told.
    Warned,
    /// A request that sets it is refused.
    Refused,
}

/// What `inspect` shows of a field that nobody set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    Null,
    Text,
    Number,
    False,
    List,
    Map,
    /// The field is left out.
    Absent,
}

impl Zero {
    fn value(self) -> Option<Value> {
        Some(match self {
            Self::Null => Value::Null,
            Self::Text => json!(""),
            Self::Number => json!(0),
            Self::False => json!(false),
            Self::List => json!([]),
            Self::Map => json!({}),
            Self::Absent => return None,
        })
    }
}

/// One field.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its name in the API.
    pub(crate) name: &'static str,
    pub(crate) fate: Fate,
    pub(crate) zero: Zero,
    /// What a user should know; the reason where it is refused.
    pub(crate) note: &'static str,
}

const fn field(name: &'static str, fate: Fate, zero: Zero, note: &'static str) -> Field {
    Field {
        name,
        fate,
        zero,
        note,
    }
}

use Fate::{Guest, Honoured, Kept, Refused, Warned};

/// `HostConfig`.
pub(crate) const HOST: &[Field] = &[
    field("Annotations", Honoured, Zero::Absent, "`dev.hull.*` are Hull's own; what the engine sets itself can't be set"),
    field("AutoRemove", Honoured, Zero::False, ""),
    field("Binds", Honoured, Zero::Null, "by virtio-fs"),
    field("BlkioDeviceReadBps", Refused, Zero::Null, "the host's disks are not the container's"),
    field("BlkioDeviceReadIOps", Refused, Zero::Null, "the host's disks are not the container's"),
    field("BlkioDeviceWriteBps", Refused, Zero::Null, "the host's disks are not the container's"),
    field("BlkioDeviceWriteIOps", Refused, Zero::Null, "the host's disks are not the container's"),
    field("BlkioWeight", Warned, Zero::Number, "there is no weight between VMs yet"),
    field("BlkioWeightDevice", Refused, Zero::List, "the host's disks are not the container's"),
    field("CapAdd", Guest, Zero::Null, "capabilities over the container's own kernel"),
    field("CapDrop", Guest, Zero::Null, ""),
    field("Cgroup", Refused, Zero::Text, "containers don't share a cgroup"),
    field("CgroupParent", Warned, Zero::Text, "the container's cgroup is in its VM"),
    field("CgroupnsMode", Guest, Zero::Text, "`host` is the guest's"),
    field("ConsoleSize", Honoured, Zero::Absent, ""),
    field("ContainerIDFile", Kept, Zero::Text, "the client writes the file"),
    field("CpuCount", Refused, Zero::Number, "it is of Windows"),
    field("CpuPercent", Refused, Zero::Number, "it is of Windows"),
    field("CpuPeriod", Honoured, Zero::Number, ""),
    field("CpuQuota", Honoured, Zero::Number, "also sizes the VM"),
    field("CpuRealtimePeriod", Refused, Zero::Number, "cgroup v2 has no real-time limits"),
    field("CpuRealtimeRuntime", Refused, Zero::Number, "cgroup v2 has no real-time limits"),
    field("CpuShares", Honoured, Zero::Number, "between VMs, where the host has cgroup v2"),
    field("CpusetCpus", Honoured, Zero::Text, "the VM has so many processors, which run on these of the host"),
    field("CpusetMems", Refused, Zero::Text, "a VM has one memory node; `0` is accepted"),
    field("DeviceCgroupRules", Guest, Zero::Null, "they name devices by the guest's numbers"),
    field("DeviceRequests", Refused, Zero::Null, "GPUs can't be passed to a VM yet"),
    field("Devices", Guest, Zero::List, "what every guest has, such as `/dev/fuse` and `/dev/net/tun`, and disks of the host; other devices of the host are refused"),
    field("Dns", Honoured, Zero::List, ""),
    field("DnsOptions", Honoured, Zero::List, ""),
    field("DnsSearch", Honoured, Zero::List, ""),
    field("ExtraHosts", Honoured, Zero::Null, ""),
    field("GroupAdd", Honoured, Zero::Null, ""),
    field("IOMaximumBandwidth", Refused, Zero::Number, "it is of Windows"),
    field("IOMaximumIOps", Refused, Zero::Number, "it is of Windows"),
    field("Init", Honoured, Zero::Absent, "the agent's program as `/sbin/docker-init`; not with `PidMode` `host`"),
    field("IpcMode", Guest, Zero::Text, "`host` is the guest's; `container:` needs the same `NetworkMode`"),
    field("Isolation", Honoured, Zero::Text, "`default` alone"),
    field("Links", Honoured, Zero::Null, "names of the others; variables too on the default network"),
    field("LogConfig", Honoured, Zero::Map, "drivers `json-file`, `local`, `syslog`, `journald`, `gelf`, `fluentd`, `none` with dockerd's options, see [daemon.md](daemon.md#logs); others are refused by name"),
    field("MaskedPaths", Guest, Zero::Null, ""),
    field("Memory", Honoured, Zero::Number, "also sizes the VM"),
    field("MemoryReservation", Guest, Zero::Number, ""),
    field("MemorySwap", Guest, Zero::Number, ""),
    field("MemorySwappiness", Warned, Zero::Null, "guests have no swap"),
    field("Mounts", Honoured, Zero::Absent, "types `bind`, `volume`, `tmpfs`, `image`"),
    field("NanoCpus", Honoured, Zero::Number, "also sizes the VM"),
    field("NetworkMode", Honoured, Zero::Text, "`host` and `container:` differ in some ways, see [network.md](network.md)"),
    field("OomKillDisable", Warned, Zero::False, "cgroup v2 has no such switch"),
    field("OomScoreAdj", Guest, Zero::Number, ""),
    field("PidMode", Guest, Zero::Text, "`host` is the guest's; `container:` needs the same `NetworkMode`"),
    field("PidsLimit", Guest, Zero::Null, ""),
    field("PortBindings", Honoured, Zero::Map, ""),
    field("Privileged", Guest, Zero::False, "all capabilities over the guest, and its devices; none of the host"),
    field("PublishAllPorts", Honoured, Zero::False, ""),
    field("ReadonlyPaths", Guest, Zero::Null, ""),
    field("ReadonlyRootfs", Honoured, Zero::False, ""),
    field("RestartPolicy", Honoured, Zero::Map, ""),
    field("Runtime", Honoured, Zero::Text, "`hull` and `io.containerd.hull.v2`"),
    field("SecurityOpt", Guest, Zero::Null, "`no-new-privileges`, `writable-cgroups`, profiles of seccomp, of which there is no default; those of AppArmor and SELinux are warned of: the fence is the VM"),
    field("ShmSize", Guest, Zero::Number, ""),
    field("StorageOpt", Honoured, Zero::Absent, "`size`"),
    field("Sysctls", Guest, Zero::Absent, "any, as the kernel is the container's own; ports below 1024 and `ping` are for every user, unless these say otherwise; `fs.file-max`, inotify's limits and `vm.max_map_count` are those of a large host"),
    field("Tmpfs", Guest, Zero::Absent, ""),
    field("UTSMode", Guest, Zero::Text, "`host` is the guest's"),
    field("Ulimits", Guest, Zero::Null, "without: 1024 open files (at most 524288), and no bound of processes but `PidsLimit`"),
    field("UsernsMode", Guest, Zero::Text, "`host` alone: the guest's"),
    field("VolumeDriver", Honoured, Zero::Text, "`local`, and docker's plugins of this host, see [files-and-volumes.md](files-and-volumes.md#volumes-of-plugins)"),
    field("VolumesFrom", Honoured, Zero::Null, ""),
];

/// `Config`, and what the client puts beside it.
pub(crate) const CONFIG: &[Field] = &[
    field("ArgsEscaped", Kept, Zero::Absent, "it is of Windows"),
    field("AttachStderr", Kept, Zero::False, "the client's"),
    field("AttachStdin", Kept, Zero::False, "the client's"),
    field("AttachStdout", Kept, Zero::False, "the client's"),
    field("Cmd", Honoured, Zero::Null, ""),
    field("Domainname", Honoured, Zero::Text, ""),
    field("Entrypoint", Honoured, Zero::Null, ""),
    field("Env", Honoured, Zero::List, ""),
    field("ExposedPorts", Honoured, Zero::Absent, ""),
    field("Healthcheck", Honoured, Zero::Absent, ""),
    field("Hostname", Honoured, Zero::Text, ""),
    field("Image", Honoured, Zero::Text, ""),
    field("Labels", Honoured, Zero::Map, ""),
    field(
        "NetworkDisabled",
        Honoured,
        Zero::Absent,
        "as `NetworkMode` `none`",
    ),
    field("OnBuild", Kept, Zero::Null, ""),
    field("OpenStdin", Honoured, Zero::False, ""),
    field("Shell", Honoured, Zero::Absent, ""),
    field("StdinOnce", Honoured, Zero::False, ""),
    field("StopSignal", Honoured, Zero::Absent, ""),
    field("StopTimeout", Honoured, Zero::Absent, ""),
    field("Tty", Honoured, Zero::False, ""),
    field("User", Honoured, Zero::Text, ""),
    field("Volumes", Honoured, Zero::Null, ""),
    field("WorkingDir", Honoured, Zero::Text, ""),
];

/// Whether a value says more than "not set", as Docker's clients send every field.
pub(crate) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The names in an object that no table has, where they are set.
pub(crate) fn unknown<'a>(
    object: &'a Value,
    known: &'a [Field],
) -> impl Iterator<Item = &'a str> + 'a {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter(|(name, value)| is_set(value) && !known.iter().any(|field| field.name == *name))
        .map(|(name, _)| name.as_str())
}

/// Puts the fields that nobody set into an object that is shown.
pub(crate) fn complete(object: &mut Map<String, Value>, fields: &[Field]) {
    for field in fields {
        if let (false, Some(zero)) = (object.contains_key(field.name), field.zero.value()) {
            object.insert(field.name.to_owned(), zero);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_stubs::models::{ContainerConfig, HostConfig};
    use serde::de::{Deserializer, Error as _, Visitor};

    /// Asks a type's `Deserialize` for the names of its fields.
    struct Names<'a>(&'a mut Vec<&'static str>);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = serde_json::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Self::Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.extend(fields);
            Err(Self::Error::custom("only the names are wanted"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    fn word(fate: Fate) -> &'static str {
        match fate {
            Honoured => "honoured",
            Guest => "in the guest",
            Kept => "kept",
            Warned => "warned of",
            Refused => "refused",
        }
    }

    /// The table as it stands in the page.
    fn markdown(fields: &[Field]) -> String {
        let mut text = String::from("| field | what Hull does | note |\n|---|---|---|\n");
        for field in fields {
            let (name, word, note) = (field.name, word(field.fate), field.note);
            text.push_str(&format!("| `{name}` | {word} | {note} |\n"));
        }
        text
    }

    fn names_of<T: serde::de::DeserializeOwned>() -> Vec<&'static str> {
        let mut names = Vec::new();
        let _ = T::deserialize(Names(&mut names));
        names.sort_unstable();
        names
    }

    fn names_in(fields: &[Field]) -> Vec<&'static str> {
        let mut names: Vec<_> = fields.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_field_of_the_api_is_in_its_table() {
        assert_eq!(names_in(HOST), names_of::<HostConfig>());
        assert_eq!(names_in(CONFIG), names_of::<ContainerConfig>());
    }

    #[test]
    fn each_refusal_and_warning_tells_why() {
        for field in HOST.iter().chain(CONFIG) {
            let needs = matches!(field.fate, Fate::Refused | Fate::Warned);
            assert!(!needs || !field.note.is_empty(), "{}", field.name);
        }
    }

    /// With `HULL_WRITE_DOCS` in the environment the page is written anew.
    #[test]
    fn the_page_on_compatibility_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
        let page = std::fs::read_to_string(path).unwrap();
        let mut wanted = page.clone();
        for (name, fields) in [("HostConfig", HOST), ("Config", CONFIG)] {
            let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
            let (before, rest) = wanted.split_once(&begin).unwrap();
            let (_, after) = rest.split_once(&end).unwrap();
            wanted = format!("{before}{begin}{}{end}{after}", markdown(fields));
        }
        if std::env::var_os("HULL_WRITE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert!(page == wanted, "run this test with HULL_WRITE_DOCS=1");
    }

    #[test]
    fn what_clients_send_for_nothing_is_not_set() {
        for nothing in ["null", "0", "false", "\"\"", "[]", "{}"] {
            assert!(
                !is_set(&serde_json::from_str(nothing).unwrap()),
                "{nothing}"
            );
        }
        assert!(is_set(&json!(-1)) && is_set(&json!([1])));
    }

    #[test]
    fn a_shown_object_has_all_its_fields() {
        let mut object = Map::from_iter([("Memory".to_owned(), json!(5))]);
        complete(&mut object, HOST);
        assert_eq!(
            (&object["Memory"], &object["CapAdd"]),
            (&json!(5), &Value::Null)
        );
        assert!(!object.contains_key("Mounts"));
    }
}
