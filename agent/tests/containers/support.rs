//! The agent under test, and a client of it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hull_protocol::agent::{
    rootfs, BlockRootfs, CreateContainerRequest, ExecProcessRequest, FilesJob, InlineFile,
    ProcessRef, Rootfs, SharedDirectory, SignalProcessRequest, Stdio,
};
use hull_protocol::agent_ttrpc::AgentClient;
use serde_json::{json, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_vsock::{VsockAddr, VsockStream, VMADDR_CID_LOCAL};
use ttrpc::context::with_timeout;

pub(crate) static NEXT: AtomicU64 = AtomicU64::new(1);

pub(crate) fn unique() -> u64 {
    (u64::from(std::process::id()) << 32) | NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn timeout() -> ttrpc::context::Context {
    with_timeout(30_000_000_000)
}

pub(crate) struct Agent {
    pub(crate) client: AgentClient,
    /// `None` in a guest.
    pub(crate) host: Option<Host>,
}

pub(crate) struct Host {
    _process: Running,
    dir: tempfile::TempDir,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) fn in_guest() -> bool {
    std::env::var_os("HULL_TEST_GUEST").is_some()
}

/// The guest's agent; `None`, with the reason printed, elsewhere.
pub(crate) async fn guest_agent() -> Option<Agent> {
    if !in_guest() {
        eprintln!("skipped: needs the guest's kernel (agent/tests/guest)");
        return None;
    }
    agent().await
}

/// A process that ends with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process left behind.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: u32,
}

pub(crate) struct Wanted {
    pub(crate) spec: Value,
    pub(crate) user: &'static str,
    pub(crate) groups: Vec<String>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) files: Vec<InlineFile>,
    /// With the writable layer, of which a guest has one.
    pub(crate) writable: bool,
    pub(crate) init: bool,
}

pub(crate) fn process(args: &[&str]) -> Value {
    json!({
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": args,
        "env": ["PATH=/bin:/sbin"],
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"],
            "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"]
        }
    })
}

pub(crate) fn wanted(args: &[&str]) -> Wanted {
    let spec = json!({
        "ociVersion": "1.1.0",
        "root": { "path": "rootfs" },
        "hostname": "box",
        "process": process(args),
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" }, { "type": "network" }
            ],
            "maskedPaths": ["/proc/timer_stats", "/proc/keys", "/proc/scsi"],
            "readonlyPaths": ["/proc/fs", "/proc/sys", "/proc/nope"]
        }
    });
    Wanted {
        spec,
        user: "",
        groups: Vec::new(),
        stdin: Vec::new(),
        files: Vec::new(),
        writable: false,
        init: false,
    }
}

pub(crate) fn shell(script: &str) -> Wanted {
    wanted(&["sh", "-c", script])
}

