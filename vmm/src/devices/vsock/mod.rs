//! virtio-vsock (virtio 1.2, section 5.10), connected to UNIX sockets in this process.
//!
//! Connections go from the host to the guest only. Each has a socket on the host's side; bytes go
//! straight from it into the guest's buffers, and from the guest's buffers straight into it. What
//! the socket does not take at once waits in a buffer that the credit bounds. The socket is not
//! read while the guest grants no credit or offers no buffer, so back-pressure reaches both ends.

mod connection;
mod device;
mod flow;
mod packet;
#[cfg(test)]
mod tests;

pub(crate) use device::Vsock;
