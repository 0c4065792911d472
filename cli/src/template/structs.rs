//! Objects that are structs in docker's command line, which Go prints as `{value value}` and not as maps.
//!
//! Documents have no types: an object is such a struct if it has the members that always are there, and no
//! other than the struct's.

use serde_json::{Map, Value};

struct Struct {
    /// Members that are always there.
    marks: &'static [&'static str],
    /// In the order of the struct, with what is printed where there is none.
    members: &'static [(&'static str, &'static str)],
}

const STRUCTS: [Struct; 9] = [
    // A restart policy.
    Struct {
        marks: &["Name", "MaximumRetryCount"],
        members: &[("Name", ""), ("MaximumRetryCount", "0")],
    },
    // The configuration of logs.
    Struct {
        marks: &["Type", "Config"],
        members: &[("Type", ""), ("Config", "map[]")],
    },
    // A published port.
    Struct {
        marks: &["HostIp", "HostPort"],
        members: &[("HostIp", ""), ("HostPort", "")],
    },
    // A device.
    Struct {
        marks: &["PathOnHost", "PathInContainer"],
        members: &[
            ("PathOnHost", ""),
            ("PathInContainer", ""),
            ("CgroupPermissions", ""),
        ],
    },
    // The layers of an image.
    Struct {
        marks: &["Type", "Layers"],
        members: &[("Type", ""), ("Layers", "[]")],
    },
    // How addresses are given, and a range of them.
    Struct {
        marks: &["Driver", "Options", "Config"],
        members: &[("Driver", ""), ("Options", "map[]"), ("Config", "[]")],
    },
    Struct {
        marks: &["Subnet"],
        members: &[
            ("Subnet", ""),
            ("IPRange", ""),
            ("Gateway", ""),
            ("AuxiliaryAddresses", "map[]"),
        ],
    },
    // A container of a network.
    Struct {
        marks: &["EndpointID", "MacAddress"],
        members: &[
            ("Name", ""),
            ("EndpointID", ""),
            ("MacAddress", ""),
            ("IPv4Address", ""),
            ("IPv6Address", ""),
        ],
    },
    // What is mounted.
    Struct {
        marks: &["Type", "Destination", "RW"],
        members: &[
            ("Type", ""),
            ("Name", ""),
            ("Source", ""),
            ("Destination", ""),
            ("Driver", ""),
            ("Mode", ""),
            ("RW", "false"),
            ("Propagation", ""),
        ],
    },
];

/// The members of an object that is a struct, in the struct's order, each with what is printed where there
/// is none; `None`: it is a map.
pub(super) fn members(
    object: &Map<String, Value>,
) -> Option<impl Iterator<Item = (Option<&Value>, &'static str)>> {
    let is = |found: &&Struct| {
        let known = |key: &String| found.members.iter().any(|(name, _)| name == key);
        found.marks.iter().all(|name| object.contains_key(*name)) && object.keys().all(known)
    };
    let found = STRUCTS.iter().find(is)?;
    let values = found.members.iter().map(|(name, nothing)| {
        let value = object.get(*name).filter(|value| !value.is_null());
        (value, *nothing)
    });
    Some(values)
}