/// An image: busybox with its usual names, and a user.
pub(crate) fn make_root(root: &Path, busybox: &Path) {
    for dir in ["bin", "etc", "home/app", "tmp", "lib"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in [
        "sh",
        "cat",
        "echo",
        "id",
        "ls",
        "pwd",
        "sleep",
        "stat",
        "hostname",
        "mount",
        "head",
        "sha256sum",
        "touch",
        "kill",
        "printf",
        "grep",
        "true",
        "tty",
        "stty",
        "df",
        "ps",
        "env",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(
        root.join("etc/group"),
        "root:x:0:\ndock:x:999:app\napp:x:1000:\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/plain"), "x").unwrap();
    symlink("/run/dns/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    symlink("/proc", root.join("link")).unwrap();
    std::fs::write(root.join("bin/lost"), "#!/no/such/interpreter\n").unwrap();
    use std::os::unix::fs::{chown, PermissionsExt};
    let mode = |path: &str, mode| {
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("bin/lost", 0o755);
    mode("home/app", 0o700);
    chown(root.join("home/app"), Some(1000), Some(1000)).unwrap();
}

pub(crate) async fn agent() -> Option<Agent> {
    if in_guest() {
        let client = connect("vsock://1:1024").await;
        return Some(Agent { client, host: None });
    }
    let busybox = PathBuf::from("/usr/bin/busybox");
    if !rustix::process::geteuid().is_root() || !busybox.exists() {
        eprintln!("skipped: needs root and /usr/bin/busybox");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    make_root(&dir.path().join("root"), &busybox);
    // The mounts that the agent finds in a guest, in a namespace that ends with it.
    let script = r#"
        set -e
        mkdir -p /run /sys/fs/cgroup
        mount -t tmpfs run /run
        mkdir -p /run/hull/shared/image
        mount --bind "$1/root" /run/hull/shared/image
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        exec "$2" serve "$1"
    "#;
    let process = Running(
        Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(dir.path())
            .arg(env!("CARGO_BIN_EXE_hull-agent"))
            .spawn()
            .unwrap(),
    );
    let address = format!("unix://{}", dir.path().join("agent.sock").display());
    Some(Agent {
        client: connect(&address).await,
        host: Some(Host {
            _process: process,
            dir,
        }),
    })
}

pub(crate) async fn connect(address: &str) -> AgentClient {
    for _ in 0..500 {
        if let Ok(client) = ttrpc::r#async::Client::connect(address).await {
            return AgentClient::new(client);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the agent did not listen");
}

impl Agent {
    pub(crate) async fn stream(&self, token: u64) -> Box<dyn Stream> {
        let mut stream: Box<dyn Stream> = match &self.host {
            Some(host) => {
                let path = host.dir.path().join("stdio.sock");
                Box::new(UnixStream::connect(path).await.unwrap())
            }
            None => {
                let address = VsockAddr::new(VMADDR_CID_LOCAL, hull_protocol::STDIO_PORT);
                Box::new(VsockStream::connect(address).await.unwrap())
            }
        };
        let preamble = hull_protocol::stdio_preamble(token);
        stream.write_all(&preamble).await.unwrap();
        stream
    }

    pub(crate) fn rootfs(&self, writable: bool) -> Rootfs {
        let source = match self.host {
            Some(_) => rootfs::Source::Share(SharedDirectory {
                tag: "image".into(),
                ..Default::default()
            }),
            None => rootfs::Source::Block(BlockRootfs {
                image_slot: 0,
                image_fs_type: "erofs".into(),
                scratch_slot: writable.then_some(1),
                scratch_fs_type: "ext4".into(),
                ..Default::default()
            }),
        };
        Rootfs {
            source: Some(source),
            ..Default::default()
        }
    }

    pub(crate) async fn create(&self, wanted: &Wanted) -> ttrpc::Result<(ProcessRef, Stdio)> {
        let id = format!("test-{:x}", unique());
        let tokens = tokens();
        let request = CreateContainerRequest {
            container_id: id.clone(),
            spec: serde_json::to_vec(&wanted.spec).unwrap(),
            rootfs: protobuf::MessageField::some(self.rootfs(wanted.writable)),
            stdio: protobuf::MessageField::some(tokens.clone()),
            user: wanted.user.into(),
            additional_groups: wanted.groups.clone(),
            files: wanted.files.clone(),
            init: wanted.init,
            ..Default::default()
        };
        self.client.create_container(timeout(), &request).await?;
        let process = ProcessRef {
            container_id: id,
            ..Default::default()
        };
        Ok((process, tokens))
    }

    /// Starts a created process, feeds and drains it, and waits for it.
    pub(crate) async fn finish(
        &self,
        process: &ProcessRef,
        tokens: &Stdio,
        stdin: &[u8],
    ) -> ttrpc::Result<Outcome> {
        let mut input = self.stream(tokens.stdin).await;
        let mut output = self.stream(tokens.stdout).await;
        let mut errors = self.stream(tokens.stderr).await;
        self.client.start_process(timeout(), process).await?;
        let feed = async {
            let _ = input.write_all(stdin).await;
            let _ = input.shutdown().await;
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (_, out, err, exit) = tokio::join!(
            feed,
            output.read_to_end(&mut stdout),
            errors.read_to_end(&mut stderr),
            self.client.wait_process(timeout(), process)
        );
        out.unwrap();
        err.unwrap();
        Ok(Outcome {
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            status: exit?.exit_status,
        })
    }

    pub(crate) async fn run(&self, wanted: Wanted) -> ttrpc::Result<Outcome> {
        let (process, tokens) = self.create(&wanted).await?;
        let outcome = self.finish(&process, &tokens, &wanted.stdin).await;
        let _ = self.client.wait_process(timeout(), &process).await;
        self.client.delete_process(timeout(), &process).await?;
        outcome
    }

    pub(crate) async fn exec(
        &self,
        init: &ProcessRef,
        process: Value,
        user: &str,
    ) -> ttrpc::Result<(ProcessRef, Stdio)> {
        let exec = ProcessRef {
            container_id: init.container_id.clone(),
            exec_id: format!("exec-{}", unique()),
            ..Default::default()
        };
        let tokens = tokens();
        let request = ExecProcessRequest {
            container_id: exec.container_id.clone(),
            exec_id: exec.exec_id.clone(),
            process: serde_json::to_vec(&process).unwrap(),
            stdio: protobuf::MessageField::some(tokens.clone()),
            user: user.into(),
            ..Default::default()
        };
        self.client.exec_process(timeout(), &request).await?;
        Ok((exec, tokens))
    }

    pub(crate) async fn run_exec(
        &self,
        init: &ProcessRef,
        args: &[&str],
        user: &str,
    ) -> ttrpc::Result<Outcome> {
        let (exec, tokens) = self.exec(init, process(args), user).await?;
        let outcome = self.finish(&exec, &tokens, b"").await;
        if outcome.is_ok() {
            self.client.delete_process(timeout(), &exec).await?;
        }
        outcome
    }

    /// A job on a container's files.
    pub(crate) async fn work_on_files(
        &self,
        init: &ProcessRef,
        job: FilesJob,
        stdin: &[u8],
    ) -> ttrpc::Result<Outcome> {
        let exec = ProcessRef {
            container_id: init.container_id.clone(),
            exec_id: format!("files-{}", unique()),
            ..Default::default()
        };
        let tokens = tokens();
        let request = ExecProcessRequest {
            container_id: exec.container_id.clone(),
            exec_id: exec.exec_id.clone(),
            process: serde_json::to_vec(&process(&["files"])).unwrap(),
            stdio: protobuf::MessageField::some(tokens.clone()),
            files: protobuf::MessageField::some(job),
            ..Default::default()
        };
        self.client.exec_process(timeout(), &request).await?;
        let outcome = self.finish(&exec, &tokens, stdin).await;
        self.client.delete_process(timeout(), &exec).await?;
        outcome
    }

    pub(crate) async fn signal(&self, process: &ProcessRef, signal: u32) {
        let request = SignalProcessRequest {
            container_id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            signal,
            ..Default::default()
        };
        self.client
            .signal_process(timeout(), &request)
            .await
            .unwrap();
    }

    /// A container that stays until it is killed.
    pub(crate) async fn sleeper(&self) -> ProcessRef {
        let (process, tokens) = self.create(&shell("sleep 60")).await.unwrap();
        for token in [tokens.stdin, tokens.stdout, tokens.stderr] {
            drop(self.stream(token).await);
        }
        self.client
            .start_process(timeout(), &process)
            .await
            .unwrap();
        process
    }

    pub(crate) async fn remove(&self, process: &ProcessRef) -> u32 {
        self.signal(process, 9).await;
        let exit = self.client.wait_process(timeout(), process).await.unwrap();
        self.client
            .delete_process(timeout(), process)
            .await
            .unwrap();
        exit.exit_status
    }
}

pub(crate) fn tokens() -> Stdio {
    Stdio {
        stdin: unique(),
        stdout: unique(),
        stderr: unique(),
        ..Default::default()
    }
}

pub(crate) fn status(error: ttrpc::Error) -> (ttrpc::Code, String) {
    match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("not a status: {other}"),
    }
}
