//! The transport, and all devices together.

mod build;
mod chains;
mod chaos;
mod mmio;
