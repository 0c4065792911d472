//! `Unpack`: layers on one block device to an EROFS image on another.

use hull_protocol::agent::{UnpackProgressResponse, UnpackRequest, UnpackResponse};

use crate::error::{AgentError, Kind, Result};

/// Unpacks.
pub(crate) async fn run(_request: UnpackRequest) -> Result<UnpackResponse> {
    Err(AgentError::new(
        Kind::Unsupported,
        "this agent was built without the unpacking of layers",
    ))
}

/// How far it is.
pub(crate) fn progress() -> UnpackProgressResponse {
    UnpackProgressResponse::default()
}
