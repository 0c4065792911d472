//! A stand-in for `containerd-shim-hull-v2` that runs the container's process on this host, without
//! a VM and without any isolation. For the engine's own tests, where neither KVM nor root is at
//! hand; it serves just enough of containerd's Task API for them.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::{create_task, Task};
use containerd_shim_protos::ttrpc::{self, r#async::TtrpcContext};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::sync::{watch, Notify};

type Rpc<T> = ttrpc::Result<T>;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).cloned()
    };
    match args.last().map(String::as_str) {
        Some("start") => start(),
        Some("serve") => serve(&after("-socket").expect("-socket")),
        Some("delete") => end_server(),
        _ => {}
    }
}

/// Starts the server in the background and prints its address.
#[expect(clippy::zombie_processes, reason = "this process ends before that one")]
fn start() {
    let socket = std::env::current_dir().expect("bundle").join("shim.sock");
    std::process::Command::new(std::env::current_exe().expect("own path"))
        .arg("-socket")
        .arg(&socket)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    println!(
        r#"{{"version":3,"address":"unix://{}","protocol":"ttrpc"}}"#,
        socket.display()
    );
}

/// Ends a server that is still there, also one that stands still.
fn end_server() {
    let socket = std::env::current_dir().expect("bundle").join("shim.sock");
    let Ok(peer) = std::os::unix::net::UnixStream::connect(socket) else {
        return;
    };
    let server = rustix::net::sockopt::socket_peercred(&peer).expect("peer");
    // Its processes end with it, as those of a VM do.
    let pid = server.pid.as_raw_nonzero();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let children: Vec<_> = threads
        .flatten()
        .flat_map(|thread| {
            let children = std::fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            let children = children.split(' ').filter_map(|pid| pid.parse().ok());
            children.filter_map(Pid::from_raw).collect::<Vec<_>>()
        })
        .collect();
    for pid in children.into_iter().chain([server.pid]) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[tokio::main]
async fn serve(socket: &str) {
    let shim = Arc::new(Shim::default());
    let mut server = ttrpc::asynchronous::Server::new()
        .bind(&format!("unix://{socket}"))
        .expect("bind")
        .register_service(create_task(Arc::clone(&shim) as Arc<_>));
    server.start().await.expect("serve");
    tokio::select! {
        () = shim.stop.notified() => {}
        () = gone(Path::new(socket)) => shim.kill_all(),
    }
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
}

/// A test's folder goes with it, also when it fails before its containers have ended.
async fn gone(socket: &Path) {
    while socket.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

#[derive(Default)]
struct Shim {
    slow_end: AtomicBool,
    processes: Mutex<HashMap<String, Process>>,
    stop: Notify,
}

struct Process {
    config: Value,
    stdin: String,
    stdout: String,
    stderr: String,
    pid: u32,
    exit: watch::Sender<Option<u32>>,
    close: Arc<Notify>,
}

/// Whether a test wants this of it.
fn has_env(process: &Process, wanted: &str) -> bool {
    let env = process.config["env"].as_array();
    env.is_some_and(|env| env.iter().any(|entry| entry == wanted))
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // A process that never started has none.
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process has got SIGSTOP, which stands for a freezer here.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

fn error(code: ttrpc::Code, text: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, text.into()))
}

impl Shim {
    fn kill_all(&self) {
        for process in self.processes.lock().expect("lock").values() {
            if process.exit.borrow().is_none() {
                send(process.pid, Signal::KILL);
            }
        }
    }

    fn add(&self, id: &str, config: Value, stdin: &str, stdout: &str, stderr: &str) {
        let process = Process {
            config,
            stdin: stdin.to_owned(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            pid: 0,
            exit: watch::Sender::new(None),
            close: Arc::default(),
        };
        self.processes
            .lock()
            .expect("lock")
            .insert(id.to_owned(), process);
    }

    fn spawn(&self, id: &str) -> Rpc<u32> {
        let mut processes = self.processes.lock().expect("lock");
        let process = processes
            .get_mut(id)
            .ok_or_else(|| error(ttrpc::Code::NOT_FOUND, "no such process"))?;
        let list = |key: &str| -> Vec<String> {
            let items = process.config[key].as_array().cloned().unwrap_or_default();
            items
                .iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        let args = list("args");
        let mut command = tokio::process::Command::new(&args[0]);
        command
            .args(&args[1..])
            .env_clear()
            .envs(list("env").iter().filter_map(|entry| entry.split_once('=')));
        let output = |path: &str| match path {
            "" => Stdio::null(),
            path => Stdio::from(open(path, false)),
        };
        command
            .stdout(output(&process.stdout))
            .stderr(output(&process.stderr));
        command.stdin(match process.stdin.as_str() {
            "" => Stdio::null(),
            _ => Stdio::piped(),
        });
        let mut child = command.spawn().map_err(|cause| {
            let text = match cause.kind() {
                std::io::ErrorKind::NotFound => "executable file not found in $PATH".to_owned(),
                std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                _ => cause.to_string(),
            };
            error(
                ttrpc::Code::NOT_FOUND,
                format!("exec: \"{}\": {text}", args[0]),
            )
        })?;
        process.pid = child.id().unwrap_or(0);
        if let Some(stdin) = child.stdin.take() {
            let fifo = open(&process.stdin, true);
            tokio::spawn(pass_input(fifo, stdin, Arc::clone(&process.close)));
        }
        let exit = process.exit.clone();
        tokio::spawn(async move {
            use std::os::unix::process::ExitStatusExt as _;
            let status = child.wait().await.expect("wait");
            let code = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            exit.send_replace(Some(u32::try_from(code).unwrap_or(255)));
        });
        Ok(process.pid)
    }

    fn with<T>(&self, id: &str, exec_id: &str, read: impl FnOnce(&Process) -> T) -> Rpc<T> {
        let key = if exec_id.is_empty() { id } else { exec_id };
        let processes = self.processes.lock().expect("lock");
        let process = processes
            .get(key)
            .ok_or_else(|| error(ttrpc::Code::NOT_FOUND, "no such process"))?;
        Ok(read(process))
    }
}

fn open(path: &str, read: bool) -> std::fs::File {
    std::fs::File::options()
        .read(read)
        .write(!read)
        .open(path)
        .expect("FIFO")
}

async fn pass_input(
    fifo: std::fs::File,
    mut stdin: tokio::process::ChildStdin,
    close: Arc<Notify>,
) {
    let mut fifo = tokio::fs::File::from_std(fifo);
    tokio::select! {
        _ = tokio::io::copy(&mut fifo, &mut stdin) => {}
        () = async {
            close.notified().await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        } => {}
    }
}

#[async_trait]
impl Task for Shim {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> Rpc<api::CreateTaskResponse> {
        let text =
            std::fs::read(Path::new(&request.bundle).join("config.json")).expect("config.json");
        let config: Value = serde_json::from_slice(&text).expect("JSON");
        let process = config["process"].clone();
        self.add(
            &request.id,
            process,
            &request.stdin,
            &request.stdout,
            &request.stderr,
        );
        Ok(api::CreateTaskResponse::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> Rpc<api::Empty> {
        let spec = request.spec.unwrap_or_default().value;
        let process = serde_json::from_slice(&spec).expect("JSON");
        self.add(
            &request.exec_id,
            process,
            &request.stdin,
            &request.stdout,
            &request.stderr,
        );
        Ok(api::Empty::new())
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> Rpc<api::StartResponse> {
        let key = if request.exec_id.is_empty() {
            &request.id
        } else {
            &request.exec_id
        };
        // Stands for the boot of a VM.
        if self.with(key, "", |p| has_env(p, "SLOW_START=1"))? {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        let pid = self.spawn(key)?;
        Ok(api::StartResponse {
            pid,
            ..api::StartResponse::new()
        })
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> Rpc<api::WaitResponse> {
        let mut exit = self.with(&request.id, &request.exec_id, |p| p.exit.subscribe())?;
        let code = exit
            .wait_for(Option::is_some)
            .await
            .expect("exit")
            .unwrap_or(255);
        Ok(api::WaitResponse {
            exit_status: code,
            ..api::WaitResponse::new()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Rpc<api::Empty> {
        let (pid, slow) = self.with(&request.id, &request.exec_id, |p| {
            (p.pid, has_env(p, "SLOW_KILL=1"))
        })?;
        let signal = i32::try_from(request.signal).expect("signal");
        let Some(signal) = Signal::from_named_raw(signal) else {
            return Ok(api::Empty::new());
        };
        if slow {
            // Also where nobody waits for it any more.
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                send(pid, signal);
            });
        } else {
            send(pid, signal);
        }
        Ok(api::Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> Rpc<api::Empty> {
        self.with(&request.id, &request.exec_id, |p| p.close.notify_one())?;
        Ok(api::Empty::new())
    }

    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> Rpc<api::StateResponse> {
        let ended = self.with(&request.id, "", |p| p.exit.borrow().is_some())?;
        let pid = self.with(&request.id, "", |p| p.pid)?;
        let status = match (ended, is_stopped(pid)) {
            (true, _) => api::Status::STOPPED,
            (false, true) => api::Status::PAUSED,
            (false, false) => api::Status::RUNNING,
        };
        Ok(api::StateResponse {
            status: status.into(),
            ..api::StateResponse::new()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> Rpc<api::Empty> {
        self.with(&request.id, "", |p| send(p.pid, Signal::STOP))?;
        Ok(api::Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> Rpc<api::Empty> {
        self.with(&request.id, "", |p| send(p.pid, Signal::CONT))?;
        Ok(api::Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> Rpc<api::PidsResponse> {
        let pid = self.with(&request.id, "", |p| p.pid)?;
        let process = api::ProcessInfo {
            pid,
            ..api::ProcessInfo::new()
        };
        Ok(api::PidsResponse {
            processes: vec![process],
            ..api::PidsResponse::new()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> Rpc<api::DeleteResponse> {
        let key = if request.exec_id.is_empty() {
            &request.id
        } else {
            &request.exec_id
        };
        let removed = self.processes.lock().expect("lock").remove(key);
        if removed.is_some_and(|process| has_env(&process, "SLOW_END=1")) {
            self.slow_end.store(true, Ordering::Relaxed);
        }
        Ok(api::DeleteResponse::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> Rpc<api::Empty> {
        // Stands for a VM that takes its time.
        if self.slow_end.load(Ordering::Relaxed) {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        }
        self.stop.notify_one();
        Ok(api::Empty::new())
    }
}
