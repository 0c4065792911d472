//! Lowering of OCI bundles to VMs, and the containerd shim.
