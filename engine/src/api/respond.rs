//! Answers in Docker's shapes.

use axum::body::Body;
use axum::http::{header, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::{EngineError, Kind};

/// An engine error as an HTTP answer: `{"message": ...}`.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) EngineError);

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            Kind::NotModified => return StatusCode::NOT_MODIFIED.into_response(),
            Kind::BadRequest => StatusCode::BAD_REQUEST,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::NotBuilt => StatusCode::NOT_IMPLEMENTED,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = self.0.message();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(message, "request failed");
        }
        (status, axum::Json(json!({ "message": message }))).into_response()
    }
}

/// A result of a handler.
pub(crate) type Answer<T> = Result<T, ApiError>;

/// 204.
pub(crate) const NO_CONTENT: StatusCode = StatusCode::NO_CONTENT;

/// A body that is written as it comes.
pub(crate) fn stream(content_type: &'static str, body: Body) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}
