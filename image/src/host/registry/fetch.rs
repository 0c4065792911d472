//! Manifests and blobs: bounded, verified, resumed.

use std::io;

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Response, StatusCode};

use super::client::RegistryClient;
use super::request::Request;
use super::RegistryError;
use crate::host::manifest::{ACCEPT, MAX_DOCUMENT};
use crate::host::Reference;
use crate::Digest;

/// A manifest or index as a registry gave it.
#[derive(Debug)]
pub(crate) struct FetchedManifest {
    pub(crate) content: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

/// Where a blob's bytes go. Errors end the download.
pub(crate) trait BlobSink: Send {
    /// Bytes that are there already; the next ones follow them.
    fn position(&self) -> u64;
    /// Takes the next bytes.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;
    /// Forgets everything: the registry can't resume.
    fn restart(&mut self) -> io::Result<()>;
}

/// Why a blob did not arrive.
#[derive(Debug)]
pub(crate) enum FetchError {
    Registry(RegistryError),
    Sink(io::Error),
}

impl From<RegistryError> for FetchError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl RegistryClient {
    /// The index or manifest that `identifier` (a tag or a digest) names in `reference`'s
    /// repository. With a digest, the content is verified.
    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
        identifier: &str,
    ) -> Result<FetchedManifest, RegistryError> {
        let what = format!("image {reference}");
        let request = Request {
            registry: reference.registry(),
            repository: reference.repository(),
            path: format!("manifests/{identifier}"),
            accept: &ACCEPT,
            mounts: None,
            from: 0,
            what: &what,
        };
        let mut attempt = 1;
        let (content, media_type) = loop {
            let response = self.get(&request).await?;
            let media_type = media_type(&response);
            match read_document(&request, response).await {
                Ok(content) => break (content, media_type),
                Err(failure) => {
                    let Some(pause) = self.pause_after(&failure, attempt) else {
                        return Err(failure);
                    };
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
            }
        };
        let digest = Digest::of(&content);
        match identifier.parse::<Digest>() {
            Ok(want) if want != digest => Err(RegistryError::DigestMismatch {
                registry: reference.registry().to_owned(),
                what,
                want: want.to_string(),
                found: digest.to_string(),
            }),
            _ => Ok(FetchedManifest {
                content,
                media_type,
            }),
        }
    }

    /// Fetches the rest of a blob of `size` bytes into `sink`, through any number of broken
    /// connections as long as each brings something. Does not compare the digest.
    pub(crate) async fn blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        sink: &mut dyn BlobSink,
    ) -> Result<(), FetchError> {
        let what = format!("blob {digest} of {reference}");
        let mut attempt = 1;
        while sink.position() < size || size == 0 {
            let before = sink.position();
            let request = Request {
                registry: reference.registry(),
                repository: reference.repository(),
                path: format!("blobs/{digest}"),
                accept: &[],
                mounts: None,
                from: before,
                what: &what,
            };
            let response = self.get(&request).await?;
            let outcome = receive(&request, response, size, sink).await;
            let failure = match outcome {
                Ok(()) => return Ok(()),
                Err(FetchError::Registry(failure)) => failure,
                Err(other) => return Err(other),
            };
            if sink.position() > before {
                attempt = 1;
            }
            let Some(pause) = self.pause_after(&failure, attempt) else {
                return Err(failure.into());
            };
            tracing::debug!(%digest, position = sink.position(), error = %failure, "resuming");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
        Ok(())
    }
}

fn media_type(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim().to_owned())
}

fn content_length(response: &Response) -> Option<u64> {
    response
        .headers()
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

pub(super) async fn read_document(
    request: &Request<'_>,
    mut response: Response,
) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        registry: request.registry.to_owned(),
        what: format!("the manifest of {}", request.what),
        limit: MAX_DOCUMENT,
    };
    let want = content_length(&response);
    if want.is_some_and(|length| length > MAX_DOCUMENT) {
        return Err(too_large());
    }
    let mut content = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => content.extend_from_slice(&chunk),
            Ok(None) => return Ok(content),
            Err(_) => return Err(truncated(request, content.len() as u64, want.unwrap_or(0))),
        }
        if content.len() as u64 > MAX_DOCUMENT {
            return Err(too_large());
        }
    }
}

fn truncated(request: &Request<'_>, got: u64, want: u64) -> RegistryError {
    RegistryError::Truncated {
        registry: request.registry.to_owned(),
        what: request.what.to_owned(),
        got,
        want,
    }
}

/// Copies one response to the sink.
async fn receive(
    request: &Request<'_>,
    mut response: Response,
    size: u64,
    sink: &mut dyn BlobSink,
) -> Result<(), FetchError> {
    if request.from > 0 && !resumes_at(&response, request.from) {
        // The whole blob again: the registry does not do ranges.
        sink.restart().map_err(FetchError::Sink)?;
    }
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "connection lost");
                break;
            }
        };
        if sink.position().saturating_add(chunk.len() as u64) > size {
            return Err(FetchError::Registry(RegistryError::TooLarge {
                registry: request.registry.to_owned(),
                what: request.what.to_owned(),
                limit: size,
            }));
        }
        sink.write(&chunk).map_err(FetchError::Sink)?;
    }
    if sink.position() == size {
        return Ok(());
    }
    Err(FetchError::Registry(truncated(
        request,
        sink.position(),
        size,
    )))
}

fn resumes_at(response: &Response, from: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range
            .and_then(|range| range.strip_prefix("bytes "))
            .is_some_and(|range| {
                range
                    .split('-')
                    .next()
                    .and_then(|start| start.trim().parse::<u64>().ok())
                    == Some(from)
            })
}
