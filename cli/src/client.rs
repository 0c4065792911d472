//! The connection to the engine: where it listens, and starting one where none does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bollard::errors::Error as ApiError;
use bollard::{BollardRequest, ClientVersion, Docker};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::attach::Attached;
use crate::endpoint::{Endpoint, OWN_SOCKET};
use crate::error::{CliError, Result};
use crate::transport::{Stream, Transport};

const API: &ClientVersion = &ClientVersion {
    major_version: 1,
    minor_version: 50,
};
/// Longest that a started engine may take until it listens. It makes its disk template first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Exit status of a hulld that found another one on its state directory.
const ENGINE_EXISTS: i32 = 3;
/// No request has a limit of its own: `wait` and `attach` last as long as the container.
const NO_LIMIT_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// A connected client.
pub(crate) struct Client {
    /// The API by its typed calls.
    pub(crate) api: Docker,
    transport: Transport,
    /// It is the engine that Hull starts by itself.
    own: bool,
}

impl Client {
    /// Where the engine is, as docker names it.
    pub(crate) fn host(&self) -> String {
        self.transport.name()
    }

    /// Connects to an engine; this machine's own is started if it does not run.
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Self> {
        let transport = Transport::new(endpoint)?;
        if let Err(source) = transport.open().await {
            use std::io::ErrorKind::{ConnectionRefused, NotFound};
            let absent = matches!(source.kind(), NotFound | ConnectionRefused);
            if *endpoint != Endpoint::Own || !absent {
                return Err(CliError::Unreachable {
                    host: transport.name(),
                    source,
                });
            }
            start_engine(Path::new(OWN_SOCKET)).await?;
        }
        let api = Docker::connect_with_custom_transport(
            typed_calls(transport.clone()),
            Some("http://hull"),
            NO_LIMIT_SECONDS,
            API,
        )?;
        Ok(Self {
            api,
            transport,
            own: *endpoint == Endpoint::Own,
        })
    }

    /// An error unless the engine is Hull's: the environment and contexts are docker's, too, and name
    /// engines whose containers have no VM.
    pub(crate) async fn expect_hull(&self) -> Result<()> {
        if self.own {
            return Ok(());
        }
        let answer = self.send(Method::GET, "/_ping", empty()).await?;
        let server = answer.headers().get(hyper::header::SERVER);
        let server = server.map_or("", |value| value.to_str().unwrap_or_default());
        match server.starts_with("Hull/") {
            true => Ok(()),
            false => Err(CliError::NotHull {
                host: self.transport.name(),
            }),
        }
    }

    /// A connection to which nothing was said yet.
    pub(crate) async fn open(&self) -> Result<Box<dyn Stream>> {
        self.transport.open().await.map_err(broken)
    }

    /// GETs a path of the API and returns its JSON as it came.
    pub(crate) async fn get_json(&self, path: &str) -> Result<serde_json::Value> {
        read_json(self.send(Method::GET, path, empty()).await?).await
    }

    /// Sends a request; the answer is there once its head is. A refusal is an error.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
    ) -> Result<Response<Incoming>> {
        self.exchange(method, path, body, false, None).await
    }

    /// As [`Client::send`], with credentials for a registry.
    pub(crate) async fn send_with_auth(
        &self,
        method: Method,
        path: &str,
        auth: Option<String>,
    ) -> Result<Response<Incoming>> {
        self.exchange(method, path, empty(), false, auth).await
    }

    /// Sends a request after which the connection carries the streams of a process.
    pub(crate) async fn hijack(&self, path: &str, body: RequestBody) -> Result<Attached> {
        let response = self.exchange(Method::POST, path, body, true, None).await?;
        let multiplexed = is_multiplexed(&response);
        let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
        Ok(Attached::new(upgraded, multiplexed))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
        upgrade: bool,
        auth: Option<String>,
    ) -> Result<Response<Incoming>> {
        let stream = self.transport.open().await.map_err(broken)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "hull")
            .header("content-type", "application/json");
        if let Some(auth) = auth {
            request = request.header("x-registry-auth", auth);
        }
        if upgrade {
            request = request
                .header("connection", "Upgrade")
                .header("upgrade", "tcp");
        }
        let request = request.body(body).map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        if status < 400 {
            return Ok(response);
        }
        let answer = read_json(response).await.unwrap_or_default();
        let message = answer["message"]
            .as_str()
            .unwrap_or("no message")
            .to_owned();
        Err(CliError::Engine { status, message })
    }
}

