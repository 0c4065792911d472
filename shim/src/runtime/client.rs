//! The client side of a shim: starting it, and containerd's Task API.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use containerd_shim_protos::ttrpc::asynchronous::transport::Socket;
use containerd_shim_protos::ttrpc::{self, context, Code};
use tokio::net::UnixStream;

use hull_protocol::agent::ProcessInfo;
use hull_protocol::sandbox::{ProcessesRequest, VmRequest};
use hull_protocol::sandbox_ttrpc::SandboxClient;

use super::error::{io_error, Result, RuntimeError};
use crate::spec::RootfsMount;
use crate::task::address;

/// The shim's program; it lies beside this one.
const SHIM: &str = "containerd-shim-hull-v2";
/// Names another program.
const SHIM_ENV: &str = "HULL_SHIM";
/// Longest time for a call that boots a VM, or waits for hooks without a limit of their own.
const CREATE_LIMIT: Duration = Duration::from_secs(600);
/// Longest time for any other call.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Between two tries to reach a shim that is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Longest time for a call that a dying shim need not answer.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Longest time for a shim to say what it knows without its guest.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// runc's word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// Where a process's streams are.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams {
    /// The value of all three stream fields.
    pub(super) address: String,
    pub(super) terminal: bool,
}

/// Which shim is meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShimName<'a> {
    pub(super) namespace: &'a str,
    pub(super) sandbox_id: &'a str,
    /// A directory for its log.
    pub(super) directory: &'a Path,
    pub(super) debug: bool,
}

impl ShimName<'_> {
    /// Starts the shim; returns its address.
    pub(super) fn start(&self) -> Result<String> {
        let output = self.run("start")?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if text.is_empty() {
            return Err(RuntimeError::Shim(format!("{SHIM} printed no address")));
        }
        Ok(text)
    }

    /// The address that it has.
    pub(super) fn address(&self, exec_root: &Path) -> String {
        address_of(exec_root, self.namespace, self.sandbox_id)
    }

    /// Removes what a dead shim left.
    pub(super) fn delete(&self) -> Result<()> {
        self.run("delete").map(|_| ())
    }

    fn run(&self, action: &str) -> Result<Output> {
        let program = program()?;
        let mut command = Command::new(&program);
        command
            .args(["-namespace", self.namespace, "-id", self.sandbox_id])
            .arg("-bundle")
            .arg(self.directory);
        if self.debug {
            command.arg("-debug");
        }
        let output = command
            .arg(action)
            .env_remove("TTRPC_ADDRESS")
            .stdin(Stdio::null())
            .output()
            .map_err(io_error("run", &program))?;
        if output.status.success() {
            return Ok(output);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let text = text.trim();
        Err(RuntimeError::Shim(match text.is_empty() {
            true => format!("{SHIM} {action}: {}", output.status),
            false => text.to_owned(),
        }))
    }
}

/// The address of the shim of a sandbox.
pub(super) fn address_of(exec_root: &Path, namespace: &str, sandbox_id: &str) -> String {
    let socket = address::socket_path(exec_root, namespace, sandbox_id);
    format!("unix://{}", socket.display())
}

fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(SHIM_ENV).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().map_err(io_error("find", "this program"))?;
    Ok(own.with_file_name(SHIM))
}

/// Connects to a shim's socket. `None`: nobody listens there. One that has more callers than it
/// can take at once is waited for.
async fn reach(socket: &Path) -> Option<UnixStream> {
    let until = Instant::now() + CALL_LIMIT;
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Some(stream),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return None,
            Err(_) if until < Instant::now() => return None,
            Err(_busy) => tokio::time::sleep(BUSY_PAUSE).await,
        }
    }
}

/// A connection to the shim of one container.
pub(super) struct Task {
    id: String,
    client: TaskClient,
    sandbox: SandboxClient,
}

impl Task {
    /// `None`: the shim is gone.
    pub(super) async fn connect(id: &str, address: &str) -> Option<Self> {
        let stream = reach(Path::new(address.strip_prefix("unix://")?)).await?;
        let client = Client::new(Socket::from(stream));
        Some(Self {
            id: id.to_owned(),
            client: TaskClient::new(client.clone()),
            sandbox: SandboxClient::new(client),
        })
    }

