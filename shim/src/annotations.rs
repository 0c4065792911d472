//! The `dev.hull.*` annotations of an OCI configuration.

use std::collections::HashMap;
use std::num::NonZeroU64;

use hull_vm_config::NetRates;

use crate::network::Attachments;

/// All annotations of Hull begin so.
pub const PREFIX: &str = "dev.hull.";
/// Number of vCPUs.
pub const VCPUS: &str = "dev.hull.vcpus";
/// Guest memory.
pub const MEMORY: &str = "dev.hull.memory";
/// Further groups of the container's processes.
pub const GROUP_ADD: &str = "dev.hull.group-add";
/// Whether the guest's console is kept.
pub const CONSOLE: &str = "dev.hull.console";

/// Whether the container is made for work on its files only.
pub const FILES_ONLY: &str = "dev.hull.files-only";
/// Of an update: the client tells its users itself of what the VM has no room for.
pub const BEYOND_VM: &str = "dev.hull.beyond-vm";
/// Whether an init process runs the container's.
pub const INIT: &str = "dev.hull.init";
/// How much may pass through each of its network interfaces.
pub const NET_RATE: &str = "dev.hull.net-rate";
/// Whether the host's kernel may serve its network interfaces.
pub const VHOST_NET: &str = "dev.hull.vhost-net";
/// Whether the host's kernel may carry out what is asked of disks.
pub const IO_URING: &str = "dev.hull.io-uring";
/// The container in whose VM it is made.
pub const JOIN: &str = "dev.hull.join";
/// The container's network interfaces.
pub const NETWORK: &str = "dev.hull.network";

/// One annotation, for documentation and for the check of unknown names.
#[derive(Debug, Clone, Copy)]
pub struct Annotation {
    /// The key.
    pub name: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// A valid value.
    pub example: &'static str,
}

/// Every annotation that Hull knows. Another `dev.hull.*` key is an error: a misspelt one must not
/// be ignored.
pub const TABLE: &[Annotation] = &[
    Annotation {
        name: VCPUS,
        meaning: "number of vCPUs, from 1 to the number of host CPUs; overrides what the CPU quota asks for",
        example: "2",
    },
    Annotation {
        name: MEMORY,
        meaning: "guest memory in bytes, or with the suffix k, m or g; overrides what the memory limit asks for",
        example: "1g",
    },
    Annotation {
        name: GROUP_ADD,
        meaning: "comma-separated names or ids of groups, resolved against the image's group file",
        example: "audio,44",
    },
    Annotation {
        name: CONSOLE,
        meaning: "`true`: the guest kernel's console goes to console.log in the sandbox's runtime directory",
        example: "true",
    },
    Annotation {
        name: FILES_ONLY,
        meaning: "`true`: the container's program is not looked for, since it is never started; only its files are worked on",
        example: "true",
    },
    Annotation {
        name: INIT,
        meaning: "`true`: PID 1 of the container is an init process, which runs the program, passes signals on to it and reaps orphans",
        example: "true",
    },
    Annotation {
        name: NET_RATE,
        meaning: "most bytes (with k, m or g) and packets a second of each network interface, into the container and out of it; what is not named is not limited",
        example: "in=10m,out=2m,in-packets=20000,out-packets=5000",
    },
    Annotation {
        name: VHOST_NET,
        meaning: "`false`: the VMM serves the network interfaces even where the host's kernel could (vhost-net)",
        example: "false",
    },
    Annotation {
        name: IO_URING,
        meaning: "`false`: the VMM carries out what is asked of the container's disks by itself, even where the host's kernel could (io_uring)",
        example: "false",
    },
    Annotation {
        name: JOIN,
        meaning: "id of the running container in whose VM, and network, this one is made",
        example: "4f2c81d0a7b3",
    },
    Annotation {
        name: NETWORK,
        meaning: "the container's network interfaces, on taps of the host, as JSON",
        example: r#"{"interfaces":[{"name":"eth0","tap":"tap0","mac":"02:42:ac:11:00:02","mtu":1500,"addresses":["172.17.0.2/16"],"gateways":["172.17.0.1"]}]}"#,
    },
];

/// The annotations, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// [`VCPUS`].
    pub vcpus: Option<u32>,
    /// [`MEMORY`], in bytes.
    pub memory_bytes: Option<u64>,
    /// [`GROUP_ADD`].
    pub group_add: Vec<String>,
    /// [`CONSOLE`].
    pub console: bool,
    /// [`FILES_ONLY`].
    pub files_only: bool,
    /// [`INIT`].
    pub init: bool,
    /// [`NET_RATE`].
    pub net_rates: NetRates,
    /// [`VHOST_NET`]; `None`: where it can be.
    pub vhost_net: Option<bool>,
    /// [`IO_URING`]; `None`: where it can be.
    pub io_uring: Option<bool>,
    /// [`NETWORK`].
    pub network: Option<Attachments>,
}

/// An annotation that Hull can't follow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// Not in [`TABLE`].
    #[error("annotation {name:?} is unknown; Hull knows {}", known_names())]
    Unknown {
        /// The key.
        name: String,
    },
    /// The value has another form.
    #[error("annotation {name:?} has the value {value:?}: want {meaning}, such as {example:?}")]
    Invalid {
        /// The key.
        name: &'static str,
        /// The value.
        value: String,
        /// What the annotation does.
        meaning: &'static str,
        /// A valid value.
        example: &'static str,
    },
}

