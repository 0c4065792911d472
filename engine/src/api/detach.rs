//! The keys by which a client leaves a terminal without ending the process.

use crate::error::{EngineError, Result};

const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Watches a client's input for a sequence of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q` and the like: letters and `ctrl-` with one of `a-z@[\]^_`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = if text.is_empty() { DEFAULT } else { text };
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>();
        let keys = keys.ok_or_else(|| {
            EngineError::BadRequest(format!("Invalid detach keys ({text}) provided"))
        })?;
        Ok(Self { keys, matched: 0 })
    }

    /// What of the input goes to the process, and whether the sequence is complete. The beginning
    /// of a sequence is held back until it is clear what it becomes.
    pub(crate) fn pass(&mut self, data: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(data.len());
        for byte in data {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0] && 1 < self.keys.len());
            if self.matched == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

fn key(name: &str) -> Option<u8> {
    let name = name.trim();
    match name.strip_prefix("ctrl-") {
        Some(control) => match control.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(sign - b'@'),
            _ => None,
        },
        None => match name.as_bytes() {
            [byte] if byte.is_ascii() => Some(*byte),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_found_across_reads_and_others_pass() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.pass(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.pass(b"c\x10"), (b"c".to_vec(), false));
        assert_eq!(keys.pass(b"d"), (b"\x10d".to_vec(), false));
        assert_eq!(keys.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.pass(b"\x11rest"), (Vec::new(), true));
    }

    #[test]
    fn keys_are_read_by_name() {
        assert_eq!(
            DetachKeys::parse("a,ctrl-a,ctrl-]").unwrap().keys,
            b"a\x01\x1d"
        );
        let mut one = DetachKeys::parse("x").unwrap();
        assert_eq!(one.pass(b"yx"), (b"y".to_vec(), true));
        for bad in ["ctrl-", "ctrl-A,", "ctrl-ab", "abc", ",", "é"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