    /// PID of the shim.
    pub(super) async fn shim_pid(&self) -> Result<u32> {
        let request = api::ConnectRequest {
            id: self.id.clone(),
            ..api::ConnectRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.client.connect(context, &request).await;
        reply.map(|reply| reply.shim_pid).map_err(plain_error)
    }

    /// Boots the VM and makes the container in it. Returns the PID on the host.
    pub(super) async fn create(
        &self,
        bundle: &Path,
        rootfs: &[RootfsMount],
        streams: &Streams,
    ) -> Result<u32> {
        let rootfs = rootfs.iter().map(|mount| api::Mount {
            type_: mount.kind.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
            ..api::Mount::default()
        });
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            rootfs: rootfs.collect(),
            terminal: streams.terminal,
            stdin: streams.address.clone(),
            stdout: streams.address.clone(),
            stderr: streams.address.clone(),
            ..api::CreateTaskRequest::default()
        };
        let context = context::with_duration(CREATE_LIMIT);
        let reply = self.client.create(context, &request).await;
        reply.map(|reply| reply.pid).map_err(process_error)
    }

    /// Starts the init process (empty `exec_id`) or an exec. Returns the PID on the host.
    pub(super) async fn start(&self, exec_id: &str) -> Result<u32> {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..api::StartRequest::default()
        };
        let context = context::with_duration(CREATE_LIMIT);
        let reply = self.client.start(context, &request).await;
        reply.map(|reply| reply.pid).map_err(process_error)
    }

    /// Registers an exec; `process` is JSON.
    pub(super) async fn exec(
        &self,
        exec_id: &str,
        process: Vec<u8>,
        streams: &Streams,
    ) -> Result<()> {
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            terminal: streams.terminal,
            stdin: streams.address.clone(),
            stdout: streams.address.clone(),
            stderr: streams.address.clone(),
            spec: Some(Any {
                type_url: PROCESS_TYPE.to_owned(),
                value: process,
                ..Any::default()
            })
            .into(),
            ..api::ExecProcessRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.client.exec(context, &request).await;
        reply.map(|_| ()).map_err(plain_error)
    }

    /// Waits until a process has ended. `None`: the shim ended first.
    pub(super) async fn wait(&self, exec_id: &str) -> Option<u32> {
        let request = api::WaitRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..api::WaitRequest::default()
        };
        let reply = self.client.wait(context::Context::default(), &request);
        reply.await.ok().map(|reply| reply.exit_status)
    }

    /// Sends a signal.
    pub(super) async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..api::KillRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        match self.client.kill(context, &request).await {
            Ok(_) => Ok(()),
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::NOT_FOUND => {
                Err(RuntimeError::NotRunning)
            }
            Err(error) => Err(plain_error(error)),
        }
    }

    /// Frees an ended process; for the init process (empty `exec_id`), the container.
    pub(super) async fn delete(&self, exec_id: &str) -> Result<()> {
        let request = api::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..api::DeleteRequest::default()
        };
        let context = context::with_duration(CREATE_LIMIT);
        match self.client.delete(context, &request).await {
            Ok(_) => Ok(()),
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::NOT_FOUND => {
                Err(RuntimeError::NotFound)
            }
            Err(error) => Err(plain_error(error)),
        }
    }

    /// Ends the shim: with all that it has, or only if it has no container. A lost connection is
    /// what success looks like.
    pub(super) async fn shutdown(&self, with_all: bool) {
        let request = api::ShutdownRequest {
            id: self.id.clone(),
            now: with_all,
            ..api::ShutdownRequest::default()
        };
        let _ = self
            .client
            .shutdown(context::with_duration(END_LIMIT), &request)
            .await;
    }

    /// Sets the size of a terminal, in characters.
    pub(super) async fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            width,
            height,
            ..api::ResizePtyRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.client.resize_pty(context, &request).await;
        reply.map(|_| ()).map_err(plain_error)
    }

    /// Freezes all processes.
    pub(super) async fn pause(&self) -> Result<()> {
        let request = api::PauseRequest {
            id: self.id.clone(),
            ..api::PauseRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.client.pause(context, &request).await;
        reply.map(|_| ()).map_err(plain_error)
    }

    /// Lets them go on.
    pub(super) async fn resume(&self) -> Result<()> {
        let request = api::ResumeRequest {
            id: self.id.clone(),
            ..api::ResumeRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.client.resume(context, &request).await;
        reply.map(|_| ()).map_err(plain_error)
    }

    /// PIDs on the host of what stands for the container's processes.
    pub(super) async fn pids(&self) -> Result<Vec<u32>> {
        let request = api::PidsRequest {
            id: self.id.clone(),
            ..api::PidsRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.client.pids(context, &request).await;
        let reply = reply.map_err(plain_error)?;
        Ok(reply.processes.iter().map(|process| process.pid).collect())
    }

    /// All processes, as the guest knows them.
    pub(super) async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let request = ProcessesRequest {
            container_id: self.id.clone(),
            ..ProcessesRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.sandbox.processes(context, &request).await;
        reply.map(|reply| reply.processes).map_err(plain_error)
    }

    /// Whether the shim has a VM, with some container.
    pub(super) async fn vm_lives(&self) -> bool {
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.sandbox.vm(context, &VmRequest::default()).await;
        reply.is_ok()
    }

    /// Changes limits; `resources` is JSON.
    pub(super) async fn update(&self, resources: Vec<u8>) -> Result<()> {
        let request = api::UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(Any {
                value: resources,
                ..Any::default()
            })
            .into(),
            ..api::UpdateTaskRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.client.update(context, &request).await;
        reply.map(|_| ()).map_err(plain_error)
    }

    /// Figures.
    pub(super) async fn stats(&self) -> Result<Metrics> {
        let request = api::StatsRequest {
            id: self.id.clone(),
            ..api::StatsRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.client.stats(context, &request).await;
        let any = reply.map_err(plain_error)?.stats.unwrap_or_default();
        Metrics::parse_from_bytes(&any.value)
            .map_err(|error| RuntimeError::Shim(format!("figures: {error}")))
    }

    /// What the container does; stopped where the shim does not know it any more. `None`: the shim stands
    /// still, since it knows that by itself.
    pub(super) async fn status(&self) -> Option<Status> {
        let request = api::StateRequest {
            id: self.id.clone(),
            ..api::StateRequest::default()
        };
        let reply = self
            .client
            .state(context::with_duration(END_LIMIT), &request);
        let reply = tokio::time::timeout(ANSWER_LIMIT, reply).await.ok()?;
        Some(match reply.map(|reply| reply.status.enum_value()) {
            Ok(Ok(api::Status::CREATED)) => Status::Created,
            Ok(Ok(api::Status::RUNNING)) => Status::Running,
            Ok(Ok(api::Status::PAUSED | api::Status::PAUSING)) => Status::Paused,
            _ => Status::Stopped,
        })
    }
}

fn message(error: ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message,
        other => other.to_string(),
    }
}

fn plain_error(error: ttrpc::Error) -> RuntimeError {
    RuntimeError::Shim(message(error))
}

fn process_error(error: ttrpc::Error) -> RuntimeError {
    RuntimeError::Process(message(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_shim_is_waited_for_and_a_missing_one_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shim.sock");
        assert!(reach(&path).await.is_none());
        let kind = rustix::net::SocketType::STREAM;
        let listener = rustix::net::socket(rustix::net::AddressFamily::UNIX, kind, None).unwrap();
        let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        assert!(reach(&path).await.is_none());
        rustix::net::listen(&listener, 0).unwrap();
        let first = reach(&path).await.unwrap();
        let accept = std::thread::spawn(move || {
            std::thread::sleep(BUSY_PAUSE * 3);
            (rustix::net::accept(&listener).unwrap(), listener)
        });
        assert!(reach(&path).await.is_some());
        drop((accept.join(), first));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shim_that_stands_still_has_no_status() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shim.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let address = format!("unix://{}", path.display());
        let task = Task::connect("c1", &address).await.unwrap();
        assert_eq!(task.status().await, None);
    }
}
