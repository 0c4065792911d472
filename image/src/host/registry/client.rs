//! Requests to one registry: scheme, credentials, tries and what failures mean.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};

use super::answer::check;
use super::mirror::Resting;
use super::request::{authority, host, is_loopback, protocol, Request, Sent};
use super::tls::{Clients, Trust, Waits};
use super::{Credentials, Mirror, RegistryConfig, RegistryError};

/// A connection that is refused is tried this often: longer waiting rarely helps.
const CONNECT_ATTEMPTS: u32 = 2;
/// Where Docker Hub's registry really is.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// How long a registry that need not speak TLS has to show that it does.
const TLS_PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Talks to registries; one for all of them. Tokens are kept for as long as they hold.
#[derive(Debug)]
pub(crate) struct RegistryClient {
    clients: Arc<Clients>,
    config: RegistryConfig,
    /// Registries that need not speak TLS and do.
    with_tls: Mutex<HashSet<String>>,
    resting: Resting,
    /// `Authorization` values by registry and repository.
    pub(super) tokens: Mutex<HashMap<(String, String), String>>,
}

impl RegistryClient {
    pub(crate) fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        // Whoever installed one before decided for the whole process; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clients = Arc::new(Clients::new(
            config.certificates.clone(),
            config.stall_timeout,
        ));
        Ok(Self::with(clients, config))
    }

    fn with(clients: Arc<Clients>, config: RegistryConfig) -> Self {
        Self {
            clients,
            config,
            with_tls: Mutex::default(),
            resting: Resting::default(),
            tokens: Mutex::default(),
        }
    }

    /// A client that is somebody else at one registry; it shares no token with this one.
    pub(crate) fn acting_as(&self, registry: &str, credentials: Credentials) -> Self {
        let mut config = self.config.clone();
        config.credentials.insert(registry.to_owned(), credentials);
        Self::with(self.clients.clone(), config)
    }

    /// The content of an address that is no registry's.
    pub(crate) async fn download(
        &self,
        address: &str,
    ) -> Result<impl tokio::io::AsyncRead + Send + Unpin + use<>, RegistryError> {
        use futures_util::TryStreamExt as _;
        let request = Request {
            registry: address,
            repository: "",
            path: String::new(),
            accept: &[],
            mounts: None,
            from: 0,
            what: "the archive",
        };
        let url = Url::parse(address)
            .map_err(|error| protocol(&request, format!("its address is not valid: {error}")))?;
        let http = self
            .clients
            .of(url.authority(), Trust::Verified, Waits::ForAnswer)?;
        let sent = http.get(url).send().await;
        let response = sent.map_err(|source| RegistryError::Unreachable {
            registry: address.to_owned(),
            what: request.what.to_owned(),
            source,
        })?;
        let response = check(&request, response, self.config.attempts).await?;
        let pieces = response.bytes_stream().map_err(std::io::Error::other);
        Ok(tokio_util::io::StreamReader::new(Box::pin(pieces)))
    }

    /// Whether the registry takes this client's credentials.
    pub(crate) async fn log_in(&self, registry: &str) -> Result<(), RegistryError> {
        let what = format!("the login at {registry}");
        let request = Request::of_registry(registry, &what);
        self.get(&request).await.map(drop)
    }

    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// Sends `request` until it succeeds, fails for good, or the tries are used up; first, and
    /// once, to the registry's mirrors.
    pub(crate) async fn get(&self, request: &Request<'_>) -> Result<Response, RegistryError> {
        if let Some(response) = self.get_from_mirror(request).await {
            return Ok(response);
        }
        self.again(|| self.get_once(request)).await
    }

    /// Tries until it succeeds, fails for good, or the tries are used up.
    pub(super) async fn again<T, F>(&self, once: impl Fn() -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let mut attempt = 1;
        loop {
            let failure = match once().await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let Some(pause) = self.pause_after(&failure, attempt) else {
                return Err(failure);
            };
            tracing::debug!(attempt, ?pause, error = %failure, "trying again");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn get_from_mirror(&self, request: &Request<'_>) -> Option<Response> {
        let of_this = |mirror: &&Mirror| mirror.of() == request.registry;
        for mirror in self.config.mirrors.iter().filter(of_this) {
            // A login is for the registry itself.
            if request.repository.is_empty() || !self.resting.is_awake(mirror) {
                continue;
            }
            let there = Request {
                registry: mirror.address(),
                ..request.clone()
            };
            let failure = match self.get_once(&there).await {
                Ok(response) => return Some(response),
                Err(failure) => failure,
            };
            if matches!(failure, RegistryError::Unreachable { .. }) {
                self.resting.put(mirror);
            }
            tracing::info!(mirror = mirror.address(), error = %failure, "a mirror is passed over");
        }
        None
    }

    /// How long to wait before try `attempt + 1`; `None`: give up.
    pub(crate) fn pause_after(&self, failure: &RegistryError, attempt: u32) -> Option<Duration> {
        let backoff = self
            .config
            .backoff
            .saturating_mul(1 << attempt.min(10).saturating_sub(1));
        let (most, pause) = match failure {
            RegistryError::Unreachable { source, .. } if source.is_connect() => {
                (CONNECT_ATTEMPTS, backoff)
            }
            RegistryError::Unreachable { .. }
            | RegistryError::Truncated { .. }
            | RegistryError::Stalled { .. } => (self.config.attempts, backoff),
            RegistryError::RateLimited { retry_after, .. } => {
                // A registry that wants more than we are ready to wait is given up at once.
                if retry_after.is_some_and(|wait| wait > self.config.max_retry_after) {
                    return None;
                }
                (
                    self.config.attempts,
                    retry_after.map_or(backoff, |wait| wait.max(backoff)),
                )
            }
            RegistryError::Status {
                status: 500 | 502 | 503 | 504 | 408,
                ..
            } => (self.config.attempts, backoff),
            _ => return None,
        };
        (attempt < most.min(self.config.attempts)).then_some(pause)
    }

    async fn get_once(&self, request: &Request<'_>) -> Result<Response, RegistryError> {
        let first = self.send(request).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return check(request, first, self.config.attempts).await;
        }
        self.authorize(request, first.headers()).await?;
        let second = self.send(request).await?;
        check(request, second, self.config.attempts).await
    }

    /// Sends a request that is no GET, with a login where the registry wants one.
    pub(crate) async fn exchange(
        &self,
        request: &Request<'_>,
        sent: &Sent,
    ) -> Result<Response, RegistryError> {
        let first = self.send_once(request, sent).await?;
        if first.status() != StatusCode::UNAUTHORIZED || self.is_elsewhere(request, sent)? {
            return check(request, first, self.config.attempts).await;
        }
        self.authorize(request, first.headers()).await?;
        let second = self.send_once(request, sent).await?;
        check(request, second, self.config.attempts).await
    }

    async fn send_once(
        &self,
        request: &Request<'_>,
        sent: &Sent,
    ) -> Result<Response, RegistryError> {
        let answer = self.send_as_known(request, sent).await;
        let host = authority(request.registry);
        let in_the_clear = !request.registry.contains("://") && self.scheme(host) == "http";
        let not_understood = match &answer {
            Ok(response) => response.status() == StatusCode::BAD_REQUEST,
            Err(RegistryError::Unreachable { source, .. }) => !source.is_connect(),
            Err(_) => false,
        };
        if in_the_clear && sent.url.is_none() && not_understood && self.speaks_tls(host).await {
            return self.send_as_known(request, sent).await;
        }
        answer
    }

    /// Whether a registry that need not speak TLS does; from then on it is spoken to so.
    async fn speaks_tls(&self, host: &str) -> bool {
        let client = self.clients.of(host, Trust::Anybody, Waits::ForAnswer);
        let Ok(client) = client else {
            return false;
        };
        let probe = client.get(format!("https://{host}/v2/"));
        let speaks = probe.timeout(TLS_PROBE_TIMEOUT).send().await.is_ok();
        if speaks {
            let mut with_tls = self.with_tls.lock().unwrap_or_else(PoisonError::into_inner);
            with_tls.insert(host.to_owned());
        }
        speaks
    }

    async fn send_as_known(
        &self,
        request: &Request<'_>,
        sent: &Sent,
    ) -> Result<Response, RegistryError> {
        let url = match &sent.url {
            Some(url) => url.clone(),
            None => self.url(request)?,
        };
        let waits = match &sent.moving {
            Some(_) => Waits::WhileSent,
            None => Waits::ForAnswer,
        };
        let http = self.http(request.registry, waits)?;
        let mut builder = http.request(sent.method.clone(), url);
        for (name, value) in &sent.headers {
            builder = builder.header(name, value);
        }
        // What is for the registry is for nobody that it names.
        let elsewhere = self.is_elsewhere(request, sent)?;
        if let Some(value) = self.token(request).filter(|_| !elsewhere) {
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(make) = &sent.body {
            let body = make().map_err(|error| protocol(request, error.to_string()))?;
            builder = builder.body(body);
        }
        let (registry, what) = (request.registry.to_owned(), request.what.to_owned());
        let answer = match &sent.moving {
            None => builder.send().await,
            Some(moving) => {
                let limit = self.config.stall_timeout;
                let answer = moving.or_stalled(limit, builder.send()).await;
                answer.ok_or_else(|| RegistryError::Stalled {
                    registry: registry.clone(),
                    what: what.clone(),
                })?
            }
        };
        answer.map_err(|source| RegistryError::Unreachable {
            registry,
            what,
            source,
        })
    }

    /// Whether a request goes to another than the registry.
    fn is_elsewhere(&self, request: &Request<'_>, sent: &Sent) -> Result<bool, RegistryError> {
        match &sent.url {
            Some(url) => Ok(url.origin() != self.url(request)?.origin()),
            None => Ok(false),
        }
    }

    pub(super) fn http(&self, registry: &str, waits: Waits) -> Result<Client, RegistryError> {
        let trust = match self.is_plain(registry) {
            true => Trust::Anybody,
            false => Trust::Verified,
        };
        self.clients.of(authority(registry), trust, waits)
    }

    async fn send(&self, request: &Request<'_>) -> Result<Response, RegistryError> {
        let accept = request.accept.iter();
        let mut headers: Vec<_> = accept.map(|kind| (ACCEPT, (*kind).to_owned())).collect();
        if request.from > 0 {
            headers.push((RANGE, format!("bytes={}-", request.from)));
        }
        let get = Sent {
            headers,
            ..Sent::empty(reqwest::Method::GET)
        };
        self.send_once(request, &get).await
    }

    fn url(&self, request: &Request<'_>) -> Result<Url, RegistryError> {
        let Request {
            registry,
            repository,
            path,
            ..
        } = request;
        let (scheme, host) = match registry.split_once("://") {
            Some(both) => both,
            None if *registry == "docker.io" => ("https", DOCKER_HUB_HOST),
            None => (self.scheme(registry), *registry),
        };
        let below = match repository.is_empty() {
            true => String::new(),
            false => format!("{repository}/{path}"),
        };
        Url::parse(&format!("{scheme}://{host}/v2/{below}"))
            .map_err(|error| protocol(request, format!("its address is not valid: {error}")))
    }

    pub(super) fn scheme(&self, registry: &str) -> &'static str {
        let with_tls = self.with_tls.lock().unwrap_or_else(PoisonError::into_inner);
        match self.is_plain(registry) && !with_tls.contains(registry) {
            true => "http",
            false => "https",
        }
    }

    /// Loopback and registries marked insecure may be talked to without TLS.
    pub(super) fn is_plain(&self, registry: &str) -> bool {
        if registry.starts_with("http://") {
            return true;
        }
        let registry = authority(registry);
        is_loopback(registry)
            || self
                .config
                .insecure
                .iter()
                .any(|entry| entry == registry || entry == host(registry))
    }
}
