//! A call of a plugin: a JSON object to a method, and one back.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout, Instant};

use super::Address;
use crate::error::chain;

const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 4 << 20;
/// Longest error text that is passed on, in characters.
const MAX_ERROR: usize = 2000;
/// How long a plugin may work, such as on a mount over a network.
const WORK_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take where somebody only looks.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// How long one that is being started may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// How long is waited for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It is only looked at.
    None,
    /// Something is to be done: it may take its time, and it may just be starting.
    Work,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody answers there.
    #[error("{method}: plugin \"{plugin}\" does not answer at {at}")]
    Unreachable {
        method: &'static str,
        plugin: String,
        at: String,
        source: std::io::Error,
    },
    /// It took too long.
    #[error("{method}: plugin \"{plugin}\" gave no answer within {} s", limit.as_secs())]
    TimedOut {
        method: &'static str,
        plugin: String,
        limit: Duration,
    },
    /// It answered nonsense.
    #[error("{method}: plugin \"{plugin}\" gave an answer that is none: {why}")]
    Garbled {
        method: &'static str,
        plugin: String,
        why: String,
    },
    /// It does not have this method.
    #[error("plugin \"{plugin}\" does not support {method}")]
    NoSuchMethod {
        method: &'static str,
        plugin: String,
    },
    /// It refused.
    #[error("{method}: {text}")]
    Refused {
        method: &'static str,
        /// The plugin's own words.
        text: String,
    },
}

impl CallError {
    /// The plugin may never have heard of it.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}

/// A call that is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) plugin: &'a str,
    pub(super) address: &'a Address,
    pub(super) method: &'static str,
    pub(super) patience: Patience,
}

/// In every answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    err: Option<String>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Call<'_> {
    /// Makes the call.
    pub(super) async fn send<T: DeserializeOwned>(
        self,
        request: Option<&impl Serialize>,
    ) -> Result<T, CallError> {
        let body = match request {
            None => Vec::new(),
            Some(request) => serde_json::to_vec(request).map_err(|error| self.garbled(&error))?,
        };
        let limit = match self.patience {
            Patience::None => LOOK_LIMIT,
            Patience::Work => WORK_LIMIT,
        };
        let answered = timeout(limit, self.exchange(body)).await;
        let (status, answer) = answered.map_err(|_| CallError::TimedOut {
            method: self.method,
            plugin: self.plugin.to_owned(),
            limit,
        })??;
        self.read(status, &answer)
    }

    fn read<T: DeserializeOwned>(self, status: StatusCode, answer: &[u8]) -> Result<T, CallError> {
        let failure = serde_json::from_slice::<Failure>(answer);
        let text = failure.ok().and_then(|failure| failure.err);
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            return Err(self.refused(&text));
        }
        match status {
            StatusCode::OK => serde_json::from_slice(answer).map_err(|error| self.garbled(&error)),
            StatusCode::NOT_FOUND => Err(CallError::NoSuchMethod {
                method: self.method,
                plugin: self.plugin.to_owned(),
            }),
            status => {
                let said = String::from_utf8_lossy(answer);
                Err(self.refused(&format!("{status} {}", said.trim())))
            }
        }
    }

    fn refused(self, text: &str) -> CallError {
        CallError::Refused {
            method: self.method,
            text: text.chars().take(MAX_ERROR).collect(),
        }
    }

    pub(super) fn garbled(self, why: &dyn std::fmt::Display) -> CallError {
        CallError::Garbled {
            method: self.method,
            plugin: self.plugin.to_owned(),
            why: why.to_string(),
        }
    }

    async fn exchange(self, body: Vec<u8>) -> Result<(StatusCode, Bytes), CallError> {
        let stream = self.connect().await?;
        let broken = |error: &hyper::Error| self.garbled(&chain(error));
        let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(|error| broken(&error))?;
        let request = Request::post(format!("/{}", self.method))
            .header(HOST, "plugin")
            .header(ACCEPT, MEDIA_TYPE)
            .header(CONTENT_TYPE, MEDIA_TYPE)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.garbled(&error))?;
        let exchanged = async {
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| broken(&error))?;
            let status = response.status();
            let answer = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            let answer = answer.map_err(|error| self.garbled(&error))?;
            Ok((status, answer.to_bytes()))
        };
        // The connection does the work, and ends by itself or with this call.
        tokio::pin!(exchanged);
        tokio::select! {
            biased;
            done = &mut exchanged => done,
            ended = connection => match ended {
                Ok(()) => exchanged.await,
                Err(error) => Err(broken(&error)),
            },
        }
    }

    /// A socket may be there some time before its plugin listens.
    async fn connect(self) -> Result<Box<dyn Stream>, CallError> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match self.try_connect().await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if self.patience == Patience::None || LISTEN_LIMIT < begun.elapsed() + pause {
                return Err(CallError::Unreachable {
                    method: self.method,
                    plugin: self.plugin.to_owned(),
                    at: self.address.to_string(),
                    source: error,
                });
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn try_connect(self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(at) => Box::new(TcpStream::connect(at).await?),
        })
    }
}
