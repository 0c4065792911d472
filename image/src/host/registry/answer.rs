//! What a registry answered: a success, or its error in the registry's own words.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::request::Request;
use super::RegistryError;

const MAX_ERROR_BODY: usize = 4 << 10;

/// Turns a response that is no success into its error.
pub(super) async fn check(
    request: &Request<'_>,
    response: Response,
    attempts: u32,
) -> Result<Response, RegistryError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let (registry, what) = (request.registry.to_owned(), request.what.to_owned());
    let retry_after = retry_after(response.headers());
    let detail = error_detail(response).await;
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
            registry,
            what,
            detail,
        },
        StatusCode::NOT_FOUND => RegistryError::NotFound {
            registry,
            what,
            detail,
        },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::RateLimited {
            registry,
            what,
            attempts,
            retry_after,
        },
        _ => RegistryError::Status {
            registry,
            what,
            status: status.as_u16(),
            detail,
        },
    })
}

/// `Retry-After`: seconds. (Its date form is not used by registries; the back-off covers it.)
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    value.parse().ok().map(Duration::from_secs)
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorItem>,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own words, made fit for one line.
async fn error_detail(response: Response) -> String {
    let status = response.status();
    let body = read_limited(response, MAX_ERROR_BODY).await;
    let text = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(body) => body
            .errors
            .iter()
            .take(3)
            .map(|error| {
                if error.message.is_empty() {
                    error.code.as_str()
                } else {
                    error.message.as_str()
                }
            })
            .collect::<Vec<_>>()
            .join("; "),
        Err(_) => String::new(),
    };
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect();
    if text.trim().is_empty() {
        status.to_string()
    } else {
        text
    }
}

/// Up to `limit` bytes of a body; what cannot be read is left out.
pub(super) async fn read_limited(mut response: Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = limit.saturating_sub(body.len());
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() >= limit {
            break;
        }
    }
    body
}
