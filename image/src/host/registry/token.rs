//! Logging in: a challenge is answered with a token or a password, which is kept.

use std::sync::PoisonError;

use reqwest::header::{HeaderMap, AUTHORIZATION, WWW_AUTHENTICATE};
use reqwest::Url;
use serde::Deserialize;

use super::answer::{check, read_limited};
use super::auth::{self, Challenge};
use super::client::RegistryClient;
use super::request::{authority, protocol, Request};
use super::tls::Waits;
use super::{Credentials, RegistryError};
use crate::credentials::{REGISTRY_TOKEN_USER, TOKEN_USER};

const MAX_TOKEN_BODY: usize = 1 << 20;

impl RegistryClient {
    /// The `Authorization` value for a request, where one is known.
    pub(super) fn token(&self, request: &Request<'_>) -> Option<String> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .get(&(request.registry.to_owned(), request.repository.to_owned()))
            .cloned()
    }

    pub(super) fn forget_token(&self, request: &Request<'_>) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.remove(&(request.registry.to_owned(), request.repository.to_owned()));
    }

    /// Answers a 401's challenge and keeps the `Authorization` value.
    pub(super) async fn authorize(
        &self,
        request: &Request<'_>,
        headers: &HeaderMap,
    ) -> Result<(), RegistryError> {
        let denied = |detail: &str| RegistryError::Unauthorized {
            registry: request.registry.to_owned(),
            what: request.what.to_owned(),
            detail: detail.to_owned(),
        };
        let challenge = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(auth::parse_challenge)
            .ok_or_else(|| denied("it names no way to log in that is supported"))?;
        let credentials = auth::credentials(self.config(), authority(request.registry)).await;
        let value = match (challenge, credentials) {
            (_, Some(credentials)) if credentials.username == REGISTRY_TOKEN_USER => {
                bearer(&credentials.password).ok_or_else(|| {
                    denied("the registry token is not one line of plain characters")
                })?
            }
            (Challenge::Basic, None) => return Err(denied("it wants a user name and a password")),
            (Challenge::Basic, Some(credentials)) => basic(&credentials),
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                credentials,
            ) => {
                let scope = scope.unwrap_or_else(|| match request.repository {
                    "" => String::new(),
                    repository => format!("repository:{repository}:pull"),
                });
                let also = request.mounts.map(|from| format!("repository:{from}:pull"));
                let scopes: Vec<String> = [scope].into_iter().chain(also).collect();
                self.fetch_token(request, &realm, service.as_deref(), &scopes, credentials)
                    .await?
            }
        };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(
            (request.registry.to_owned(), request.repository.to_owned()),
            value,
        );
        Ok(())
    }

    /// The token flow (distribution, "Token Authentication Specification"): the value of a header.
    async fn fetch_token(
        &self,
        request: &Request<'_>,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        credentials: Option<Credentials>,
    ) -> Result<String, RegistryError> {
        let mut url = Url::parse(realm)
            .map_err(|_| protocol(request, format!("token realm {realm:?} is no URL")))?;
        // Credentials must not leave TLS because a registry says so.
        if url.scheme() != "https" && !self.is_plain(request.registry) {
            return Err(protocol(
                request,
                format!("token realm {realm:?} is not HTTPS"),
            ));
        }
        let http = self.http(request.registry, Waits::ForAnswer)?;
        let service = service.unwrap_or_default();
        let builder = match &credentials {
            Some(credentials) if credentials.username == TOKEN_USER => {
                let mut form =
                    Url::parse("form:").map_err(|error| protocol(request, error.to_string()))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "hull")
                    .append_pair("service", service)
                    .append_pair("scope", &scopes.join(" "))
                    .append_pair("refresh_token", &credentials.password);
                http.post(url)
                    .header("Content-Type", "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            _ => {
                let mut query = url.query_pairs_mut();
                query.append_pair("service", service);
                for scope in scopes {
                    query.append_pair("scope", scope);
                }
                drop(query);
                let builder = http.get(url);
                match &credentials {
                    Some(credentials) => builder.header(AUTHORIZATION, basic(credentials)),
                    None => builder,
                }
            }
        };
        let response = builder
            .send()
            .await
            .map_err(|source| RegistryError::Unreachable {
                registry: request.registry.to_owned(),
                what: format!("a token for {}", request.what),
                source,
            })?;
        let response = check(request, response, self.config().attempts).await?;
        let body = read_limited(response, MAX_TOKEN_BODY).await;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|error| protocol(request, format!("the token is not valid: {error}")))?;
        let token = answer.token.or(answer.access_token);
        let value = token.as_deref().and_then(bearer);
        value.ok_or_else(|| protocol(request, "the token answer has no token".into()))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The value of a header, if the token fits one.
fn bearer(token: &str) -> Option<String> {
    let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| format!("Bearer {token}"))
}

fn basic(credentials: &Credentials) -> String {
    use base64::engine::general_purpose::STANDARD;
    use base64::Engine as _;
    format!(
        "Basic {}",
        STANDARD.encode(format!("{}:{}", credentials.username, credentials.password))
    )
}
