//! Credentials for registries: `/auth`, and the header of pulls and pushes.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::DecodePaddingMode;
use base64::Engine as _;
use hull_image::credentials::{Credentials, REGISTRY_TOKEN_USER, TOKEN_USER};
use serde::Deserialize;
use serde_json::{json, Value};

use super::respond::Answer;
use super::{body_json, Shared};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::json::as_go_does;

/// Docker's header of pulls and pushes.
const HEADER: &str = "x-registry-auth";
const DOCKER_HUB: &str = "docker.io";

/// Docker's `AuthConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthConfig {
    username: String,
    password: String,
    serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthConfig {
    /// `None` if it has none.
    fn credentials(&self) -> Option<Credentials> {
        let tokens = [
            (REGISTRY_TOKEN_USER, &self.registrytoken),
            (TOKEN_USER, &self.identitytoken),
        ];
        if let Some((user, token)) = tokens.into_iter().find(|(_, token)| !token.is_empty()) {
            return Some(Credentials {
                username: user.to_owned(),
                password: token.clone(),
            });
        }
        (!self.username.is_empty()).then(|| Credentials {
            username: self.username.clone(),
            password: self.password.clone(),
        })
    }

    /// The registry that is meant, as references name it. Docker Hub is meant by no address at all, but not by
    /// one whose host is missing: the credentials are somebody else's.
    fn registry(&self) -> Result<&str> {
        let address = self.serveraddress.as_str();
        let host = ["https://", "http://"]
            .into_iter()
            .find_map(|scheme| address.strip_prefix(scheme))
            .unwrap_or(address);
        match host.split('/').next().unwrap_or_default() {
            "" if !address.is_empty() => Err(EngineError::BadRequest(format!(
                "the registry's address {address:?} names no host"
            ))),
            "" | "index.docker.io" | "registry-1.docker.io" => Ok(DOCKER_HUB),
            host => Ok(host),
        }
    }
}

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/auth", post(log_in))
}

/// Clients write base 64 of either alphabet, with and without padding.
pub(super) fn of_headers(headers: &HeaderMap) -> Result<Option<Credentials>> {
    let Some(header) = headers.get(HEADER) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(header.as_bytes())
        .replace('-', "+")
        .replace('_', "/");
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
    let bad = || EngineError::BadRequest("invalid X-Registry-Auth header".to_owned());
    let decoded = engine.decode(text.trim()).map_err(|_| bad())?;
    if decoded.is_empty() || decoded == b"null" {
        return Ok(None);
    }
    let config: AuthConfig = as_go_does(&decoded).map_err(|_| bad())?;
    config.registry()?;
    Ok(config.credentials())
}

async fn log_in(engine: Shared, body: Body) -> Answer<Json<Value>> {
    let config: AuthConfig = body_json(body).await?;
    let credentials = config.credentials().ok_or_else(|| {
        EngineError::BadRequest("a user name and a password are needed".to_owned())
    })?;
    let registry = config.registry()?;
    engine.images.log_in(registry, credentials).await?;
    Ok(Json(
        json!({ "Status": "Login Succeeded", "IdentityToken": "" }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<Option<Credentials>> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, text.parse().unwrap());
        of_headers(&headers)
    }

    #[test]
    fn credentials_are_read_in_any_base64() {
        let json = r#"{"username":"me","password":"p>?~"}"#;
        let padded = base64::engine::general_purpose::STANDARD.encode(json);
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
        for text in [padded, url] {
            let found = header(&text).unwrap().unwrap();
            assert_eq!(
                (found.username.as_str(), found.password.as_str()),
                ("me", "p>?~")
            );
        }
        for none in ["e30=", "e30", "", "bnVsbA=="] {
            assert_eq!(header(none).unwrap(), None, "{none}");
        }
        let null = r#"{"username":"me","password":null,"serveraddress":null}"#;
        let null = header(&base64::engine::general_purpose::STANDARD.encode(null));
        assert_eq!(null.unwrap().unwrap().username, "me");
        assert!(header("%%%").is_err());
        let token = base64::engine::general_purpose::STANDARD.encode(r#"{"identitytoken":"t"}"#);
        assert_eq!(header(&token).unwrap().unwrap().username, TOKEN_USER);
        let token = base64::engine::general_purpose::STANDARD.encode(r#"{"registrytoken":"r"}"#);
        let token = header(&token).unwrap().unwrap();
        let found = (token.username.as_str(), token.password.as_str());
        assert_eq!(found, (REGISTRY_TOKEN_USER, "r"));
    }

    #[test]
    fn the_registry_is_the_addresss_host() {
        let registry = |address: &str| {
            let config = AuthConfig {
                serveraddress: address.to_owned(),
                ..AuthConfig::default()
            };
            config.registry().map(str::to_owned)
        };
        for (address, host) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("https://reg.example/v2/", "reg.example"),
        ] {
            assert_eq!(registry(address).unwrap(), host);
        }
        for address in [
            "https:///repository/docker/",
            "http:///x",
            "http://",
            "https://",
            "/x",
            "/",
        ] {
            let text = registry(address).unwrap_err().to_string();
            assert!(text.contains(address), "{text}");
        }
        let elsewhere = r#"{"username":"me","password":"p","serveraddress":"https:///x"}"#;
        let elsewhere = base64::engine::general_purpose::STANDARD.encode(elsewhere);
        assert!(header(&elsewhere).is_err());
    }
}
