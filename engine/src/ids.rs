//! Identifiers: 64 hexadecimal digits, as Docker's.

/// A fresh random identifier. It never starts with twelve decimal digits, so that its short form,
/// used as a host name, is not read as a number.
pub(crate) fn new_id() -> String {
    loop {
        let mut bytes = [0u8; 32];
        fill_random(&mut bytes);
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if id[..12].bytes().any(|b| b.is_ascii_alphabetic()) {
            return id;
        }
    }
}

/// Whether a text is a whole one.
pub(crate) fn is_whole(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The first twelve digits.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Fills `bytes` from the kernel's random number generator.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    // getrandom(2) of a started kernel has no failure but a missing system call, with which no
    // other part of Hull could work either; zeros are then caught as a duplicate identifier.
    if getrandom::fill(bytes).is_err() {
        tracing::error!("the kernel gives no random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_lower_case_hex_digits_and_differ() {
        let (a, b) = (new_id(), new_id());
        assert_eq!(a.len(), 64);
        assert!(a
            .bytes()
            .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)));
        assert_ne!(a, b);
        assert_eq!(short(&a).len(), 12);
    }
}
