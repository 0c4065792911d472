//! Extended attributes to EROFS's inline entries.

use super::format::XATTR_HEADER_SIZE;

/// Name prefixes that EROFS has, with their indexes. Attributes of other namespaces do not exist
/// on Linux file systems and are left out.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];
/// What overlayfs keeps for itself. In an image it would steer the overlay mount above it.
const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";
/// `i_xattr_icount` has 16 bits: the header and so many words of four bytes.
const MAX_ENTRIES_LENGTH: usize = 4 * (u16::MAX as usize - 1);

/// The entries, sorted, without their header; empty for none.
///
/// # Errors
/// A text that names the attribute that does not fit.
pub(crate) fn encode(attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<Box<[u8]>, String> {
    let mut known: Vec<(u8, &[u8], &[u8])> = attributes
        .iter()
        .filter_map(|(name, value)| classify(name, value))
        .collect();
    known.sort_unstable();
    let mut entries = Vec::new();
    for (index, name, value) in known {
        let fault = |what: &str| {
            Err(format!(
                "extended attribute {:?}: {what}",
                String::from_utf8_lossy(name)
            ))
        };
        let Ok(name_length) = u8::try_from(name.len()) else {
            return fault("the name is longer than 255 bytes");
        };
        let Ok(value_length) = u16::try_from(value.len()) else {
            return fault("the value is longer than 65535 bytes");
        };
        entries.extend_from_slice(&[name_length, index]);
        entries.extend_from_slice(&value_length.to_le_bytes());
        entries.extend_from_slice(name);
        entries.extend_from_slice(value);
        entries.resize(entries.len().next_multiple_of(4), 0);
        if entries.len() > MAX_ENTRIES_LENGTH {
            return fault("all attributes together are longer than 256 KiB");
        }
    }
    Ok(entries.into())
}

fn classify<'a>(name: &'a [u8], value: &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    if name.starts_with(OVERLAY_PREFIX) || name.contains(&0) {
        return None;
    }
    PREFIXES.iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(*prefix)?;
        // A namespace needs a name behind it, an access control list is the whole name.
        (prefix.ends_with(b".") != rest.is_empty()).then_some((*index, rest, value))
    })
}

/// Length of entries with their header, as an inode counts it.
pub(super) fn body_length(entries: &[u8]) -> usize {
    if entries.is_empty() {
        0
    } else {
        XATTR_HEADER_SIZE + entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(name: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (name.as_bytes().to_vec(), value.to_vec())
    }

    #[test]
    fn entries_are_sorted_and_padded() {
        let encoded =
            encode(&[attribute("user.b", b"12"), attribute("user.a", b"")]).expect("encode");
        assert_eq!(&*encoded, b"\x01\x01\x00\x00a\0\0\0\x01\x01\x02\x00b12\0");
    }

    #[test]
    fn foreign_and_overlay_attributes_are_left_out() {
        let foreign = [
            "com.apple.x",
            "trusted.overlay.opaque",
            "user.",
            "system.nfs4_acl",
            "system.posix_acl_accessx",
        ];
        let attributes: Vec<_> = foreign.iter().map(|name| attribute(name, b"y")).collect();
        assert!(encode(&attributes).expect("encode").is_empty());
        assert!(!encode(&[attribute("user.overlay.origin", b"")])
            .expect("encode")
            .is_empty());
        assert!(!encode(&[attribute("system.posix_acl_access", b"")])
            .expect("encode")
            .is_empty());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let long = format!("user.{}", "n".repeat(256));
        assert!(encode(&[attribute(&long, b"")])
            .expect_err("name")
            .contains("255"));
        assert!(encode(&[attribute("user.v", &[0; 65536])])
            .expect_err("value")
            .contains("65535"));
        let many: Vec<_> = (0..5)
            .map(|n| attribute(&format!("user.{n}"), &[0; 65535]))
            .collect();
        assert!(encode(&many).expect_err("sum").contains("256 KiB"));
    }
}
