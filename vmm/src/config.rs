//! Reads the configuration and checks all of it before anything is made.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;

use hull_vm_config::{
    BlockConfig, NetConfig, NetRates, Slot, VmConfig, MAX_QUEUE_PAIRS, MAX_VCPUS, MIN_MEMORY_BYTES,
    VM_CONFIG_VERSION,
};

/// No configuration is larger.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Most guest memory: what 46 address bits hold, less the hole. No host has more.
const MAX_MEMORY_BYTES: u64 = 1 << 45;
const PAGE: u64 = 4096;
const SECTOR: u64 = 512;
const MAX_SERIAL_BYTES: usize = 20;
const MAX_TAG_BYTES: usize = 36;
const MIN_MTU: u16 = 68;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("failed to read the VM configuration")]
    Read {
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Too large.
    #[error("the VM configuration is larger than {MAX_CONFIG_BYTES} bytes")]
    TooLarge,
    /// Not the JSON of a `VmConfig`.
    #[error("the VM configuration is not understood")]
    Parse {
        /// Where and why.
        source: serde_json::Error,
    },
    /// Fields with values that cannot be.
    #[error("the VM configuration is wrong: {}", list(.0))]
    Invalid(Vec<BadField>),
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadField {
    /// Its path, such as `devices.image.extents[0].length`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

fn list(fields: &[BadField]) -> String {
    let lines: Vec<_> = fields
        .iter()
        .map(|bad| format!("{} {}", bad.field, bad.problem))
        .collect();
    lines.join("; ")
}

/// Reads the configuration from the start of a file.
pub fn read(fd: OwnedFd) -> Result<VmConfig, ConfigError> {
    let failed = |source| ConfigError::Read { source };
    let mut file = File::from(fd);
    file.rewind().map_err(failed)?;
    let mut json = Vec::new();
    let read = file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut json);
    if read.map_err(failed)? as u64 > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge);
    }
    let config = serde_json::from_slice(&json).map_err(|source| ConfigError::Parse { source })?;
    validate(&config)?;
    Ok(config)
}

