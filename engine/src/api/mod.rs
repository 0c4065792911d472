//! The Docker Engine API over HTTP.

mod archive;
mod auth;
mod containers;
mod detach;
mod exec;
mod head_limit;
mod images;
mod import;
mod inspect;
mod logs;
mod metrics;
mod networks;
mod object_names;
mod older_images;
mod pages;
mod paths;
mod platform;
mod progress;
mod read_to_end;
mod registry;
mod repair;
mod respond;
mod save;
mod stats;
mod streams;
mod swarm;
mod system;
mod transfer;
mod usage;
mod volumes;
mod websocket;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::{header, request::Parts, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tower::ServiceExt as _;
use tracing::{info_span, Instrument as _};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::json::{self, Params};
use crate::listen::Stream;
use crate::{API_VERSION, MIN_API_VERSION};

pub(crate) use head_limit::Busy;
use head_limit::HeadLimit;
pub(crate) use networks::Named;
pub(crate) use pages::Way;
use read_to_end::ReadToEnd;
pub(crate) use respond::ApiError;

/// Largest request head, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Largest JSON body, in bytes.
const MAX_BODY_BYTES: usize = 4 << 20;
/// Longest text of a refusal, in bytes.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// What each handler works on.
pub(crate) type Shared = axum::extract::State<Arc<Engine>>;

/// All routes.
pub fn router(engine: Arc<Engine>) -> Router {
    Router::new()
        .merge(system::routes())
        .merge(containers::routes())
        .merge(archive::routes())
        .merge(auth::routes())
        .merge(exec::routes())
        .merge(stats::routes())
        .merge(registry::routes())
        .merge(images::routes())
        .merge(metrics::routes())
        .merge(networks::routes())
        .merge(swarm::routes())
        .merge(usage::routes())
        .merge(volumes::routes())
        .fallback(not_built)
        .method_not_allowed_fallback(not_built)
        .with_state(engine)
}

/// Serves one connection to its end, or until it is to be closed.
pub(crate) async fn serve(stream: impl Stream, router: Router, busy: Busy, way: Way) {
    let closed = busy.clone();
    let stream = HeadLimit::new(stream, busy.clone());
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (router, busy) = (router.clone(), busy.clone());
        let request = request.map(|body| Body::new(ReadToEnd::new(body)));
        busy.begin();
        async move { Ok::<_, Infallible>(busy.until_gone(answer(request, router, way).await)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "connection");
        },
        () = closed.closed() => tracing::debug!("a silent connection makes room"),
    }
}

async fn answer(mut request: Request, router: Router, way: Way) -> Response {
    *request.uri_mut() = paths::plain(request.uri()).unwrap_or_else(|| request.uri().clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let checked = strip_version(request.uri()).and_then(|(uri, version)| {
        pages::check(&request, way)?;
        check_content_type(&request, uri.path())?;
        Ok((uri, version))
    });
    let mut response = match checked {
        // Whatever it is of: dockerd tells no methods either.
        Ok(_) if method == Method::OPTIONS => StatusCode::OK.into_response(),
        Ok(_) if paths::clean(request.uri()).is_some() => redirect(request.uri()),
        Ok((uri, version)) => {
            *request.uri_mut() = object_names::in_one_part(&method, &uri).unwrap_or(uri);
            request.extensions_mut().insert(version);
            let goes = goes_with_its_client(&method, request.uri().path());
            // Each line of the log that comes of it names the request, and with its path the container.
            let routed = routed(request, router).instrument(info_span!("request", %method, path));
            match goes {
                true => routed.await,
                false => finished(tokio::spawn(routed)).await,
            }
        }
        Err(error) => ApiError(error).into_response(),
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(API_VERSION));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(
        header::SERVER,
        HeaderValue::from_static(concat!("Hull/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
    response
}

/// To the path without empty parts.
fn redirect(uri: &Uri) -> Response {
    let to = paths::clean(uri).and_then(|path| HeaderValue::try_from(path).ok());
    match to {
        Some(to) => (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)]).into_response(),
        None => ApiError(EngineError::PageNotFound).into_response(),
    }
}

/// Whether a request may be cut off when its client goes away: it changes nothing, or it asks a
/// registry and leaves nothing half-made.
fn goes_with_its_client(method: &Method, path: &str) -> bool {
    let ends = |ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
    if matches!(*method, Method::GET | Method::HEAD) {
        // A VM may have to be started for a look at files.
        return !(path.starts_with("/containers/") && ends(&["/archive", "/changes", "/export"]));
    }
    ["/auth", "/images/create", "/images/load"].contains(&path)
        || (path.starts_with("/images/") && ends(&["/push"]))
}

async fn routed(request: Request, router: Router) -> Response {
    match router.oneshot(request).await {
        Ok(response) => told_as_json(response).await,
        Err(never) => match never {},
    }
}

/// What was refused before any handler saw it is told in docker's form, too.
async fn told_as_json(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !(is_text && (status.is_client_error() || status.is_server_error())) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MAX_TEXT_BYTES).await;
    let text = text.unwrap_or_default();
    let message = String::from_utf8_lossy(&text);
    (status, Json(serde_json::json!({ "message": message }))).into_response()
}

/// The answer of a request that goes on whether or not its client waits for it.
async fn finished(running: tokio::task::JoinHandle<Response>) -> Response {
    running.await.unwrap_or_else(|error| {
        let error = std::io::Error::other(error);
        ApiError(EngineError::io("finish", "the request", error)).into_response()
    })
}

/// Whether a request's body is read as JSON.
fn reads_json(method: &Method, path: &str) -> bool {
    let whole = [
        "/auth",
        "/commit",
        "/containers/create",
        "/networks/create",
        "/volumes/create",
    ];
    let ends = ["/exec", "/update", "/start", "/connect", "/disconnect"];
    let below = ["/containers/", "/exec/", "/networks/"];
    // A container's start has no body any more, but old clients send one.
    let of_container = path.starts_with("/containers/") && path.ends_with("/start");
    let named = below.iter().any(|part| path.starts_with(part))
        && ends.iter().any(|end| path.ends_with(end));
    method == Method::POST && !of_container && (whole.contains(&path) || named)
}

/// Refuses a body that is not called JSON where that is wanted, also one that is called nothing: a web
/// page may send such a one to anybody, without asking first.
fn check_content_type(request: &Request, path: &str) -> Result<(), EngineError> {
    let headers = request.headers();
    let empty = match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length == "0",
        None => !headers.contains_key(header::TRANSFER_ENCODING),
    };
    if empty || !reads_json(request.method(), path) {
        return Ok(());
    }
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.map(|value| String::from_utf8_lossy(value.as_bytes()));
    let text = text.unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    let why = match kind {
        "" => format!("malformed Content-Type header ({text}): mime: no media type"),
        json if json.eq_ignore_ascii_case("application/json") => return Ok(()),
        _ => format!("unsupported Content-Type header ({text}): must be 'application/json'"),
    };
    Err(EngineError::BadRequest(why))
}

