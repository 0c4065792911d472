//! The terminal of the user: raw mode that is always undone, its size, the keys that detach.

use std::io::IsTerminal as _;

use rustix::termios::{self, OptionalActions, Termios};

use crate::error::{CliError, Result};

/// Raw mode of stdin, for as long as it lives.
pub(crate) struct RawMode {
    saved: Termios,
}

impl RawMode {
    /// Raw mode if stdin is a terminal.
    pub(crate) fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let failed = |error: rustix::io::Errno| CliError::Io {
            what: "cannot set the terminal".into(),
            source: error.into(),
        };
        let saved = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = saved.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Some(Self { saved }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.saved);
    }
}

/// Columns and rows of the terminal that output goes to, if it goes to one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| termios::tcgetwinsize(std::io::stdin()))
        .ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Recognizes the key sequence that detaches from a container, byte by byte.
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Parses docker's notation: `ctrl-p,ctrl-q`, `a,b`, `ctrl-[`. Empty: nothing detaches.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let keys = text
            .split(',')
            .filter(|word| !word.is_empty())
            .map(|word| {
                key(word).ok_or_else(|| {
                    CliError::usage(format!(
                        "Invalid detach keys ({text}) provided: unknown key {word:?}"
                    ))
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { keys, matched: 0 })
    }

    /// Passes input on: the bytes that go to the container, and whether to detach. Bytes of a
    /// sequence that does not complete are passed on with what follows.
    pub(crate) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(&byte));
            if self.matched == 0 {
                out.push(byte);
            }
        }
        (out, false)
    }
}

fn key(word: &str) -> Option<u8> {
    if let Some(letter) = word.strip_prefix("ctrl-") {
        return match letter.as_bytes() {
            [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
            [c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(c - b'@'),
            _ => None,
        };
    }
    match word.as_bytes() {
        [c] if c.is_ascii() => Some(*c),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (vec![], true));
    }

    #[test]
    fn half_a_sequence_is_passed_on() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(
            keys.filter(b"\x10x\x10\x10"),
            (b"\x10x\x10".to_vec(), false)
        );
        assert_eq!(keys.filter(b"\x11"), (vec![], true));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(DetachKeys::parse("ctrl-1").is_err());
        assert!(DetachKeys::parse("é").is_err());
    }
}
