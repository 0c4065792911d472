//! A registry on loopback that can be told to misbehave.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{header, Response, StatusCode};
use axum::Router;
use futures_util::StreamExt as _;
use hull_image::Digest;

use super::tarball::gzip;

/// What a path answers instead of its content.
#[derive(Clone)]
pub(crate) enum Fault {
    Status(u16, Vec<(&'static str, String)>),
    /// Only so many bytes of the body, then the connection breaks.
    Cut(usize),
    /// Other content of the same length.
    Garbage,
    /// The content again, behind itself.
    Twice,
    /// Ranges are ignored.
    NoRange,
    /// Waits before it answers.
    Slow(Duration),
    /// Waits so long for each 64 KiB of the request's body.
    SlowToTake(Duration),
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) at: Instant,
}

#[derive(Default)]
struct Content {
    documents: HashMap<String, (String, Vec<u8>)>,
    faults: HashMap<String, Vec<Fault>>,
    seen: Vec<Seen>,
    sent: u64,
    /// User and password for the token; requests without the token are challenged.
    auth: Option<(String, bool)>,
}

#[derive(Clone)]
pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    content: Arc<Mutex<Content>>,
}

impl FakeRegistry {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bind");
        let address = listener.local_addr().expect("address");
        let registry = Self {
            address,
            content: Arc::default(),
        };
        let router = Router::new().fallback(answer).with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        registry
    }

    pub(crate) fn reference(&self, rest: &str) -> hull_image::Reference {
        format!("{}/{rest}", self.address)
            .parse()
            .expect("reference")
    }

    /// Stores a blob; gives its descriptor.
    pub(crate) fn blob(
        &self,
        repository: &str,
        media_type: &str,
        content: &[u8],
    ) -> serde_json::Value {
        let digest = Digest::of(content);
        let path = format!("/v2/{repository}/blobs/{digest}");
        self.put(&path, "application/octet-stream", content);
        serde_json::json!({ "mediaType": media_type, "digest": digest.to_string(), "size": content.len() })
    }

    /// Stores a manifest or index by digest and tag; gives its descriptor.
    pub(crate) fn document(
        &self,
        repository: &str,
        tag: &str,
        document: &serde_json::Value,
    ) -> serde_json::Value {
        let content = serde_json::to_vec(document).expect("JSON");
        let media_type = document["mediaType"].as_str().unwrap_or_default();
        let digest = Digest::of(&content);
        for name in [tag.to_owned(), digest.to_string()] {
            self.put(
                &format!("/v2/{repository}/manifests/{name}"),
                media_type,
                &content,
            );
        }
        serde_json::json!({ "mediaType": media_type, "digest": digest.to_string(), "size": content.len() })
    }

    /// A whole image of gzip layers.
    pub(crate) fn image(
        &self,
        repository: &str,
        tag: &str,
        platform: &str,
        layers: &[Vec<u8>],
    ) -> serde_json::Value {
        let (os, architecture) = platform.split_once('/').expect("platform");
        let (architecture, variant) = match architecture.split_once('/') {
            Some((architecture, variant)) => (architecture, Some(variant)),
            None => (architecture, None),
        };
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|tar| Digest::of(tar).to_string())
            .collect();
        let mut config = serde_json::json!({
            "architecture": architecture, "os": os, "config": {"Env": ["A=1"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        if let Some(variant) = variant {
            config["variant"] = variant.into();
        }
        let config = serde_json::to_vec(&config).expect("JSON");
        let config = self.blob(
            repository,
            "application/vnd.oci.image.config.v1+json",
            &config,
        );
        let layers: Vec<_> = layers
            .iter()
            .map(|tar| {
                self.blob(
                    repository,
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    &gzip(tar),
                )
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        });
        self.document(repository, tag, &manifest)
    }

    pub(crate) fn put(&self, path: &str, media_type: &str, content: &[u8]) {
        let mut held = self.content.lock().expect("lock");
        held.documents
            .insert(path.to_owned(), (media_type.to_owned(), content.to_vec()));
    }

    /// The next requests whose path ends with `suffix` get these faults, in turn.
    pub(crate) fn fault(&self, suffix: &str, faults: Vec<Fault>) {
        self.content
            .lock()
            .expect("lock")
            .faults
            .insert(suffix.to_owned(), faults);
    }

    /// Wants a bearer token; with `valid`, the user of the token request must be this `user:password`
    /// in base64.
    pub(crate) fn require_token(&self, user: &str, valid: bool) {
        self.content.lock().expect("lock").auth = Some((user.to_owned(), valid));
    }

    pub(crate) fn seen(&self, part: &str) -> Vec<Seen> {
        let held = self.content.lock().expect("lock");
        held.seen
            .iter()
            .filter(|seen| seen.path.contains(part))
            .cloned()
            .collect()
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.content.lock().expect("lock").sent
    }
}

pub(crate) async fn answer(
    State(registry): State<FakeRegistry>,
    request: Request,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let (parts, body) = request.into_parts();
    let get = |name| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let (range, authorization) = (get(header::RANGE), get(header::AUTHORIZATION));
    let (fault, found, auth) = {
        let mut held = registry.content.lock().expect("lock");
        held.seen.push(Seen {
            path: path.clone(),
            range: range.clone(),
            authorization: authorization.clone(),
            at: Instant::now(),
        });
        let key = held
            .faults
            .keys()
            .find(|suffix| path.ends_with(suffix.as_str()))
            .cloned();
        let fault = key.and_then(|key| {
            let faults = held.faults.get_mut(&key)?;
            (!faults.is_empty()).then(|| faults.remove(0))
        });
        (fault, held.documents.get(&path).cloned(), held.auth.clone())
    };
    if let Some((user, valid)) = auth {
        if path == "/token" {
            let granted = !valid || authorization == Some(format!("Basic {user}"));
            return match granted {
                true => plain(200, r#"{"token":"secret"}"#),
                false => plain(
                    401,
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"bad credentials"}]}"#,
                ),
            };
        }
        if authorization.as_deref() != Some("Bearer secret") {
            let realm = format!(
                "Bearer realm=\"http://{}/token\",service=\"fake\"",
                registry.address
            );
            let mut response = plain(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
            );
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, realm.parse().expect("header"));
            return response;
        }
    }
    if let Some(Fault::Slow(wait)) = &fault {
        tokio::time::sleep(*wait).await;
    }
    if let Some(Fault::Status(status, headers)) = &fault {
        let mut response = plain(*status, "");
        for (name, value) in headers {
            response
                .headers_mut()
                .insert(*name, value.parse().expect("header"));
        }
        return response;
    }
    match parts.method {
        axum::http::Method::POST => return place_to_upload(&path),
        axum::http::Method::PUT => {
            let pause = match fault {
                Some(Fault::SlowToTake(pause)) => pause,
                _ => Duration::ZERO,
            };
            return take(&registry, &parts, body, pause).await;
        }
        _ => {}
    }
    let Some((media_type, content)) = found else {
        return plain(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        );
    };
    deliver(&registry, &media_type, content, range, fault)
}