/// What sends the requests of bollard's typed calls.
fn typed_calls(
    transport: Transport,
) -> impl Fn(BollardRequest) -> BoxFuture<'static, Result<Response<Incoming>, ApiError>> + Send + Sync
{
    move |request: BollardRequest| {
        let transport = transport.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            // To a server its own path alone is said.
            if let Some(path) = parts.uri.path_and_query() {
                parts.uri = path.as_str().parse().map_err(http)?;
            }
            parts
                .headers
                .insert("host", HeaderValue::from_static("hull"));
            let stream = transport.open().await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection.with_upgrades());
            Ok(sender
                .send_request(Request::from_parts(parts, body))
                .await?)
        })
    }
}

fn http(error: impl std::fmt::Display) -> ApiError {
    std::io::Error::other(error.to_string()).into()
}

/// A request's body.
pub(crate) type RequestBody = BoxBody<Bytes, std::io::Error>;

/// No body.
pub(crate) fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A JSON body.
pub(crate) fn json_body(value: &serde_json::Value) -> RequestBody {
    Full::from(value.to_string())
        .map_err(|never| match never {})
        .boxed()
}

/// Whether an answer's output is cut into frames of stdout and stderr.
pub(crate) fn is_multiplexed(response: &Response<Incoming>) -> bool {
    let kind = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    kind != Some("application/vnd.docker.raw-stream")
}

/// Reads an answer to its end.
pub(crate) async fn read_json(response: Response<Incoming>) -> Result<serde_json::Value> {
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(broken)?
        .to_bytes();
    if body.is_empty() {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_slice(&body).map_err(broken)
}

/// Percent-encodes a query's value or a path's part.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

pub(crate) fn broken(error: impl std::fmt::Display) -> CliError {
    CliError::Connection(error.to_string())
}

/// Starts `hulld` in the background and waits until it listens.
async fn start_engine(socket: &Path) -> Result<()> {
    let run = socket.parent().unwrap_or(Path::new("/run/hull"));
    let log = run.join("hulld.log");
    let failed = |message: String| CliError::EngineStart {
        message,
        log: log.display().to_string(),
    };
    std::fs::create_dir_all(run)
        .map_err(|e| failed(format!("cannot make {}: {e}", run.display())))?;
    let output = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|e| failed(e.to_string()))?;
    let errors = output.try_clone().map_err(|e| failed(e.to_string()))?;
    let mut engine = Command::new(engine_program())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // Ctrl-C of this command must not reach it.
        .arg("--own-session")
        .spawn()
        .map_err(|e| failed(format!("cannot run hulld: {e}")))?;
    let deadline = Instant::now() + START_LIMIT;
    while UnixStream::connect(socket).await.is_err() {
        if let Ok(Some(status)) = engine.try_wait() {
            // Another command was faster: its engine is waited for.
            if status.code() != Some(ENGINE_EXISTS) {
                let line = last_line(&log);
                return Err(failed(
                    line.unwrap_or_else(|| format!("hulld ended with {status}")),
                ));
            }
        }
        if Instant::now() > deadline {
            return Err(failed(format!(
                "hulld does not listen after {START_LIMIT:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// `hulld` beside this program, else the one on PATH.
fn engine_program() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join("hulld")))
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("hulld"))
}

fn last_line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .map(str::to_owned)
}
