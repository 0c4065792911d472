//! The end of the console output, for reports of a panic.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes kept.
const TAIL_BYTES: usize = 16 << 10;

/// The last 16 KiB of the guest's console output. The guest wrote it: it is not to be trusted.
#[derive(Debug, Default)]
pub struct ConsoleTail {
    bytes: Mutex<VecDeque<u8>>,
}

impl ConsoleTail {
    /// Adds output at the end; the oldest goes.
    pub fn push(&self, output: &[u8]) {
        let output = &output[output.len().saturating_sub(TAIL_BYTES)..];
        let mut bytes = self.lock();
        let excess = (bytes.len() + output.len()).saturating_sub(TAIL_BYTES);
        bytes.drain(..excess);
        bytes.extend(output);
    }

    /// What is kept, as text for people, which fits into a message of the control socket whatever it is.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.lock().iter().copied().collect();
        hull_vm_config::plain(&String::from_utf8_lossy(&bytes))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