fn place_to_upload(path: &str) -> Response<Body> {
    Response::builder()
        .status(StatusCode::ACCEPTED)
        .header(header::LOCATION, format!("{path}1"))
        .body(Body::empty())
        .expect("response")
}

/// A blob or a manifest.
async fn take(
    registry: &FakeRegistry,
    parts: &axum::http::request::Parts,
    body: Body,
    pause: Duration,
) -> Response<Body> {
    let mut pieces = body.into_data_stream();
    let mut content = Vec::new();
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            return plain(400, "the body broke off");
        };
        content.extend_from_slice(&piece);
        tokio::time::sleep(pause.mul_f64(piece.len() as f64 / 65536.0)).await;
    }
    let path = match parts.uri.path().split_once("/blobs/uploads/") {
        Some((repository, _)) => format!("{repository}/blobs/{}", Digest::of(&content)),
        None => parts.uri.path().to_owned(),
    };
    registry.put(&path, "application/octet-stream", &content);
    plain(201, "")
}

fn deliver(
    registry: &FakeRegistry,
    media_type: &str,
    mut content: Vec<u8>,
    range: Option<String>,
    fault: Option<Fault>,
) -> Response<Body> {
    let total = content.len();
    match &fault {
        Some(Fault::Garbage) => content.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::Twice) => content.extend_from_within(..),
        _ => {}
    }
    let from = match (&range, &fault) {
        (Some(range), fault) if !matches!(fault, Some(Fault::NoRange)) => range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse()
            .expect("range"),
        _ => 0_usize,
    };
    let mut body = content.split_off(from);
    let mut response = Response::builder().header(header::CONTENT_TYPE, media_type);
    response = response.header(header::CONTENT_LENGTH, body.len());
    if from > 0 {
        response = response.status(StatusCode::PARTIAL_CONTENT).header(
            header::CONTENT_RANGE,
            format!("bytes {from}-{}/{total}", total - 1),
        );
    }
    if let Some(Fault::Cut(length)) = fault {
        body.truncate(length);
        registry.content.lock().expect("lock").sent += body.len() as u64;
        let pieces = vec![Ok(Bytes::from(body)), Err(std::io::Error::other("cut"))];
        // Time for the first piece to leave before the connection is torn down.
        let pieces = futures_util::stream::unfold(pieces.into_iter(), |mut pieces| async move {
            let next = pieces.next()?;
            if next.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Some((next, pieces))
        });
        return response.body(Body::from_stream(pieces)).expect("response");
    }
    registry.content.lock().expect("lock").sent += body.len() as u64;
    response.body(Body::from(body)).expect("response")
}

fn plain(status: u16, body: &'static str) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(Body::from(body))
        .expect("response")
}
