//! What differs between instruction sets. **Invariant:** nothing outside this folder knows one.

/// 64-bit x86.
#[cfg(target_arch = "x86_64")]
pub mod x86_64;
