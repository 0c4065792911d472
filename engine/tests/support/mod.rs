//! A daemon on temporary directories, with a stand-in for the shim, and a small HTTP client.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};
use tokio::net::UnixStream;

/// Whatever a test waits for comes within this time.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Directories of a daemon, which outlive it.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

/// A running daemon; it is killed with this value.
pub(crate) struct Daemon {
    socket: PathBuf,
    process: Child,
}

impl Home {
    /// Fresh directories.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root")).unwrap();
        // Ready-made: nothing mounts it, and mkfs need not be installed.
        std::fs::write(dir.path().join("root/scratch-template.ext4"), [0; 4096]).unwrap();
        let unpack = dir.path().join("unpack");
        std::fs::write(
            &unpack,
            "#!/bin/sh\ncat >/dev/null\necho \
             '{\"image_length\":4096,\"files\":1,\"layers\":[{\"data\":0,\"index\":4096}]}'\n",
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&unpack, mode).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A daemon on these directories.
    pub(crate) async fn start(&self) -> Daemon {
        let process = Command::new(env!("CARGO_BIN_EXE_hulld"))
            .arg("--root")
            .arg(self.path().join("root"))
            .arg("--exec-root")
            .arg(self.path().join("run"))
            .arg("--shim")
            .arg(shim_program())
            .arg("--unpack")
            .arg(self.path().join("unpack"))
            .spawn()
            .unwrap();
        let socket = self.path().join("run/hull.sock");
        let daemon = Daemon { socket, process };
        for _ in 0..400 {
            if UnixStream::connect(&daemon.socket).await.is_ok() {
                return daemon;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the daemon does not listen");
    }

    /// A daemon with the image `box:latest`.
    pub(crate) async fn start_with_image(&self) -> Daemon {
        let daemon = self.start().await;
        let (status, _) = daemon
            .send(Method::POST, "/images/load", image_archive())
            .await;
        assert_eq!(status, 200);
        daemon
    }
}

fn shim_program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let shim = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/process-shim");
    assert!(
        shim.exists(),
        "{shim:?} is missing: run `cargo build -p hull-engine --examples`"
    );
    shim
}

impl Daemon {
    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Ends the daemon.
    pub(crate) fn kill(mut self, signal: Signal) {
        self.signal(signal);
        self.process.wait().unwrap();
    }

    /// The API's socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: bool,
    ) -> Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x")
            .header("content-type", "application/json");
        if upgrade {
            request = request
                .header("connection", "Upgrade")
                .header("upgrade", "tcp");
        }
        sender
            .send_request(request.body(Full::new(body)).unwrap())
            .await
            .unwrap()
    }

    /// The answer once its head is here.
    pub(crate) async fn open(&self, method: Method, path: &str) -> Response<Incoming> {
        self.exchange(method, path, Bytes::new(), false).await
    }

    /// Status and body.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Bytes) {
        let response = self.exchange(method, path, body.into(), false).await;
        let status = response.status().as_u16();
        (status, body_of(response).await)
    }

    /// Status and JSON of a POST.
    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, bytes) = self.send(Method::POST, path, body).await;
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// JSON of a GET.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (_, bytes) = self.send(Method::GET, path, "").await;
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Makes a container of `box`, and returns its id.
    pub(crate) async fn create(&self, name: &str, argv: &[&str], more: Value) -> String {
        let mut body = json!({ "Image": "box", "Cmd": argv });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        // These tests need no root, and no network of the host.
        if body["HostConfig"]["NetworkMode"].is_null() {
            body["HostConfig"]["NetworkMode"] = json!("none");
        }
        let (status, answer) = self
            .post(&format!("/containers/create?name={name}"), body)
            .await;
        assert_eq!(status, 201, "{answer}");
        answer["Id"].as_str().unwrap().to_owned()
    }

    /// Starts a container.
    pub(crate) async fn start(&self, id: &str) {
        let (status, answer) = self
            .post(&format!("/containers/{id}/start"), Value::Null)
            .await;
        assert_eq!(status, 204, "{answer}");
    }

    /// Turns a connection into the streams of a process.
    pub(crate) async fn hijack(&self, path: &str, body: Value) -> TokioIo<Upgraded> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let response = self.exchange(Method::POST, path, body.into(), true).await;
        assert_eq!(response.status().as_u16(), 101);
        TokioIo::new(hyper::upgrade::on(response).await.unwrap())
    }

    /// Waits until a field of a container has a value.
    pub(crate) async fn until(&self, id: &str, pointer: &str, want: Value) -> Value {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let inspect = self.get(&format!("/containers/{id}/json")).await;
            if inspect.pointer(pointer) == Some(&want) {
                return inspect;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{pointer} in {inspect}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A whole body.
pub(crate) async fn body_of(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Standard output and standard error out of multiplexed frames.
pub(crate) fn demultiplex(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let [stream, 0, 0, 0, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let to = if *stream == 2 { &mut err } else { &mut out };
        to.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    assert_eq!(bytes, b"", "a frame is cut short");
    (out, err)
}

/// A `docker save` archive of an image with one empty layer.
pub(crate) fn image_archive() -> Vec<u8> {
    let layer = vec![0; 1024];
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "A=1"] },
        "rootfs": { "type": "layers", "diff_ids": [hull_image::DiffId::of(&layer).to_string()] },
    })
    .to_string()
    .into_bytes();
    let name = format!("{}.json", hull_image::Digest::of(&config).hex());
    let manifest = json!([{ "Config": name, "RepoTags": ["box:latest"], "Layers": ["layer.tar"] }]);
    let mut archive = Vec::new();
    let manifest = manifest.to_string().into_bytes();
    for (name, data) in [
        ("manifest.json", &manifest),
        (&name, &config),
        ("layer.tar", &layer),
    ] {
        archive.extend(tar_header(name, data.len()));
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn tar_header(name: &str, length: usize) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{length:011o}").as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
