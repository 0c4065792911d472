//! The transport, and all devices together.

mod build;
mod chaos;
mod mmio;
