//! Entry points for fuzzing: any bytes must end in a result, in bounded time and memory.

use bollard_stubs::models::{
    ContainerConfig, HostConfig, NetworkConnectRequest, NetworkCreateRequest, VolumeCreateRequest,
};

use crate::container::CreateRequest;
use crate::exec::ExecCreate;
use crate::json::decode;

/// Reads `data` as the body of a container's creation, and as filters.
pub fn create(data: &[u8]) {
    if let Ok(request) = CreateRequest::parse(data) {
        let _ = request.check();
    }
    let _ = crate::json::parse_filters(&String::from_utf8_lossy(data));
}

/// Reads `data` as the bodies of other calls.
pub fn bodies(data: &[u8]) {
    let _ = decode::<NetworkCreateRequest>(data);
    let _ = decode::<NetworkConnectRequest>(data);
    let _ = decode::<VolumeCreateRequest>(data);
    let _ = decode::<HostConfig>(data);
    let _ = decode::<ExecCreate>(data);
}

/// Answers `data` as a question about names.
pub fn dns(data: &[u8]) {
    crate::network::answer_for_fuzzing(data);
}

/// Applies lines of a Dockerfile.
pub fn dockerfile(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut config = ContainerConfig::default();
    let _ = crate::dockerfile::apply(&mut config, text.lines());
    // The ones after one that is wrong.
    for line in text.lines() {
        let _ = crate::dockerfile::apply(&mut config, [line]);
    }
}
