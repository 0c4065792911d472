//! The root file system of a request.

use containerd_shim_protos::api;

use crate::spec::RootfsMount;

pub(super) fn mounts(request: &[api::Mount]) -> Vec<RootfsMount> {
    request
        .iter()
        .map(|mount| RootfsMount {
            kind: mount.type_.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
        })
        .collect()
}