/// Checks every field; the error names all that are wrong.
pub fn validate(config: &VmConfig) -> Result<(), ConfigError> {
    let mut check = Check::default();
    check.that(config.version == VM_CONFIG_VERSION, "version", || {
        format!("is {}, this VMM knows {VM_CONFIG_VERSION}", config.version)
    });
    check.that((1..=MAX_VCPUS).contains(&config.vcpus), "vcpus", || {
        format!("is {}, must be from 1 to {MAX_VCPUS}", config.vcpus)
    });
    let memory = config.memory_bytes;
    check.that(
        (MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(&memory) && memory.is_multiple_of(PAGE),
        "memory_bytes",
        || {
            format!("is {memory}, must be a multiple of {PAGE} from {MIN_MEMORY_BYTES} to {MAX_MEMORY_BYTES}")
        },
    );
    for (index, word) in config.boot.cmdline.iter().enumerate() {
        check.that(
            is_cmdline_word(word),
            &format!("boot.cmdline[{index}]"),
            || format!("is {word:?}, must be one printable ASCII word without quotes"),
        );
    }
    check.that(config.jail.uid != 0, "jail.uid", || "is root's".into());
    check.that(config.jail.gid != 0, "jail.gid", || "is root's".into());
    devices(&mut check, config);
    check.finish()
}

fn devices(check: &mut Check, config: &VmConfig) {
    let devices = &config.devices;
    if let Some(image) = &devices.image {
        block(check, "devices.image", image);
    }
    if let Some(scratch) = &devices.scratch {
        block(check, "devices.scratch", scratch);
    }
    at_most(
        check,
        "devices.volumes",
        devices.volumes.len(),
        Slot::VOLUMES.len(),
    );
    for (index, volume) in devices.volumes.iter().enumerate() {
        block(check, &format!("devices.volumes[{index}]"), volume);
    }
    at_most(check, "devices.nets", devices.nets.len(), Slot::NETS.len());
    for (index, interface) in devices.nets.iter().enumerate() {
        let path = format!("devices.nets[{index}]");
        net(check, &path, interface);
        check.that(
            devices.net_rates == NetRates::default()
                || interface.pairs.iter().all(|pair| pair.vhost.is_none()),
            &format!("{path}.pairs"),
            || "has vhost-net, which knows nothing of devices.net_rates".into(),
        );
    }
    if let Some(fs) = &devices.fs {
        check.that(
            (1..=MAX_TAG_BYTES).contains(&fs.tag.len()) && !fs.tag.contains('\0'),
            "devices.fs.tag",
            || format!("is {:?}, must have 1 to {MAX_TAG_BYTES} bytes", fs.tag),
        );
    }
}

fn at_most(check: &mut Check, field: &str, count: usize, most: usize) {
    check.that(count <= most, field, || {
        format!("has {count} entries, at most {most} fit the device slots")
    });
}

fn block(check: &mut Check, path: &str, block: &BlockConfig) {
    check.that(
        !block.extents.is_empty(),
        &format!("{path}.extents"),
        || "is empty".into(),
    );
    check.that(
        block.serial.len() <= MAX_SERIAL_BYTES
            && block.serial.bytes().all(|b| b.is_ascii_graphic()),
        &format!("{path}.serial"),
        || {
            format!(
                "is {:?}, must have at most {MAX_SERIAL_BYTES} printable ASCII bytes",
                block.serial
            )
        },
    );
    let mut capacity = 0u64;
    for (index, extent) in block.extents.iter().enumerate() {
        let path = format!("{path}.extents[{index}]");
        check.that(
            extent.offset.is_multiple_of(SECTOR),
            &format!("{path}.offset"),
            || format!("is {}, must be a multiple of {SECTOR}", extent.offset),
        );
        // File offsets are signed in the kernel.
        let fits = |sum: Option<u64>| sum.is_some_and(|sum| i64::try_from(sum).is_ok());
        let in_file = extent.offset.checked_add(extent.length);
        let in_device = capacity.checked_add(extent.length);
        check.that(
            extent.length > 0
                && extent.length.is_multiple_of(SECTOR)
                && fits(in_file)
                && fits(in_device),
            &format!("{path}.length"),
            || {
                format!(
                    "is {}, must be a multiple of {SECTOR} above zero, and file and device less than 8 EiB",
                    extent.length
                )
            },
        );
        capacity = in_device.unwrap_or(capacity);
    }
}

fn net(check: &mut Check, path: &str, net: &NetConfig) {
    let vhosts = net.pairs.iter().filter(|pair| pair.vhost.is_some());
    let vhosts = vhosts.count();
    check.that(
        (1..=MAX_QUEUE_PAIRS.into()).contains(&net.pairs.len())
            && (vhosts == 0 || vhosts == net.pairs.len()),
        &format!("{path}.pairs"),
        || {
            format!(
                "has {} entries, {vhosts} of them with vhost-net; must have 1 to {MAX_QUEUE_PAIRS} that \
                 are alike",
                net.pairs.len()
            )
        },
    );
    check.that(
        net.mac[0] & 1 == 0 && net.mac != [0; 6],
        &format!("{path}.mac"),
        || "must be a unicast address".into(),
    );
    check.that(net.mtu >= MIN_MTU, &format!("{path}.mtu"), || {
        format!("is {}, must be at least {MIN_MTU}", net.mtu)
    });
}

/// A word that stays one word on the kernel's command line.
pub(crate) fn is_cmdline_word(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

#[derive(Default)]
struct Check {
    bad: Vec<BadField>,
}

impl Check {
    fn that(&mut self, holds: bool, field: &str, problem: impl FnOnce() -> String) {
        if !holds {
            self.bad.push(BadField {
                field: field.to_owned(),
                problem: problem(),
            });
        }
    }

    fn finish(self) -> Result<(), ConfigError> {
        if self.bad.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid(self.bad))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hull_vm_config::{BootConfig, DeviceConfig, Extent, JailConfig, QueuePair};

    /// A configuration that is right.
    pub(crate) fn sample() -> VmConfig {
        VmConfig {
            version: VM_CONFIG_VERSION,
            sandbox_id: "sample".into(),
            vcpus: 2,
            memory_bytes: 128 << 20,
            boot: BootConfig {
                kernel: "kernel".into(),
                initramfs: "initramfs".into(),
                cmdline: vec![],
            },
            devices: DeviceConfig::default(),
            jail: JailConfig {
                uid: 100_000,
                gid: 100_000,
            },
        }
    }

    fn disk(length: u64) -> BlockConfig {
        BlockConfig {
            extents: vec![Extent {
                fd: "disk".into(),
                offset: 0,
                length,
            }],
            read_only: true,
            serial: "image".into(),
        }
    }

    fn bad_fields(change: impl FnOnce(&mut VmConfig)) -> Vec<String> {
        let mut config = sample();
        change(&mut config);
        match validate(&config) {
            Ok(()) => vec![],
            Err(ConfigError::Invalid(bad)) => bad.into_iter().map(|bad| bad.field).collect(),
            Err(other) => vec![other.to_string()],
        }
    }

    #[test]
    fn good_configuration_passes() {
        assert!(bad_fields(|config| config.devices.image = Some(disk(512))).is_empty());
    }

    #[test]
    fn every_bad_field_is_named() {
        let bad = bad_fields(|config| {
            config.version = 9;
            config.vcpus = 0;
            config.memory_bytes = 5000;
            config.boot.cmdline = vec!["two words".into()];
            config.jail.uid = 0;
        });
        assert_eq!(
            bad,
            [
                "version",
                "vcpus",
                "memory_bytes",
                "boot.cmdline[0]",
                "jail.uid"
            ]
        );
    }

    #[test]
    fn extents_of_odd_or_overflowing_length_are_refused() {
        for length in [0, 513, u64::MAX - 511] {
            let bad = bad_fields(|config| config.devices.scratch = Some(disk(length)));
            assert_eq!(bad, ["devices.scratch.extents[0].length"], "{length}");
        }
    }

    #[test]
    fn more_volumes_than_slots_are_refused() {
        let bad = bad_fields(|config| config.devices.volumes = vec![disk(512); 9]);
        assert_eq!(bad, ["devices.volumes"]);
    }

    fn interface(vhosts: &[bool]) -> NetConfig {
        let pair = |vhost: &bool| QueuePair {
            tap: "tap".into(),
            vhost: vhost.then(|| "vhost".into()),
        };
        NetConfig {
            pairs: vhosts.iter().map(pair).collect(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
        }
    }

    #[test]
    fn multicast_mac_is_refused() {
        let bad = bad_fields(|config| {
            config.devices.nets = vec![NetConfig {
                mac: [1, 0, 0, 0, 0, 1],
                mtu: 10,
                ..interface(&[false])
            }];
        });
        assert_eq!(bad, ["devices.nets[0].mac", "devices.nets[0].mtu"]);
    }

    #[test]
    fn queue_pairs_are_counted_and_alike() {
        for wrong in [&[][..], &[false; 5], &[true, false]] {
            let bad = bad_fields(|config| config.devices.nets = vec![interface(wrong)]);
            assert_eq!(bad, ["devices.nets[0].pairs"], "{wrong:?}");
        }
        let fine = bad_fields(|config| config.devices.nets = vec![interface(&[true; 4])]);
        assert!(fine.is_empty());
    }

    #[test]
    fn rates_that_nobody_would_hold_are_refused() {
        let bad = bad_fields(|config| {
            config.devices.net_rates.receive.packets_per_second = std::num::NonZeroU64::new(9);
            config.devices.nets = vec![interface(&[true])];
        });
        assert_eq!(bad, ["devices.nets[0].pairs"]);
    }

    #[test]
    fn configuration_is_read_from_a_file() {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        let json = serde_json::to_vec(&sample()).unwrap();
        file.write_all(&json).unwrap();
        assert_eq!(read(file.into()).unwrap(), sample());
    }

    #[test]
    fn unknown_field_is_an_error() {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(br#"{"version":1,"nonsense":2}"#).unwrap();
        let error = read(file.into()).unwrap_err();
        assert!(matches!(error, ConfigError::Parse { .. }), "{error}");
    }
}