fn known_names() -> String {
    let names: Vec<_> = TABLE.iter().map(|annotation| annotation.name).collect();
    names.join(", ")
}

impl Annotations {
    /// Reads Hull's annotations among all of a configuration.
    pub fn parse(all: Option<&HashMap<String, String>>) -> Result<Self, AnnotationError> {
        let mut parsed = Self::default();
        for (name, value) in all.into_iter().flatten() {
            if !name.starts_with(PREFIX) {
                continue;
            }
            let known = TABLE
                .iter()
                .find(|annotation| annotation.name == name)
                .ok_or_else(|| AnnotationError::Unknown { name: name.clone() })?;
            parsed
                .set(known.name, value)
                .ok_or_else(|| AnnotationError::Invalid {
                    name: known.name,
                    value: value.clone(),
                    meaning: known.meaning,
                    example: known.example,
                })?;
        }
        Ok(parsed)
    }

    /// Whether the host's kernel is to serve the network interfaces, where it can. Rates are the
    /// VMM's to hold.
    pub fn vhost_net(&self) -> bool {
        self.vhost_net != Some(false) && self.net_rates == NetRates::default()
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            VCPUS => self.vcpus = Some(value.parse().ok().filter(|count| 0 < *count)?),
            MEMORY => self.memory_bytes = Some(parse_bytes(value)?),
            GROUP_ADD => {
                self.group_add = value
                    .split(',')
                    .map(str::trim)
                    .filter(|group| !group.is_empty())
                    .map(str::to_owned)
                    .collect();
            }
            CONSOLE => self.console = value.parse().ok()?,
            FILES_ONLY => self.files_only = value.parse().ok()?,
            INIT => self.init = value.parse().ok()?,
            NET_RATE => self.net_rates = parse_rates(value)?,
            VHOST_NET => self.vhost_net = Some(value.parse().ok()?),
            IO_URING => self.io_uring = Some(value.parse().ok()?),
            NETWORK => self.network = Some(Attachments::parse(value).ok()?),
            // Read before a container has a shim: it says which one.
            JOIN => (!value.is_empty()).then_some(())?,
            _ => return None,
        }
        Some(())
    }
}

/// Rates of a network interface, each named at most once.
fn parse_rates(text: &str) -> Option<NetRates> {
    let mut rates = NetRates::default();
    for part in text.split(',') {
        let (name, number) = part.trim().split_once('=')?;
        let (rate, number) = match name {
            "in" => (&mut rates.receive.bytes_per_second, parse_bytes(number)?),
            "out" => (&mut rates.transmit.bytes_per_second, parse_bytes(number)?),
            "in-packets" => (&mut rates.receive.packets_per_second, number.parse().ok()?),
            "out-packets" => (&mut rates.transmit.packets_per_second, number.parse().ok()?),
            _ => return None,
        };
        if rate.replace(NonZeroU64::new(number)?).is_some() {
            return None;
        }
    }
    Some(rates)
}

/// A positive number of bytes, as docker has sizes of memory.
fn parse_bytes(text: &str) -> Option<u64> {
    hull_units::binary(text, 1..=u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<Annotations, AnnotationError> {
        let all = HashMap::from([(name.to_owned(), value.to_owned())]);
        Annotations::parse(Some(&all))
    }

    #[test]
    fn every_annotation_is_documented() {
        let document = include_str!("../../docs/hull-runtime.md");
        for Annotation { name, .. } in TABLE {
            assert!(document.contains(&format!("| `{name}` |")), "{name}");
        }
    }

    #[test]
    fn every_example_is_valid() {
        for annotation in TABLE {
            parse(annotation.name, annotation.example).unwrap();
        }
    }

    #[test]
    fn an_unknown_name_of_ours_is_refused_and_others_are_not_ours() {
        assert!(matches!(
            parse("dev.hull.memroy", "1g"),
            Err(AnnotationError::Unknown { .. })
        ));
        assert_eq!(
            parse("io.kubernetes.pod", "x").unwrap(),
            Annotations::default()
        );
    }

    #[test]
    fn the_hosts_kernel_serves_what_is_not_limited() {
        let may = |name: &str, value: &str| parse(name, value).unwrap().vhost_net();
        assert!(Annotations::default().vhost_net());
        assert!(may(VHOST_NET, "true"));
        assert!(!may(VHOST_NET, "false"));
        assert!(!may(NET_RATE, "in-packets=5"));
        assert!(parse(VHOST_NET, "no").is_err());
    }

    #[test]
    fn rates_are_named_once_and_above_zero() {
        let rates = parse_rates("in=10m, out-packets=5").unwrap();
        assert_eq!(rates.receive.bytes_per_second, NonZeroU64::new(10 << 20));
        assert_eq!(rates.transmit.packets_per_second, NonZeroU64::new(5));
        assert_eq!(rates.receive.packets_per_second, None);
        for bad in [
            "",
            "in",
            "in=",
            "in=0",
            "in=1,in=2",
            "up=1",
            "in=-1",
            "out-packets=1k",
        ] {
            assert_eq!(parse_rates(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_have_suffixes_and_bounds() {
        assert_eq!(parse_bytes("512m"), Some(512 << 20));
        assert_eq!(parse_bytes("1G"), Some(1 << 30));
        assert_eq!(parse_bytes("77"), Some(77));
        for bad in ["", "m", "-1", "0", "99999999999g", "1x"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