/// The version of the API that a client speaks, such as (1, 44).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

impl Version {
    /// Whether it is older than 1.`minor`.
    pub(crate) fn is_before(self, minor: u32) -> bool {
        self < Self(1, minor)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// Who names no version speaks the newest.
impl Default for Version {
    fn default() -> Self {
        Self::parse(API_VERSION).unwrap_or(Self(1, u32::MAX))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Version {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

/// Removes `/vN.M` from the path, and checks it.
fn strip_version(uri: &Uri) -> Result<(Uri, Version), EngineError> {
    let path = uri.path();
    let Some((version, rest)) = path.strip_prefix("/v").and_then(|rest| {
        let (version, _) = rest.split_once('/')?;
        version
            .bytes()
            .all(|b| b.is_ascii_digit() || b == b'.')
            .then(|| (version, &rest[version.len()..]))
    }) else {
        return Ok((uri.clone(), Version::default()));
    };
    let wanted = Version::parse(version)
        .ok_or_else(|| EngineError::BadRequest(format!("invalid API version {version:?}")))?;
    if Version::parse(API_VERSION).is_some_and(|newest| newest < wanted) {
        return Err(EngineError::BadRequest(format!(
            "client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    if Version::parse(MIN_API_VERSION).is_some_and(|oldest| wanted < oldest) {
        return Err(EngineError::BadRequest(format!(
            "client version {version} is too old. Minimum supported API version is \
             {MIN_API_VERSION}, please upgrade your client to a newer version"
        )));
    }
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("{rest}{query}")
        .parse()
        .map(|uri| (uri, wanted))
        .map_err(|_| EngineError::BadRequest(format!("invalid path {path:?}")))
}

/// Docker's requests that Hull does not serve, by the parts of their paths; `*`: any one. All others are no
/// part of the API.
const NOT_BUILT: [(&str, &[&str]); 8] = [
    ("POST", &["build"]),
    ("POST", &["build", "cancel"]),
    ("POST", &["session"]),
    ("POST", &["grpc"]),
    ("GET", &["containers", "*", "checkpoints"]),
    ("POST", &["containers", "*", "checkpoints"]),
    ("DELETE", &["containers", "*", "checkpoints", "*"]),
    ("POST", &["containers", "*", "copy"]),
];

async fn not_built(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let is = |known: &[&str]| {
        let mut pairs = known.iter().zip(&parts);
        known.len() == parts.len() && pairs.all(|(one, part)| *one == "*" || one == part)
    };
    let known = NOT_BUILT
        .iter()
        .any(|(of, parts)| *of == method && is(parts));
    match known {
        true => ApiError(EngineError::NotBuilt(format!("{method} {path}"))),
        false => ApiError(EngineError::PageNotFound),
    }
}

/// Query parameters, without a schema: Docker's are many, optional and loosely typed.
pub(crate) struct Query(pub(crate) Params);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let query =
            axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let pairs = query.map_err(|error| EngineError::BadRequest(error.to_string()))?;
        Ok(Self(pairs.0.into_iter().collect()))
    }
}

/// The whole body of a request, bounded.
pub(crate) async fn body_bytes(body: Body) -> Result<bytes::Bytes, EngineError> {
    axum::body::to_bytes(body, MAX_BODY_BYTES)
        .await
        .map_err(|error| {
            EngineError::BadRequest(format!("the request body can't be read: {error}"))
        })
}

/// A JSON body; an empty one is the type's default.
pub(crate) async fn body_json<T>(body: Body) -> Result<T, EngineError>
where
    T: serde::de::DeserializeOwned + Default,
{
    let bytes = body_bytes(body).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    json::decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(path: &str) -> Result<String, EngineError> {
        strip_version(&path.parse().unwrap()).map(|(uri, _)| uri.to_string())
    }

    #[test]
    fn versions_are_taken_off_the_path_and_checked() {
        assert_eq!(strip("/v1.41/info?x=1").unwrap(), "/info?x=1");
        assert_eq!(strip("/info").unwrap(), "/info");
        assert_eq!(strip("/volumes").unwrap(), "/volumes");
        let version = |path: &str| strip_version(&path.parse().unwrap()).unwrap().1;
        assert!(version("/v1.41/info").is_before(42) && !version("/v1.42/info").is_before(42));
        assert!(!version("/info").is_before(44));
        for bad in ["/v1.52/info", "/v1.23/info", "/v1/info", "/v9.9.9/info"] {
            assert!(strip(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_has_to_be_called_so() {
        let check = |path: &str, kind: &str, body: &'static str| {
            let request = hyper::Request::post(path)
                .header("content-type", kind)
                .header("content-length", body.len());
            check_content_type(&request.body(Body::from(body)).unwrap(), path)
        };
        let json = "application/json; charset=utf-8";
        assert!(check("/containers/create", json, "{}").is_ok());
        assert!(check("/containers/create", "text/plain", "").is_ok());
        assert!(check("/containers/x/attach", "text/plain", "{}").is_ok());
        for path in ["/containers/create", "/exec/1/start", "/networks/x/connect"] {
            let text = check(path, "text/plain", "{}").unwrap_err().to_string();
            assert!(
                text.contains("unsupported Content-Type header (text/plain)"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_body_that_is_called_nothing_is_no_json() {
        let check = |path: &str, body: Option<(&str, &str)>| {
            let mut request = hyper::Request::post(path);
            if let Some((header, value)) = body {
                request = request.header(header, value);
            }
            check_content_type(&request.body(Body::empty()).unwrap(), path)
        };
        for path in [
            "/auth",
            "/commit",
            "/containers/create",
            "/containers/x/exec",
            "/containers/x/update",
            "/exec/1/start",
            "/networks/create",
            "/networks/x/connect",
            "/volumes/create",
        ] {
            for body in [("content-length", "2"), ("transfer-encoding", "chunked")] {
                let text = check(path, Some(body)).unwrap_err().to_string();
                assert!(text.ends_with("(): mime: no media type"), "{path}: {text}");
            }
            check(path, None).unwrap();
            check(path, Some(("content-length", "0"))).unwrap();
        }
        check("/images/load", Some(("content-length", "2"))).unwrap();
    }

    #[tokio::test]
    async fn a_change_goes_on_without_its_client() {
        use std::time::Duration;

        use axum::routing::{get, post};
        use tokio::io::AsyncWriteExt as _;
        use tokio::sync::mpsc;

        let (begun, mut begins) = mpsc::channel(1);
        let (done, mut ends) = mpsc::channel(1);
        let work = move || {
            let (begun, done) = (begun.clone(), done.clone());
            async move {
                begun.send(()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                done.send(()).await.unwrap();
            }
        };
        let router = Router::new()
            .route("/change", post(work.clone()))
            .route("/look", get(work));
        for (request, finishes) in [("POST /change", true), ("GET /look", false)] {
            let (mut client, server) = tokio::net::UnixStream::pair().unwrap();
            let served = tokio::spawn(serve(server, router.clone(), Busy::default(), Way::Unix));
            let head = format!("{request} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            begins.recv().await.unwrap();
            drop(client);
            served.await.unwrap();
            let ended = tokio::time::timeout(Duration::from_millis(500), ends.recv()).await;
            assert_eq!(ended.is_ok(), finishes, "{request}");
        }
        for (method, path, goes) in [
            (Method::POST, "/images/create", true),
            (Method::POST, "/images/a/b/push", true),
            (Method::POST, "/containers/prune", false),
            (Method::DELETE, "/images/a", false),
            (Method::HEAD, "/containers/a/archive", false),
            (Method::GET, "/containers/a/stats", true),
        ] {
            assert_eq!(goes_with_its_client(&method, path), goes, "{path}");
        }
    }

    #[tokio::test]
    async fn who_sends_a_body_that_nobody_reads_gets_the_answer() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut client, server) = tokio::net::UnixStream::pair().unwrap();
        tokio::spawn(serve(
            server,
            Router::new().fallback(not_built),
            Busy::default(),
            Way::Unix,
        ));
        let length = 4 << 20;
        let head = format!("POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![0; length]).await.unwrap();
        let mut start = [0; 12];
        client.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 404");
    }
}
