//! Blobs and manifests to a registry (OCI distribution specification, "Push").

use std::path::Path;

use futures_util::TryStreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Method, Response, StatusCode};

use super::client::RegistryClient;
use super::request::{Request, Sent};
use super::stall::Moving;
use super::RegistryError;
use crate::host::Reference;
use crate::Digest;

/// Bytes read of a blob at once.
const CHUNK_BYTES: usize = 256 << 10;

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// The repository had it.
    There,
    /// Another repository of the registry had it.
    Mounted,
    /// It was sent.
    Sent,
}

/// A blob of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blob<'a> {
    pub(crate) digest: Digest,
    pub(crate) path: &'a Path,
    pub(crate) length: u64,
    /// A repository of the same registry that may have it.
    pub(crate) from: Option<&'a str>,
}

fn request<'a>(reference: &'a Reference, path: String, what: &'a str) -> Request<'a> {
    Request {
        registry: reference.registry(),
        repository: reference.repository(),
        path,
        accept: &[],
        mounts: None,
        from: 0,
        what,
    }
}

impl RegistryClient {
    /// Puts a blob into `reference`'s repository, unless it is there. `progress` hears how many
    /// bytes have gone.
    pub(crate) async fn upload(
        &self,
        reference: &Reference,
        blob: Blob<'_>,
        progress: impl Fn(u64) + Send + Sync + Clone + 'static,
    ) -> Result<Uploaded, RegistryError> {
        let what = format!("blob {}", blob.digest);
        let head = request(reference, format!("blobs/{}", blob.digest), &what);
        let ask = Sent::empty(Method::HEAD);
        match self.again(|| self.exchange(&head, &ask)).await {
            Ok(_) => return Ok(Uploaded::There),
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.again(|| self.upload_once(reference, blob, &what, progress.clone()))
            .await
    }

    /// Begins an upload. Another repository's blob is a short cut: a registry, or who gives tokens for it,
    /// that refuses it may well take the blob itself.
    async fn begin(
        &self,
        reference: &Reference,
        blob: Blob<'_>,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let post = Sent::empty(Method::POST);
        let plain = request(reference, "blobs/uploads/".to_owned(), what);
        if let Some(from) = blob.from {
            let mount = Request {
                mounts: blob.from,
                path: format!("{}?mount={}&from={from}", plain.path, blob.digest),
                ..plain.clone()
            };
            match self.exchange(&mount, &post).await {
                Err(error) if error.is_answer() => {
                    tracing::debug!(from, error = %error, "a blob is not taken from there");
                    // It may be of the wrong repository.
                    self.forget_token(&mount);
                }
                other => return other,
            }
        }
        self.exchange(&plain, &post).await
    }

    async fn upload_once(
        &self,
        reference: &Reference,
        blob: Blob<'_>,
        what: &str,
        progress: impl Fn(u64) + Send + Sync + Clone + 'static,
    ) -> Result<Uploaded, RegistryError> {
        let started = self.begin(reference, blob, what).await?;
        let start = request(reference, "blobs/uploads/".to_owned(), what);
        if started.status() == StatusCode::CREATED {
            return Ok(Uploaded::Mounted);
        }
        let mut location = self.location(&start, &started)?;
        location
            .query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let moving = Moving::new(blob.length);
        let sent = Sent {
            method: Method::PUT,
            url: Some(location),
            headers: vec![
                (CONTENT_TYPE, "application/octet-stream".to_owned()),
                (CONTENT_LENGTH, blob.length.to_string()),
            ],
            body: Some(Box::new(file_body(blob.path, moving.clone(), progress))),
            moving: Some(moving),
        };
        self.exchange(&start, &sent).await?;
        Ok(Uploaded::Sent)
    }

    /// Where an upload goes on; a registry may leave its own address out.
    fn location(
        &self,
        request: &Request<'_>,
        response: &Response,
    ) -> Result<reqwest::Url, RegistryError> {
        let broken = |detail: &str| RegistryError::Protocol {
            registry: request.registry.to_owned(),
            what: request.what.to_owned(),
            detail: detail.to_owned(),
        };
        let header = response.headers().get(LOCATION);
        let text = header
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| broken("it names no place to upload to"))?;
        let location = response
            .url()
            .join(text)
            .map_err(|_| broken("the place to upload to is no URL"))?;
        if response.url().scheme() == "https" && location.scheme() != "https" {
            return Err(broken("the place to upload to is not HTTPS"));
        }
        Ok(location)
    }

    /// Puts a manifest under the reference's tag.
    pub(crate) async fn put_manifest(
        &self,
        reference: &Reference,
        content: &[u8],
        media_type: &str,
    ) -> Result<(), RegistryError> {
        let what = format!("image {reference}");
        let identifier = reference.identifier();
        let request = request(reference, format!("manifests/{identifier}"), &what);
        let content = content.to_vec();
        let sent = Sent {
            method: Method::PUT,
            url: None,
            headers: vec![(CONTENT_TYPE, media_type.to_owned())],
            body: Some(Box::new(move || Ok(Body::from(content.clone())))),
            moving: None,
        };
        self.again(|| self.exchange(&request, &sent))
            .await
            .map(drop)
    }
}

/// A body that is a file's content, made anew for each try.
fn file_body(
    path: &Path,
    moving: Moving,
    progress: impl Fn(u64) + Send + Sync + Clone + 'static,
) -> impl Fn() -> std::io::Result<Body> + Send + Sync {
    let path = path.to_owned();
    move || {
        let file = tokio::fs::File::from_std(std::fs::File::open(&path)?);
        let (progress, moving) = (progress.clone(), moving.clone());
        let mut total = 0;
        let chunks = tokio_util::io::ReaderStream::with_capacity(file, CHUNK_BYTES);
        let chunks = chunks.inspect_ok(move |chunk| {
            total += chunk.len() as u64;
            moving.taken(total);
            progress(total);
        });
        Ok(Body::wrap_stream(chunks))
    }
}
